/* attention.c - the attention half of a layer, forward and backward; see attention.h. */
#include "worker/model/attention.h"
#include <math.h>

static struct kn_mat z_of(const struct work *w, const struct linear *l, int64_t T)
{
    return work_z(w, l->w->role, T, l->rank);
}

void attention_forward(const struct device *d, const struct attention_layer *l, struct work *w,
                       const struct attention_view *a, struct kn_mat x)
{
    const struct dims *n = &w->dims;
    int64_t T = a->T, H = n->H, KV = n->KV, D = n->D;
    struct kn_mat n1 = work_mat(w, w->n1, T, n->C), q = work_mat(w, w->q, T, H * D);
    struct kn_mat k = work_mat(w, w->k, T, KV * D), v = work_mat(w, w->v, T, KV * D);
    struct kn_mat o = work_mat(w, w->o, T, H * D), x1 = work_mat(w, w->x1, T, n->C);

    d->ops->rmsnorm_fwd(d->stream, n1, w->rstd1, x, l->norm->w.p, a->eps);
    linear_forward(d, &l->q, q, false, n1, z_of(w, &l->q, T));
    linear_forward(d, &l->k, k, false, n1, z_of(w, &l->k, T));
    linear_forward(d, &l->v, v, false, n1, z_of(w, &l->v, T));
    d->ops->rope(d->stream, q, D, w->cos_sin, w->pos, false);
    d->ops->rope(d->stream, k, D, w->cos_sin, w->pos, false);
    d->ops->attention_fwd(d->stream, o, w->lse, q, k, v, a->seg, H, KV, D,
                          (float)(1 / sqrt((double)D)));
    d->ops->copy(d->stream, x1, x);
    linear_forward(d, &l->o, x1, true, o, z_of(w, &l->o, T));
}

void attention_forward_cached(const struct device *d, const struct attention_layer *l,
                              struct work *w, const struct attention_past *a, struct kn_mat x)
{
    const struct dims *n = &w->dims;
    int64_t T = a->T, H = n->H, KV = n->KV, D = n->D;
    struct kn_mat n1 = work_mat(w, w->n1, T, n->C), q = work_mat(w, w->q, T, H * D);
    struct kn_mat k = kn_rows(a->k, a->q0, T), v = kn_rows(a->v, a->q0, T);
    struct kn_mat o = work_mat(w, w->o, T, H * D), x1 = work_mat(w, w->x1, T, n->C);

    d->ops->rmsnorm_fwd(d->stream, n1, w->rstd1, x, l->norm->w.p, a->eps);
    linear_forward(d, &l->q, q, false, n1, z_of(w, &l->q, T));
    linear_forward(d, &l->k, k, false, n1, z_of(w, &l->k, T));
    linear_forward(d, &l->v, v, false, n1, z_of(w, &l->v, T));
    d->ops->rope(d->stream, q, D, w->cos_sin, w->pos, false);
    d->ops->rope(d->stream, k, D, w->cos_sin, w->pos, false);
    d->ops->attention_cached(d->stream, o, q, a->k, a->v, a->q0, H, KV, D,
                             (float)(1 / sqrt((double)D)));
    d->ops->copy(d->stream, x1, x);
    linear_forward(d, &l->o, x1, true, o, z_of(w, &l->o, T));
}

void attention_backward(const struct device *d, const struct attention_layer *l, struct work *w,
                        const struct attention_view *a, struct kn_mat x)
{
    const struct dims *n = &w->dims;
    int64_t T = a->T, H = n->H, KV = n->KV, D = n->D;
    struct kn_mat n1 = work_mat(w, w->n1, T, n->C), q = work_mat(w, w->q, T, H * D);
    struct kn_mat k = work_mat(w, w->k, T, KV * D), v = work_mat(w, w->v, T, KV * D);
    struct kn_mat o = work_mat(w, w->o, T, H * D), d_o = work_mat(w, w->d_o, T, H * D);
    struct kn_mat dq = work_mat(w, w->dq, T, H * D), dk = work_mat(w, w->dk, T, KV * D);
    struct kn_mat dv = work_mat(w, w->dv, T, KV * D), dn1 = work_mat(w, w->dn1, T, n->C);
    struct kn_mat dx = work_mat(w, w->dx, T, n->C);

    linear_backward(d, &l->o, d_o, false, dx, o, z_of(w, &l->o, T),
                    work_mat(w, w->dz, T, l->o.rank));
    d->ops->attention_bwd(d->stream, dq, dk, dv, d_o, q, k, v, o, w->lse, a->seg, H, KV, D,
                          (float)(1 / sqrt((double)D)));
    d->ops->rope(d->stream, dq, D, w->cos_sin, w->pos, true);
    d->ops->rope(d->stream, dk, D, w->cos_sin, w->pos, true);
    linear_backward(d, &l->q, dn1, false, dq, n1, z_of(w, &l->q, T),
                    work_mat(w, w->dz, T, l->q.rank));
    linear_backward(d, &l->k, dn1, true, dk, n1, z_of(w, &l->k, T),
                    work_mat(w, w->dz, T, l->k.rank));
    linear_backward(d, &l->v, dn1, true, dv, n1, z_of(w, &l->v, T),
                    work_mat(w, w->dz, T, l->v.rank));
    d->ops->rmsnorm_bwd(d->stream, dx, l->norm->trains ? l->norm->grad : NULL, dn1, x, l->norm->w.p,
                        w->rstd1);
}
