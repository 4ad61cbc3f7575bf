/* bench_loss.c - the loss of a head as large as that of a small model, and the two products of its
 * gradient; for kn-bench. */
#include "kernels/bench/bench.h"
#include <stdlib.h>

struct bench_loss {
    struct kn_mat d, x, w, dw, dx;
    int32_t *label;
    double *nll;
};

static void bench_loss_once(struct bench *b, void *arg)
{
    struct bench_loss *l = arg;

    b->ops->cross_entropy(b->s, l->nll, l->d, l->x, l->w, l->label, 1e-4f);
}

static void bench_loss_dw(struct bench *b, void *arg)
{
    struct bench_loss *l = arg;

    b->ops->matmul(b->s, l->dw, l->d, false, l->x, false, 1, 1);
}

static void bench_loss_dx(struct bench *b, void *arg)
{
    struct bench_loss *l = arg;

    b->ops->matmul(b->s, l->dx, l->d, true, l->w, false, 1, 0);
}

void bench_loss(struct bench *b)
{
    const int64_t T = 1024, V = 49152, C = 576;
    struct bench_loss l = {.d = bench_mat(b, b->t, V, T),
                           .x = bench_mat(b, b->t, T, C),
                           .w = bench_mat(b, b->t, V, C),
                           .dw = bench_mat(b, KN_F32, V, C),
                           .dx = bench_mat(b, b->t, T, C)};
    struct bench_cost cost = {.flop = 2.0 * (double)T * (double)V * (double)C};
    int32_t *label = calloc((size_t)T, sizeof(*label));

    if (!label)
        bench_die("out of memory");
    for (int64_t i = 0; i < T; i++)
        label[i] = (int32_t)(i * 7919 % V);
    l.label = bench_alloc(b, (uint64_t)T * 4);
    l.nll = bench_alloc(b, (uint64_t)T * 8);
    b->ops->upload(b->s, l.label, label, (uint64_t)T * 4);
    free(label);
    bench_run(b, "cross_entropy 1024x49152x576", cost, bench_loss_once, &l);
    bench_run(b, "its dW", cost, bench_loss_dw, &l);
    bench_run(b, "its dX", cost, bench_loss_dx, &l);
    b->ops->free(b->s, l.d.p), b->ops->free(b->s, l.x.p), b->ops->free(b->s, l.w.p);
    b->ops->free(b->s, l.dw.p), b->ops->free(b->s, l.dx.p);
    b->ops->free(b->s, l.label), b->ops->free(b->s, l.nll);
}
