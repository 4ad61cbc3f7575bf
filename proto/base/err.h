/* err.h - error codes and the text that travels with them.
 *
 * Functions return 0 or a negative code. -errno and libuv's UV_* share one space; the project's own codes
 * start at -5000. The text for people travels in `struct lh_err *reterr`, always the last parameter, which
 * may be NULL. On failure outputs are untouched.
 */
#pragma once
#include "proto/base/attr.h"

enum lh_code {
    LH_EJOB = -5000,       /* the job is wrong: worker exit 64, HTTP 422 */
    LH_EINPUT = -5001,     /* an input file is wrong: worker exit 65 */
    LH_ENONFINITE = -5002, /* a loss or gradient is NaN or infinite: worker exit 86 */
    LH_ETRYAGAIN = -5003,  /* may work later (another rank or service failed): worker exit 75 */
    LH_ESTOPPED = -5004,   /* stopped on request after a good checkpoint: worker exit 85 */
    LH_ENOTSUP = -5005,    /* a known member or kind that is not built yet */
    LH_ENOFIT = -5006,     /* the plan does not fit the memory: worker exit 64 */
    LH_EINTERNAL = -5007,  /* our own mistake: worker exit 70 */
    LH_ESTATE = -5008,     /* the state directory or database cannot be used as it is */
    LH_EREMOTE = -5009,    /* a server answered with an error that will not go away */
};

struct lh_err {
    int code;
    char pointer[160]; /* JSON pointer of the member at fault, "" when there is none */
    char text[640];    /* one sentence: what is wrong, where, and the way out */
};

/* Sets *reterr (when not NULL) and returns code. code must be negative. For -errno codes the text of
 * strerror() is appended after ": ". */
int lh_err_set(struct lh_err *reterr, int code, const char *fmt, ...) LH_PRINTF(3, 4);

/* The same with a JSON pointer to the member of the job that is at fault. */
int lh_err_at(struct lh_err *reterr, int code, const char *pointer, const char *fmt, ...)
    LH_PRINTF(4, 5);

/* Puts "prefix: " before the text that is there. Returns reterr->code, or code when reterr is NULL. */
int lh_err_prefix(struct lh_err *reterr, int code, const char *fmt, ...) LH_PRINTF(3, 4);

/* Stable lower-case name of one of our codes ("bad_job", "bad_input", ...) or "io" for an errno. */
const char *lh_err_name(int code);
