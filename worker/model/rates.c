/* rates.c - short measurements of a back end's ops; see rates.h. */
#include "worker/model/rates.h"
#include <errno.h>
#include <math.h>
#include <time.h>

#define ROWS 1024             /* tokens of a product and of attention, at most */
#define PRODUCT_FLOPS_MAX 4e9 /* of one product: 20 ms where a core does 200 GFLOP/s */
#define COPY_BYTES ((uint64_t)32 << 20)

/* One measurement: its operands lie in one block. */
struct probe {
    const struct kn_ops *ops;
    struct kn_stream *stream;
    struct kn_mat a, b, c;         /* of a product; of a copy a and c */
    struct kn_mat q, k, v, o, d_o; /* of attention, with gradients in dq, dk, dv */
    struct kn_mat dq, dk, dv;
    float *lse;
    struct kn_segments seg;
    int64_t H, KV, D;
    int threads;
};

static void run_product(const struct probe *p)
{
    p->ops->matmul(p->stream, p->c, p->a, false, p->b, true, 1, 0);
}

static void run_copy(const struct probe *p)
{
    p->ops->copy(p->stream, p->c, p->a);
}

static void run_attention(const struct probe *p)
{
    p->ops->attention_fwd(p->stream, p->o, p->lse, p->q, p->k, p->v, &p->seg, p->H, p->KV, p->D,
                          (float)(1 / sqrt((double)p->D)));
}

static void run_attention_bwd(const struct probe *p)
{
    p->ops->attention_bwd(p->stream, p->dq, p->dk, p->dv, p->d_o, p->q, p->k, p->v, p->o, p->lse,
                          &p->seg, p->H, p->KV, p->D, (float)(1 / sqrt((double)p->D)));
}

/* Processor time of all threads of this process. */
static double cpu_seconds(void)
{
    struct timespec t = {0};

    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Work a second: the fastest run of as many as RATES_MS holds, after one that warms up. */
static int measure(const struct probe *p, void (*fn)(const struct probe *), double work,
                   double *ret_rate, struct lh_err *reterr)
{
    double best = 1e9, spent = 0;
    int rc = 0;

    for (int i = 0; rc == 0 && (i < 3 || spent < RATES_MS * 1e-3 * p->threads); i++) {
        double began = cpu_seconds(), took;

        fn(p);
        rc = p->ops->sync(p->stream, reterr);
        took = fmax(cpu_seconds() - began, 1e-9);
        if (i > 0)
            best = fmin(best, took);
        spent += took;
    }
    if (rc == 0)
        *ret_rate = work * p->threads / best;
    return rc;
}

/* A matrix of ones in the block, whose next free byte is *at. */
static struct kn_mat take(const struct probe *p, char **at, enum kn_dtype t, int64_t rows,
                          int64_t cols)
{
    struct kn_mat x = kn_mat(*at, t, rows, cols);

    *at += ((uint64_t)(rows * cols) * kn_dtype_bytes(t) + PLAN_ALIGN - 1) / PLAN_ALIGN * PLAN_ALIGN;
    p->ops->fill(p->stream, x, 1);
    return x;
}

static int probe_product(struct probe *p, const struct dims *d, char *block, struct rates *r,
                         struct lh_err *reterr)
{
    double row = 2 * (double)d->C * (double)d->F;
    int64_t rows = LH_MIN(d->T, LH_MAX((int64_t)(PRODUCT_FLOPS_MAX / row), (int64_t)64));

    rows = LH_MIN(rows, (int64_t)ROWS);
    p->a = take(p, &block, d->dtype, rows, d->C);
    p->b = take(p, &block, d->dtype, d->F, d->C);
    p->c = take(p, &block, d->dtype, rows, d->F);
    return measure(p, run_product, row * (double)rows, &r->product, reterr);
}

static int probe_copy(struct probe *p, char *block, struct rates *r, struct lh_err *reterr)
{
    int64_t n = (int64_t)(COPY_BYTES / 1024 / sizeof(float));

    p->a = take(p, &block, KN_F32, n, 1024);
    p->c = take(p, &block, KN_F32, n, 1024);
    return measure(p, run_copy, 2.0 * (double)COPY_BYTES, &r->bytes, reterr);
}

static int64_t attention_rows(const struct dims *d, int64_t group)
{
    return LH_MIN(LH_MIN(d->T, d->positions),
                  LH_MIN(group > 0 ? group : (int64_t)ROWS, (int64_t)ROWS));
}

static int probe_attention(struct probe *p, const struct dims *d, int64_t group, char *block,
                           struct rates *r, struct lh_err *reterr)
{
    int64_t n = attention_rows(d, group), Q = d->H * d->D, K = d->KV * d->D;
    struct kn_segments_spec spec = {.rows = 1, .row_tokens = n, .heads = d->H};
    double flops = 2 * (double)Q * (double)n * (double)(n + 1);
    int rc = kn_segments_init(&spec, &p->seg, reterr);

    if (rc < 0)
        return rc;
    p->H = d->H;
    p->KV = d->KV;
    p->D = d->D;
    p->q = take(p, &block, d->dtype, n, Q);
    p->k = take(p, &block, d->dtype, n, K);
    p->v = take(p, &block, d->dtype, n, K);
    p->o = take(p, &block, d->dtype, n, Q);
    p->d_o = take(p, &block, d->dtype, n, Q);
    p->dq = take(p, &block, d->dtype, n, Q);
    p->dk = take(p, &block, d->dtype, n, K);
    p->dv = take(p, &block, d->dtype, n, K);
    p->lse = take(p, &block, KN_F32, d->H, n).p;
    rc = measure(p, run_attention, flops, &r->attention, reterr);
    r->attention_bwd = r->attention;
    if (rc == 0 && d->backward)
        rc = measure(p, run_attention_bwd, 2.5 * flops, &r->attention_bwd, reterr);
    kn_segments_release(&p->seg);
    return rc;
}

/* Enough for any of the probes. */
static uint64_t block_bytes(const struct dims *d)
{
    uint64_t rows = ROWS, F = (uint64_t)d->F, C = (uint64_t)d->C;
    uint64_t heads = (uint64_t)((d->H * 4 + d->KV * 4) * d->D + d->H);
    uint64_t product = (rows * C + F * C + rows * F) * sizeof(float);

    return LH_MAX(LH_MAX(product, rows * heads * sizeof(float)), 2 * COPY_BYTES) + 16 * PLAN_ALIGN;
}

int rates_measure(const struct llama *m, const struct kn_ops *ops, int threads, int64_t group,
                  struct rates *ret_rates, struct lh_err *reterr)
{
    struct probe p = {.ops = ops, .threads = threads};
    struct rates r = {0};
    char *block = NULL;
    int rc = ops->stream_new(threads, &p.stream, reterr);

    if (rc < 0)
        return rc;
    block = ops->alloc(p.stream, block_bytes(&m->dims));
    if (!block)
        rc = lh_err_set(reterr, -ENOMEM, "memory for a measurement");
    if (rc == 0)
        rc = probe_product(&p, &m->dims, block, &r, reterr);
    if (rc == 0)
        rc = probe_attention(&p, &m->dims, group, block, &r, reterr);
    if (rc == 0)
        rc = probe_copy(&p, block, &r, reterr);
    if (block)
        ops->free(p.stream, block);
    ops->stream_free(p.stream);
    if (rc == 0)
        *ret_rates = r;
    return rc;
}

double rates_seconds(const struct rates *r, const struct llama_work *work)
{
    return work->products / r->product + work->attention / r->attention +
           work->attention_bwd / r->attention_bwd + work->bytes / r->bytes;
}
