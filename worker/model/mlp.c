/* mlp.c - the MLP in tiles of tokens; see mlp.h. Nothing of it outlives a tile, so its memory does
 * not grow with T. */
#include "worker/model/mlp.h"
#include "proto/base/attr.h"

/* One tile's views. */
struct tile {
    struct kn_mat n2, gate, up, h;
};

static struct kn_mat z_of(const struct work *w, const struct linear *l, int64_t T)
{
    return work_z(w, l->w->role, T, l->rank);
}

/* norm, gate, up, h of a tile of x1. */
static struct tile tile_forward(const struct device *d, const struct mlp_layer *l, struct work *w,
                                struct kn_mat x1, float eps)
{
    int64_t T = x1.rows, F = w->dims.F;
    struct tile t = {work_mat(w, w->n2, T, w->dims.C), work_mat(w, w->gate, T, F),
                     work_mat(w, w->up, T, F), work_mat(w, w->h, T, F)};

    d->ops->rmsnorm_fwd(d->stream, t.n2, w->rstd2, x1, l->norm->w.p, eps);
    linear_forward(d, &l->gate, t.gate, false, t.n2, z_of(w, &l->gate, T));
    linear_forward(d, &l->up, t.up, false, t.n2, z_of(w, &l->up, T));
    d->ops->swiglu_fwd(d->stream, t.h, t.gate, t.up);
    return t;
}

void mlp_forward(const struct device *d, const struct mlp_layer *l, struct work *w, struct kn_mat y,
                 struct kn_mat x1, float eps)
{
    for (int64_t t0 = 0; t0 < x1.rows; t0 += w->dims.mlp_tile) {
        int64_t T = LH_MIN(w->dims.mlp_tile, x1.rows - t0);
        struct device at = device_at(d, t0);
        struct tile t = tile_forward(&at, l, w, kn_rows(x1, t0, T), eps);

        d->ops->copy(d->stream, kn_rows(y, t0, T), kn_rows(x1, t0, T));
        linear_forward(&at, &l->down, kn_rows(y, t0, T), true, t.h, z_of(w, &l->down, T));
    }
}

void mlp_backward(const struct device *d, const struct mlp_layer *l, struct work *w,
                  struct kn_mat dx, struct kn_mat x1, float eps)
{
    for (int64_t t0 = 0; t0 < x1.rows; t0 += w->dims.mlp_tile) {
        int64_t T = LH_MIN(w->dims.mlp_tile, x1.rows - t0);
        struct kn_mat x = kn_rows(x1, t0, T), dy = kn_rows(dx, t0, T);
        struct kn_mat dh = work_mat(w, w->dh, T, w->dims.F),
                      dn2 = work_mat(w, w->dn2, T, w->dims.C);
        struct device at = device_at(d, t0);
        struct tile t = tile_forward(&at, l, w, x, eps);

        /* The backward pass of `down` wants z of down: x A^T of h, which the forward pass of the
         * tile stops short of. */
        if (l->down.rank > 0)
            linear_down(&at, &l->down, t.h, z_of(w, &l->down, T));
        linear_backward(&at, &l->down, dh, false, dy, t.h, z_of(w, &l->down, T),
                        work_mat(w, w->dz, T, l->down.rank));
        d->ops->swiglu_bwd(d->stream, t.gate, t.up, dh, t.gate, t.up);
        linear_backward(&at, &l->gate, dn2, false, t.gate, t.n2, z_of(w, &l->gate, T),
                        work_mat(w, w->dz, T, l->gate.rank));
        linear_backward(&at, &l->up, dn2, true, t.up, t.n2, z_of(w, &l->up, T),
                        work_mat(w, w->dz, T, l->up.rank));
        d->ops->rmsnorm_bwd(d->stream, dy, l->norm->trains ? l->norm->grad : NULL, dn2, x,
                            l->norm->w.p, w->rstd2);
    }
}
