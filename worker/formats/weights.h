/* weights.h - the tensors of a model on their way into a file, wherever their values come from.
 *
 * Names and layouts are Hugging Face's, as in source.h. Writers ask for rows in order, a bounded
 * number at a time, and round each value once.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <stdint.h>

/* fp32 values that a writer holds at a time, unless one row (or the rows of one head) has more. */
#define WEIGHTS_PIECE ((int64_t)1 << 21)

struct weights_entry {
    const char *name;
    int64_t rows, cols; /* cols 0: a vector of rows */
};

struct weights {
    const struct weights_entry *at;
    unsigned n;
    /* Rows [r0, r0 + rows) of tensor i. A negative result ends the writing. */
    int (*read)(void *arg, unsigned i, int64_t r0, int64_t rows, float *out, struct lh_err *reterr);
    void *arg;
};

static inline int64_t weights_cols(const struct weights_entry *e)
{
    return e->cols > 0 ? e->cols : 1;
}
