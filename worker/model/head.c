/* head.c - final norm, logits and loss; see head.h. The gradient is made where the logits are, so
 * they are computed once and stay in cache. */
#include "worker/model/head.h"
#include "proto/base/attr.h"
#include <assert.h>

static bool any_label(const int32_t *labels, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (labels[i] >= 0)
            return true;
    return false;
}

static void tile_backward(const struct device *d, const struct head *h, struct work *w,
                          struct kn_mat x, struct kn_mat dx, struct kn_mat dlogits)
{
    int64_t T = x.rows;
    struct kn_mat nf = work_mat(w, w->nf, T, w->dims.C), dnf = work_mat(w, w->dnf, T, w->dims.C);

    if (h->w->trains)
        d->ops->matmul(d->stream, kn_mat(h->w->grad, KN_F32, h->w->rows, h->w->cols), dlogits, true,
                       nf, false, 1, 1);
    d->ops->matmul(d->stream, dnf, dlogits, false, h->w->w, false, 1, 0);
    d->ops->fill(d->stream, dx, 0);
    d->ops->rmsnorm_bwd(d->stream, dx, h->norm->trains ? h->norm->grad : NULL, dnf, x, h->norm->w.p,
                        w->rstdf);
}

struct kn_mat head_logits(const struct device *d, const struct head *h, struct work *w,
                          struct kn_mat x, float eps)
{
    struct kn_mat nf = work_mat(w, w->nf, x.rows, w->dims.C);
    struct kn_mat logits = kn_mat(w->logits, KN_F32, x.rows, w->dims.V);

    assert(x.rows <= w->dims.head_tile);
    d->ops->rmsnorm_fwd(d->stream, nf, w->rstdf, x, h->norm->w.p, eps);
    d->ops->matmul(d->stream, logits, nf, false, h->w->w, true, 1, 0);
    return logits;
}

int head_loss(const struct device *d, const struct head *h, struct work *w, struct kn_mat x,
              const int32_t *labels, bool backward, float grad_scale, float eps,
              const struct head_sink *sink, struct lh_err *reterr)
{
    assert(!backward || w->dims.backward);
    for (int64_t t0 = 0; t0 < x.rows; t0 += w->dims.head_tile) {
        int64_t T = LH_MIN(w->dims.head_tile, x.rows - t0);
        struct kn_mat xt = kn_rows(x, t0, T), logits, dlogits = {0}, dx = {0};

        if (backward)
            dx = kn_rows(work_mat(w, w->dx, x.rows, w->dims.C), t0, T);
        if (!sink->fn && !any_label(labels + t0, T)) {
            if (backward)
                d->ops->fill(d->stream, dx, 0);
            continue;
        }
        logits = head_logits(d, h, w, xt, eps);
        if (sink->fn) {
            int rc = sink->fn(sink->arg, d, t0, logits, reterr);

            if (rc < 0)
                return rc;
        }
        if (backward)
            dlogits = work_mat(w, w->dlogits, T, w->dims.V);
        d->ops->cross_entropy(d->stream, w->nll + t0, dlogits, logits, w->labels + t0, grad_scale);
        if (backward)
            tile_backward(d, h, w, xt, dx, dlogits);
    }
    return 0;
}
