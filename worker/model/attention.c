/* attention.c - the attention half of a layer, forward and backward; see attention.h. */
#include "worker/model/attention.h"
#include <math.h>

/* q, k, v of the rows of n1, with LoRA and positions. */
static void make_qkv(const struct device *d, const struct attention_layer *l, const struct work *w,
                     struct kn_mat n1, struct kn_mat q, struct kn_mat k, struct kn_mat v)
{
    linear_forward(d, &l->q, q, false, n1, work_z(w, &l->q, n1.rows));
    linear_forward(d, &l->k, k, false, n1, work_z(w, &l->k, n1.rows));
    linear_forward(d, &l->v, v, false, n1, work_z(w, &l->v, n1.rows));
    d->ops->rope(d->stream, q, w->dims.D, w->cos_sin, w->pos, false);
    d->ops->rope(d->stream, k, w->dims.D, w->cos_sin, w->pos, false);
}

static struct wrap wrap_of(const struct work *w, const struct attention_view *a)
{
    return (struct wrap){a->rows, a->T / a->rows, a->lead, w->wrap};
}

static void make_o(const struct device *d, const struct work *w, const struct attention_view *a,
                   struct kn_mat o, struct kn_mat q, struct kn_mat k, struct kn_mat v)
{
    int64_t H = w->dims.H, KV = w->dims.KV, D = w->dims.D;
    float scale = (float)(1 / sqrt((double)D));

    if (a->lead > 0) {
        struct wrap rows = wrap_of(w, a);

        wrap_attention_fwd(d, &rows, o, w->room.lse, q, k, v, a->seg, H, KV, D, scale);
    } else {
        d->ops->attention_fwd(d->stream, o, w->room.lse, q, k, v, a->seg, H, KV, D, scale);
    }
}

static void make_x1(const struct device *d, const struct attention_layer *l, const struct work *w,
                    struct kn_mat x1, struct kn_mat x, struct kn_mat o)
{
    d->ops->copy(d->stream, x1, x);
    linear_forward(d, &l->o, x1, true, o, work_z(w, &l->o, x.rows));
}

/* n1, and what `have` (bits of enum work_keep) does not name. */
static void make(const struct device *d, const struct attention_layer *l, struct work *w,
                 const struct attention_view *a, struct kn_mat x, unsigned have)
{
    const struct work_room *r = &w->room;
    int64_t T = a->T, H = w->dims.H, KV = w->dims.KV, D = w->dims.D;
    struct kn_mat n1 = work_mat(w, w->n1, T, w->dims.C), q = work_mat(w, r->q, T, H * D);
    struct kn_mat k = work_mat(w, r->k, T, KV * D), v = work_mat(w, r->v, T, KV * D);
    struct kn_mat o = work_mat(w, r->o, T, H * D), x1 = work_mat(w, r->x1, T, w->dims.C);

    d->ops->rmsnorm_fwd(d->stream, n1, w->rstd1, x, l->norm->w.p, a->eps);
    if (!(have & 1u << WORK_KEEP_QKV))
        make_qkv(d, l, w, n1, q, k, v);
    if (!(have & 1u << WORK_KEEP_SCORES))
        make_o(d, w, a, o, q, k, v);
    if (!(have & 1u << WORK_KEEP_X1))
        make_x1(d, l, w, x1, x, o);
}

void attention_forward(const struct device *d, const struct attention_layer *l, struct work *w,
                       const struct attention_view *a, struct kn_mat x)
{
    make(d, l, w, a, x, 0);
}

void attention_again(const struct device *d, const struct attention_layer *l, struct work *w,
                     const struct attention_view *a, struct kn_mat x)
{
    make(d, l, w, a, x, w->room.kept);
}

void attention_forward_cached(const struct device *d, const struct attention_layer *l,
                              struct work *w, const struct attention_past *a, struct kn_mat x)
{
    const struct work_room *r = &w->room;
    int64_t T = a->T, H = w->dims.H, KV = w->dims.KV, D = w->dims.D;
    struct kn_mat n1 = work_mat(w, w->n1, T, w->dims.C), q = work_mat(w, r->q, T, H * D);
    struct kn_mat o = work_mat(w, r->o, T, H * D), x1 = work_mat(w, r->x1, T, w->dims.C);

    d->ops->rmsnorm_fwd(d->stream, n1, w->rstd1, x, l->norm->w.p, a->eps);
    make_qkv(d, l, w, n1, q, kn_rows(a->k, a->q0, T), kn_rows(a->v, a->q0, T));
    d->ops->attention_cached(d->stream, o, q, a->k, a->v, a->q0, H, KV, D,
                             (float)(1 / sqrt((double)D)));
    make_x1(d, l, w, x1, x, o);
}

void attention_backward(const struct device *d, const struct attention_layer *l, struct work *w,
                        const struct attention_view *a, struct kn_mat x)
{
    const struct dims *n = &w->dims;
    const struct work_room *r = &w->room;
    int64_t T = a->T, H = n->H, KV = n->KV, D = n->D;
    struct kn_mat n1 = work_mat(w, w->n1, T, n->C), q = work_mat(w, r->q, T, H * D);
    struct kn_mat k = work_mat(w, r->k, T, KV * D), v = work_mat(w, r->v, T, KV * D);
    struct kn_mat o = work_mat(w, r->o, T, H * D), d_o = work_mat(w, w->d_o, T, H * D);
    struct kn_mat dq = work_mat(w, w->dq, T, H * D), dk = work_mat(w, w->dk, T, KV * D);
    struct kn_mat dv = work_mat(w, w->dv, T, KV * D), dn1 = work_mat(w, w->dn1, T, n->C);
    struct kn_mat dx = work_mat(w, w->dx, T, n->C);
    float scale = (float)(1 / sqrt((double)D));

    linear_backward(d, &l->o, d_o, false, dx, o, work_z(w, &l->o, T), work_dz(w, &l->o, T));
    if (a->lead > 0) {
        struct wrap rows = wrap_of(w, a);

        wrap_attention_bwd(d, &rows, dq, dk, dv, d_o, q, k, v, o, r->lse, a->seg, H, KV, D, scale);
    } else {
        d->ops->attention_bwd(d->stream, dq, dk, dv, d_o, q, k, v, o, r->lse, a->seg, H, KV, D,
                              scale);
    }
    d->ops->rope(d->stream, dq, D, w->cos_sin, w->pos, true);
    d->ops->rope(d->stream, dk, D, w->cos_sin, w->pos, true);
    linear_backward(d, &l->q, dn1, false, dq, n1, work_z(w, &l->q, T), work_dz(w, &l->q, T));
    linear_backward(d, &l->k, dn1, true, dk, n1, work_z(w, &l->k, T), work_dz(w, &l->k, T));
    linear_backward(d, &l->v, dn1, true, dv, n1, work_z(w, &l->v, T), work_dz(w, &l->v, T));
    d->ops->rmsnorm_bwd(d->stream, dx, l->norm->trains ? l->norm->grad : NULL, dn1, x, l->norm->w.p,
                        w->rstd1);
}
