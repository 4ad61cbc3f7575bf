/* linear.c - linear layers with LoRA; see linear.h. */
#include "worker/model/linear.h"
#include "proto/base/attr.h"
#include <assert.h>

/* A tile of dropout: some tokens, and room for what is left of them. */
struct drop_tile {
    int64_t t0, T;
    struct kn_dropout what;
    struct kn_mat room;
};

static struct drop_tile tile_at(const struct device *d, const struct linear *l, struct kn_mat x,
                                int64_t t0)
{
    int64_t T = LH_MIN(d->drop.room_rows, x.rows - t0);

    return (struct drop_tile){
        .t0 = t0,
        .T = T,
        .what = {.rate = d->drop.rate, .place = l->place, .key = d->drop.keys + t0},
        .room = kn_mat(d->drop.room, x.t, T, x.cols),
    };
}

/* z = what dropout leaves of x, times A^T. */
static void dropped_down(const struct device *d, const struct linear *l, struct kn_mat x,
                         struct kn_mat z)
{
    assert(z.cols == l->rank);
    for (int64_t t0 = 0; t0 < x.rows; t0 += d->drop.room_rows) {
        struct drop_tile t = tile_at(d, l, x, t0);

        d->ops->dropout(d->stream, t.room, kn_rows(x, t0, t.T), false, &t.what);
        d->ops->matmul(d->stream, kn_rows(z, t0, t.T), t.room, false, l->a->w, true, 1, 0);
    }
}

void linear_forward(const struct device *d, const struct linear *l, struct kn_mat y, bool add,
                    struct kn_mat x, struct kn_mat z)
{
    if (l->rank > 0 && d->drop.rate <= 0) {
        assert(z.cols == l->rank);
        d->ops->matmul_low(d->stream, y, z, x, l->w->w, l->a->w, l->b->w, true, 1, l->scale,
                           add ? 1 : 0);
        return;
    }
    d->ops->matmul(d->stream, y, x, false, l->w->w, true, 1, add ? 1 : 0);
    if (l->rank == 0)
        return;
    dropped_down(d, l, x, z);
    d->ops->matmul(d->stream, y, z, false, l->b->w, true, l->scale, 1);
}

static struct kn_mat grad_of(const struct param *p)
{
    return kn_mat(p->grad, KN_F32, p->rows, p->cols);
}

/* What the gradient of z means for A, and for x behind dropout. */
static void down_backward(const struct device *d, const struct linear *l, struct kn_mat dx,
                          struct kn_mat x, struct kn_mat dz)
{
    if (d->drop.rate <= 0) {
        if (l->a->trains)
            d->ops->matmul(d->stream, grad_of(l->a), dz, true, x, false, 1, 1);
        return;
    }
    for (int64_t t0 = 0; t0 < x.rows; t0 += d->drop.room_rows) {
        struct drop_tile t = tile_at(d, l, x, t0);
        struct kn_mat dz_tile = kn_rows(dz, t0, t.T);

        if (l->a->trains) {
            d->ops->dropout(d->stream, t.room, kn_rows(x, t0, t.T), false, &t.what);
            d->ops->matmul(d->stream, grad_of(l->a), dz_tile, true, t.room, false, 1, 1);
        }
        if (dx.p) {
            d->ops->matmul(d->stream, t.room, dz_tile, false, l->a->w, false, 1, 0);
            d->ops->dropout(d->stream, kn_rows(dx, t0, t.T), t.room, true, &t.what);
        }
    }
}

/* dx without what comes through dropout, and dz. */
static void input_backward(const struct device *d, const struct linear *l, struct kn_mat dx,
                           bool add, struct kn_mat dy, struct kn_mat dz)
{
    if (dx.p && l->rank > 0 && d->drop.rate <= 0) {
        d->ops->matmul_low(d->stream, dx, dz, dy, l->w->w, l->b->w, l->a->w, false, l->scale, 1,
                           add ? 1 : 0);
        return;
    }
    if (dx.p)
        d->ops->matmul(d->stream, dx, dy, false, l->w->w, false, 1, add ? 1 : 0);
    if (l->rank > 0)
        d->ops->matmul(d->stream, dz, dy, false, l->b->w, false, l->scale, 0);
}

void linear_backward(const struct device *d, const struct linear *l, struct kn_mat dx, bool add,
                     struct kn_mat dy, struct kn_mat x, struct kn_mat z, struct kn_mat dz)
{
    assert(l->rank == 0 || (z.cols == l->rank && dz.cols == l->rank));
    if (l->w->trains)
        d->ops->matmul(d->stream, grad_of(l->w), dy, true, x, false, 1, 1);
    input_backward(d, l, dx, add, dy, dz);
    if (l->rank == 0)
        return;
    if (l->b->trains)
        d->ops->matmul(d->stream, grad_of(l->b), dy, true, z, false, l->scale, 1);
    down_backward(d, l, dx, x, dz);
}
