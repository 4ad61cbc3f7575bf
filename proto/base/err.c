/* err.c - building error texts; see err.h. Knows nothing of who shows them. */
#include "proto/base/err.h"
#include "proto/base/str.h"
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

LH_PRINTF(4, 0)
static void err_vset(struct lh_err *reterr, int code, const char *pointer, const char *fmt,
                     va_list ap)
{
    struct lh_err err = {.code = code}; /* apart: the arguments may be the old text of *reterr */
    size_t used;

    assert(code < 0);
    if (!reterr)
        return;
    (void)snprintf(err.pointer, sizeof(err.pointer), "%s", pointer);
    lh_utf8_trim(err.pointer);
    (void)vsnprintf(err.text, sizeof(err.text), fmt, ap);
    used = strlen(err.text);
    if (code > -4000)
        (void)snprintf(err.text + used, sizeof(err.text) - used, ": %s", strerror(-code));
    lh_utf8_trim(err.text);
    *reterr = err;
}

int lh_err_set(struct lh_err *reterr, int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    err_vset(reterr, code, "", fmt, ap);
    va_end(ap);
    return code;
}

int lh_err_at(struct lh_err *reterr, int code, const char *pointer, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    err_vset(reterr, code, pointer, fmt, ap);
    va_end(ap);
    return code;
}

int lh_err_prefix(struct lh_err *reterr, int code, const char *fmt, ...)
{
    char text[sizeof(reterr->text)];
    va_list ap;
    size_t used;

    if (!reterr)
        return code;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    used = strlen(text);
    (void)snprintf(text + used, sizeof(text) - used, ": %.*s", (int)(sizeof(text) - used),
                   reterr->text);
    lh_utf8_trim(text);
    memcpy(reterr->text, text, sizeof(text));
    return reterr->code;
}

const char *lh_err_name(int code)
{
    switch (code) {
    case LH_EJOB:
        return "bad_job";
    case LH_EINPUT:
        return "bad_input";
    case LH_ENONFINITE:
        return "not_finite";
    case LH_ETRYAGAIN:
        return "try_again";
    case LH_ESTOPPED:
        return "stopped";
    case LH_ENOTSUP:
        return "not_supported";
    case LH_ENOFIT:
        return "not_enough_memory";
    case LH_EINTERNAL:
        return "internal";
    case LH_ESTATE:
        return "bad_state";
    case LH_EREMOTE:
        return "remote";
    default:
        return "io";
    }
}
