/* linear.c - linear layers with LoRA; see linear.h. */
#include "worker/model/linear.h"
#include <assert.h>

void linear_forward(const struct device *d, const struct linear *l, struct kn_mat y, bool add,
                    struct kn_mat x, struct kn_mat z)
{
    d->ops->matmul(d->stream, y, x, false, l->w->w, true, 1, add ? 1 : 0);
    if (l->rank == 0)
        return;
    assert(z.cols == l->rank);
    d->ops->matmul(d->stream, z, x, false, l->a->w, true, 1, 0);
    d->ops->matmul(d->stream, y, z, false, l->b->w, true, l->scale, 1);
}

static struct kn_mat grad_of(const struct param *p)
{
    return kn_mat(p->grad, KN_F32, p->rows, p->cols);
}

void linear_backward(const struct device *d, const struct linear *l, struct kn_mat dx, bool add,
                     struct kn_mat dy, struct kn_mat x, struct kn_mat z, struct kn_mat dz)
{
    if (l->w->trains)
        d->ops->matmul(d->stream, grad_of(l->w), dy, true, x, false, 1, 1);
    if (dx.p)
        d->ops->matmul(d->stream, dx, dy, false, l->w->w, false, 1, add ? 1 : 0);
    if (l->rank == 0)
        return;
    assert(z.cols == l->rank);
    assert(dz.cols == l->rank);
    d->ops->matmul(d->stream, dz, dy, false, l->b->w, false, l->scale, 0);
    if (l->b->trains)
        d->ops->matmul(d->stream, grad_of(l->b), dy, true, z, false, l->scale, 1);
    if (l->a->trains)
        d->ops->matmul(d->stream, grad_of(l->a), dz, true, x, false, 1, 1);
    if (dx.p)
        d->ops->matmul(d->stream, dx, dz, false, l->a->w, false, 1, 1);
}
