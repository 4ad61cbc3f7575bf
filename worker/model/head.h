/* head.h - final norm, logits and loss, in tiles of tokens: the logits of a whole micro-batch are
 * never held. */
#pragma once
#include "worker/model/work.h"

struct head {
    const struct param *norm, *w; /* w: the embedding when the head is tied */
};

/* Sees the logits of tokens [t0, t0 + logits.rows): device memory, good until it returns. */
typedef int head_logits_fn(void *arg, const struct device *d, int64_t t0, struct kn_mat logits,
                           struct lh_err *reterr);

struct head_sink {
    head_logits_fn *fn; /* NULL: nobody looks */
    void *arg;
};

/* Loss of x (T,C) against work->labels: work->nll per token. With backward the gradient of
 * grad_scale * sum(nll) is made on the way: of x into work->dx (overwritten), of norm and head
 * added to theirs. labels: the host's copy; tiles in which no token has a label are passed over
 * (their nll is not written, their gradient is 0). */
LH_MUST_CHECK int head_loss(const struct device *d, const struct head *h, struct work *w,
                            struct kn_mat x, const int32_t *labels, bool backward, float grad_scale,
                            float eps, const struct head_sink *sink, struct lh_err *reterr);

/* Logits of the rows of x, at most dims.logits_tile of them: device memory in work, good until the
 * next call.
 */
struct kn_mat head_logits(const struct device *d, const struct head *h, struct work *w,
                          struct kn_mat x, float eps);
