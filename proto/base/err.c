/* err.c - building error texts; see err.h. Knows nothing of who shows them. */
#include "proto/base/err.h"
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void err_vset(struct lh_err *reterr, int code, const char *pointer, const char *fmt, va_list ap)
{
    size_t used;

    assert(code < 0);
    if (!reterr)
        return;
    reterr->code = code;
    (void)snprintf(reterr->pointer, sizeof(reterr->pointer), "%s", pointer);
    (void)vsnprintf(reterr->text, sizeof(reterr->text), fmt, ap);
    used = strlen(reterr->text);
    if (code > -4000 && used < sizeof(reterr->text))
        (void)snprintf(reterr->text + used, sizeof(reterr->text) - used, ": %s", strerror(-code));
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
    char old[sizeof(reterr->text)];
    va_list ap;
    size_t used;

    if (!reterr)
        return code;
    memcpy(old, reterr->text, sizeof(old));
    va_start(ap, fmt);
    (void)vsnprintf(reterr->text, sizeof(reterr->text), fmt, ap);
    va_end(ap);
    used = strlen(reterr->text);
    if (used + 2 < sizeof(reterr->text))
        (void)snprintf(reterr->text + used, sizeof(reterr->text) - used, ": %s", old);
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
