/* mlp.c - the MLP in tiles of tokens; see mlp.h. But for gate and up of layers that keep them
 * nothing outlives a tile, so its memory does not grow with T. */
#include "worker/model/mlp.h"
#include "proto/base/attr.h"

/* One tile's views: rows of what the layer keeps, or the room of one tile. */
struct tile {
    struct kn_mat n2, gate, up, h, z_gate, z_up, z_down;
};

static struct tile tile_at(const struct work *w, const struct mlp_layer *l, int64_t t0, int64_t T)
{
    int64_t from = w->room.kept & 1u << WORK_KEEP_GATES ? t0 : 0, F = w->dims.F;

    return (struct tile){
        .n2 = work_mat(w, w->n2, T, w->dims.C),
        .gate = kn_rows(work_mat(w, w->room.gate, from + T, F), from, T),
        .up = kn_rows(work_mat(w, w->room.up, from + T, F), from, T),
        .h = work_mat(w, w->h, T, F),
        .z_gate = kn_rows(work_z(w, &l->gate, from + T), from, T),
        .z_up = kn_rows(work_z(w, &l->up, from + T), from, T),
        .z_down = kn_rows(work_z(w, &l->down, t0 + T), t0, T),
    };
}

static void make_gates(const struct device *d, const struct mlp_layer *l, const struct tile *t)
{
    linear_forward(d, &l->gate, t->gate, false, t->n2, t->z_gate);
    linear_forward(d, &l->up, t->up, false, t->n2, t->z_up);
}

void mlp_forward(const struct device *d, const struct mlp_layer *l, struct work *w, struct kn_mat y,
                 struct kn_mat x1, float eps)
{
    for (int64_t t0 = 0; t0 < x1.rows; t0 += w->dims.mlp_tile) {
        int64_t T = LH_MIN(w->dims.mlp_tile, x1.rows - t0);
        struct kn_mat x = kn_rows(x1, t0, T), to = kn_rows(y, t0, T);
        struct device at = device_at(d, t0);
        struct tile t = tile_at(w, l, t0, T);

        d->ops->rmsnorm_fwd(d->stream, t.n2, w->rstd2, x, l->norm->w.p, eps);
        make_gates(&at, l, &t);
        d->ops->swiglu_fwd(d->stream, t.h, t.gate, t.up);
        d->ops->copy(d->stream, to, x);
        linear_forward(&at, &l->down, to, true, t.h, t.z_down);
    }
}

static void tile_backward(const struct device *d, const struct mlp_layer *l, struct work *w,
                          const struct tile *t, struct kn_mat dy)
{
    int64_t T = dy.rows;
    struct kn_mat dh = work_mat(w, w->dh, T, w->dims.F), dn2 = work_mat(w, w->dn2, T, w->dims.C);

    /* Only gradients of `down` itself take its input. */
    if (l->down.w->trains || l->down.rank > 0)
        d->ops->swiglu_fwd(d->stream, t->h, t->gate, t->up);
    linear_backward(d, &l->down, dh, false, dy, t->h, t->z_down, work_dz(w, &l->down, T));
    d->ops->swiglu_bwd(d->stream, t->gate, t->up, dh, t->gate, t->up);
    linear_backward(d, &l->gate, dn2, false, t->gate, t->n2, t->z_gate, work_dz(w, &l->gate, T));
    linear_backward(d, &l->up, dn2, true, t->up, t->n2, t->z_up, work_dz(w, &l->up, T));
}

void mlp_backward(const struct device *d, const struct mlp_layer *l, struct work *w,
                  struct kn_mat dx, struct kn_mat x1, float eps)
{
    for (int64_t t0 = 0; t0 < x1.rows; t0 += w->dims.mlp_tile) {
        int64_t T = LH_MIN(w->dims.mlp_tile, x1.rows - t0);
        struct kn_mat x = kn_rows(x1, t0, T), dy = kn_rows(dx, t0, T);
        struct device at = device_at(d, t0);
        struct tile t = tile_at(w, l, t0, T);

        d->ops->rmsnorm_fwd(d->stream, t.n2, w->rstd2, x, l->norm->w.p, eps);
        if (!(w->room.kept & 1u << WORK_KEEP_GATES))
            make_gates(&at, l, &t);
        tile_backward(&at, l, w, &t, dy);
        d->ops->rmsnorm_bwd(d->stream, dy, l->norm->trains ? l->norm->grad : NULL,
                            work_mat(w, w->dn2, T, w->dims.C), x, l->norm->w.p, w->rstd2);
    }
}
