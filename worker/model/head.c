/* head.c - final norm, logits and loss; see head.h. In training nobody looks at logits: the loss
 * and the gradient of a tile come out of one op. */
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

/* d: the gradient of the logits, transposed. */
static void tile_backward(const struct device *d, const struct head *h, struct work *w,
                          struct kn_mat x, struct kn_mat dx, struct kn_mat dlogits)
{
    int64_t T = x.rows;
    struct kn_mat nf = work_mat(w, w->nf, T, w->dims.C), dnf = work_mat(w, w->dnf, T, w->dims.C);

    if (h->w->trains)
        d->ops->matmul(d->stream, kn_mat(h->w->grad, KN_F32, h->w->rows, h->w->cols), dlogits,
                       false, nf, false, 1, 1);
    d->ops->matmul(d->stream, dnf, dlogits, true, h->w->w, false, 1, 0);
    d->ops->fill(d->stream, dx, 0);
    d->ops->rmsnorm_bwd(d->stream, dx, h->norm->trains ? h->norm->grad : NULL, dnf, x, h->norm->w.p,
                        w->rstdf);
}

struct kn_mat head_logits(const struct device *d, const struct head *h, struct work *w,
                          struct kn_mat x, float eps)
{
    struct kn_mat nf = work_mat(w, w->nf, x.rows, w->dims.C);
    struct kn_mat logits = kn_mat(w->logits, KN_F32, x.rows, w->dims.V);

    assert(x.rows <= w->dims.logits_tile);
    d->ops->rmsnorm_fwd(d->stream, nf, w->rstdf, x, h->norm->w.p, eps);
    d->ops->matmul(d->stream, logits, nf, false, h->w->w, true, 1, 0);
    return logits;
}

/* Shows the logits of a tile that begins at token t0. */
static int show(const struct device *d, const struct head *h, struct work *w, struct kn_mat x,
                int64_t t0, float eps, const struct head_sink *sink, struct lh_err *reterr)
{
    int rc = 0;

    for (int64_t t = 0; t < x.rows && rc >= 0; t += w->dims.logits_tile) {
        int64_t T = LH_MIN(w->dims.logits_tile, x.rows - t);

        rc = sink->fn(sink->arg, d, t0 + t, head_logits(d, h, w, kn_rows(x, t, T), eps), reterr);
    }
    return rc;
}

int head_loss(const struct device *d, const struct head *h, struct work *w, struct kn_mat x,
              const int32_t *labels, bool backward, float grad_scale, float eps,
              const struct head_sink *sink, struct lh_err *reterr)
{
    assert(!backward || w->dims.backward);
    for (int64_t t0 = 0; t0 < x.rows; t0 += w->dims.head_tile) {
        int64_t T = LH_MIN(w->dims.head_tile, x.rows - t0);
        struct kn_mat xt = kn_rows(x, t0, T), nf = work_mat(w, w->nf, T, w->dims.C);
        struct kn_mat dlogits = {0}, dx = {0};

        if (backward)
            dx = kn_rows(work_mat(w, w->dx, x.rows, w->dims.C), t0, T);
        if (sink->fn) {
            int rc = show(d, h, w, xt, t0, eps, sink, reterr);

            if (rc < 0)
                return rc;
        }
        if (!any_label(labels + t0, T)) {
            if (backward)
                d->ops->fill(d->stream, dx, 0);
            continue;
        }
        if (backward)
            dlogits = work_mat(w, w->dlogits, w->dims.V, T);
        d->ops->rmsnorm_fwd(d->stream, nf, w->rstdf, xt, h->norm->w.p, eps);
        d->ops->cross_entropy(d->stream, w->nll + t0, dlogits, nf, h->w->w, w->labels + t0,
                              grad_scale);
        if (backward)
            tile_backward(d, h, w, xt, dx, dlogits);
    }
    return 0;
}
