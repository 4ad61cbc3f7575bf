/* bench_attention.c - attention over groups, whole rows, and heads of other numbers and sizes. */
#include "kernels/bench/bench.h"
#include <stdio.h>
#include <string.h>

struct bench_attention {
    struct kn_mat q, k, v, o, d_o, dq, dk, dv;
    float *lse;
    struct kn_segments seg;
    int64_t H, KV, D;
};

static void bench_attention_fwd_once(struct bench *b, void *arg)
{
    struct bench_attention *a = arg;

    b->ops->attention_fwd(b->s, a->o, a->lse, a->q, a->k, a->v, &a->seg, a->H, a->KV, a->D, 0.125f);
}

static void bench_attention_bwd_once(struct bench *b, void *arg)
{
    struct bench_attention *a = arg;

    b->ops->attention_bwd(b->s, a->dq, a->dk, a->dv, a->d_o, a->q, a->k, a->v, a->o, a->lse,
                          &a->seg, a->H, a->KV, a->D, 0.125f);
}

static void bench_attention_size(struct bench *b, const struct kn_segments_spec *spec, int64_t KV,
                                 int64_t D)
{
    struct bench_attention a = {.H = spec->heads, .KV = KV, .D = D};
    int64_t T = spec->rows * spec->row_tokens;
    struct kn_mat *wide[] = {&a.q, &a.o, &a.d_o, &a.dq}, *narrow[] = {&a.k, &a.v, &a.dk, &a.dv};
    struct lh_err err = {0};
    double pairs;
    char what[80];

    if (kn_segments_init(spec, &a.seg, &err) != 0)
        bench_die(err.text);
    for (int i = 0; i < 4; i++) {
        *wide[i] = bench_mat(b, b->t, T, a.H * D);
        *narrow[i] = bench_mat(b, b->t, T, KV * D);
    }
    a.lse = bench_alloc(b, (uint64_t)(a.H * T) * 4);
    pairs = (double)a.seg.shift_from * (double)kn_segments_pairs(&a.seg, 0) +
            (double)(a.H - a.seg.shift_from) * (double)kn_segments_pairs(&a.seg, 1);
    (void)snprintf(what, sizeof(what), "fwd %lldx%lld group %lld heads %lld/%lld x %lld",
                   (long long)spec->rows, (long long)spec->row_tokens, (long long)spec->group,
                   (long long)a.H, (long long)KV, (long long)D);
    bench_run(b, what, (struct bench_cost){.flop = 4.0 * pairs * (double)D},
              bench_attention_fwd_once, &a);
    memcpy(what, "bwd", 3);
    bench_attention_fwd_once(b, &a); /* o and lse, also where -n leaves the line above out */
    bench_run(b, what, (struct bench_cost){.flop = 10.0 * pairs * (double)D},
              bench_attention_bwd_once, &a);
    for (int i = 0; i < 4; i++) {
        b->ops->free(b->s, wide[i]->p);
        b->ops->free(b->s, narrow[i]->p);
    }
    b->ops->free(b->s, a.lse);
    kn_segments_release(&a.seg);
}

void bench_attention(struct bench *b)
{
    static const int64_t size[][5] = {
        /* tokens, group, H, KV, D */
        {2048, 512, 9, 3, 64},   {4096, 1024, 9, 3, 64}, {8192, 2048, 9, 3, 64},
        {16384, 4096, 9, 3, 64}, {16384, 512, 9, 3, 64}, {1000, 250, 9, 3, 64},
        {1024, 0, 9, 3, 64},     {2048, 0, 9, 3, 64},    {4096, 0, 9, 3, 64},
        {2048, 0, 4, 4, 128},    {1024, 0, 8, 1, 80}};

    for (unsigned i = 0; i < sizeof(size) / sizeof(size[0]); i++) {
        struct kn_segments_spec spec = {
            .rows = 1, .row_tokens = size[i][0], .group = size[i][1], .heads = size[i][2]};

        bench_attention_size(b, &spec, size[i][3], size[i][4]);
    }
}
