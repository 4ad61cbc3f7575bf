/* bench_ops.c - the program kn-bench: one op of a back end over several sizes.
 *
 * kn-bench OP [-d DEVICE] [-t THREADS] [-p f32|bf16] [-r REPEATS] [-n PART] [-j FILE [-c COMMIT]]
 * -n runs only those whose printed name contains PART; -j writes the figures as JSON, with the
 * commit that is given. Random data, one warm-up, then the best of the repeats. GFLOP/s and GB/s
 * are per second of wall clock; "per cpu-s" divides by the processor time that all threads used,
 * which a shared machine disturbs less.
 */
#include "kernels/bench/bench.h"
#include "proto/base/attr.h"
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double bench_seconds(clockid_t clock)
{
    struct timespec now;

    (void)clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void bench_die(const char *what)
{
    (void)fprintf(stderr, "kn-bench: %s\n", what);
    exit(1);
}

void *bench_alloc(struct bench *b, uint64_t bytes)
{
    void *p = b->ops->alloc(b->s, bytes);

    if (!p)
        bench_die("out of memory");
    return p;
}

struct kn_mat bench_mat(struct bench *b, enum kn_dtype t, int64_t rows, int64_t cols)
{
    struct kn_mat wide = kn_mat(malloc((size_t)(rows * cols) * 4), KN_F32, rows, cols);
    struct kn_mat m =
        kn_mat(bench_alloc(b, (uint64_t)(rows * cols) * kn_dtype_bytes(t)), t, rows, cols);
    struct kn_mat up = wide;

    if (!wide.p)
        bench_die("out of memory");
    for (int64_t i = 0; i < rows * cols; i++) {
        b->random = b->random * 6364136223846793005u + 1442695040888963407u;
        ((float *)wide.p)[i] = (float)(int32_t)(b->random >> 32) * 0x1p-31f;
    }
    up.p = bench_alloc(b, (uint64_t)(rows * cols) * 4);
    b->ops->upload(b->s, up.p, wide.p, (uint64_t)(rows * cols) * 4);
    b->ops->copy(b->s, m, up);
    b->ops->free(b->s, up.p);
    free(wide.p);
    return m;
}

void bench_run(struct bench *b, const char *what, struct bench_cost cost, bench_fn *fn, void *arg)
{
    double best = 1e30, best_cpu = 1e30;
    struct lh_err err = {0};

    if (b->only && !strstr(what, b->only))
        return;
    for (int i = 0; i <= b->repeats; i++) {
        double wall = bench_seconds(CLOCK_MONOTONIC), cpu = bench_seconds(CLOCK_PROCESS_CPUTIME_ID);

        fn(b, arg);
        if (b->ops->sync(b->s, &err) != 0)
            bench_die(err.text);
        if (i == 0)
            continue;
        cpu = bench_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
        wall = bench_seconds(CLOCK_MONOTONIC) - wall;
        best = wall < best ? wall : best;
        best_cpu = cpu < best_cpu ? cpu : best_cpu;
    }
    printf("%-44s %9.3f ms %9.3f cpu-ms", what, best * 1e3, best_cpu * 1e3);
    if (cost.flop > 0)
        printf(" %8.1f GFLOP/s %8.1f per cpu-s", cost.flop / best * 1e-9,
               cost.flop / best_cpu * 1e-9);
    else
        printf(" %8.1f GB/s %8.1f per cpu-s", cost.bytes / best * 1e-9,
               cost.bytes / best_cpu * 1e-9);
    printf("\n");
    (void)json_array_append_new(b->results, json_pack("{s:s, s:f, s:f, s:f, s:f}", "name", what,
                                                      "seconds", best, "busy_s", best_cpu, "flop",
                                                      cost.flop, "bytes", cost.bytes));
}

void bench_tell(struct bench *b, const char *what, double rate, const char *unit)
{
    if (b->only && !strstr(what, b->only))
        return;
    printf("%-44s %9.1f G%s\n", what, rate * 1e-9, unit);
    (void)json_array_append_new(
        b->results, json_pack("{s:s, s:f, s:s}", "name", what, "rate", rate, "unit", unit));
}

struct bench_matmul {
    struct kn_mat c, a, b;
    bool ta, tb;
    float beta;
};

static void bench_matmul_once(struct bench *b, void *arg)
{
    struct bench_matmul *m = arg;

    b->ops->matmul(b->s, m->c, m->a, m->ta, m->b, m->tb, 1.0f, m->beta);
}

static void bench_matmul(struct bench *b)
{
    static const struct {
        const char *name;
        int64_t M, N, K;
        bool ta, tb;
        float beta;
        bool wide;
    } size[] = {
        {"linear", 128, 576, 576, false, true, 0, false},
        {"linear", 1000, 576, 576, false, true, 0, false},
        {"linear", 2048, 576, 576, false, true, 0, false},
        {"linear", 8192, 576, 576, false, true, 0, false},
        {"k and v", 2048, 192, 576, false, true, 0, false},
        {"dX of k", 2048, 576, 192, false, false, 1, false},
        {"up", 2048, 1536, 576, false, true, 0, false},
        {"up", 8192, 1536, 576, false, true, 0, false},
        {"dX of down", 2048, 1536, 576, false, false, 0, false},
        {"down", 2048, 576, 1536, false, true, 1, false},
        {"dX of up", 2048, 576, 1536, false, false, 1, false},
        {"lora A", 2048, 8, 576, false, true, 0, false},
        {"lora B", 2048, 576, 8, false, true, 1, false},
        {"lora dA", 8, 576, 2048, true, false, 1, true},
        {"lora dB", 576, 8, 2048, true, false, 1, true},
        {"one token", 1, 1536, 576, false, true, 0, false},
        {"7B linear", 512, 4096, 4096, false, true, 0, false},
    };

    for (unsigned i = 0; i < sizeof(size) / sizeof(size[0]); i++) {
        int64_t M = size[i].M, N = size[i].N, K = size[i].K;
        struct bench_matmul m = {.ta = size[i].ta, .tb = size[i].tb, .beta = size[i].beta};
        char what[80];

        m.a = m.ta ? bench_mat(b, b->t, K, M) : bench_mat(b, b->t, M, K);
        m.b = m.tb ? bench_mat(b, b->t, N, K) : bench_mat(b, b->t, K, N);
        m.c = bench_mat(b, size[i].wide ? KN_F32 : b->t, M, N);
        (void)snprintf(what, sizeof(what), "%s %lldx%lldx%lld", size[i].name, (long long)M,
                       (long long)N, (long long)K);
        bench_run(b, what, (struct bench_cost){.flop = 2.0 * (double)M * (double)N * (double)K},
                  bench_matmul_once, &m);
        b->ops->free(b->s, m.a.p);
        b->ops->free(b->s, m.b.p);
        b->ops->free(b->s, m.c.p);
    }
}

struct bench_rows {
    struct kn_mat x, y, z, w;
    float *g, *rstd;
    int32_t *id;
    double *nll;
    int64_t C;
};

static void bench_rmsnorm_fwd(struct bench *b, void *arg)
{
    struct bench_rows *r = arg;

    b->ops->rmsnorm_fwd(b->s, r->y, r->rstd, r->x, r->g, 1e-5f);
}

static void bench_rmsnorm_bwd(struct bench *b, void *arg)
{
    struct bench_rows *r = arg;

    b->ops->rmsnorm_bwd(b->s, r->y, r->g + r->C, r->z, r->x, r->g, r->rstd);
}

static void bench_swiglu_fwd(struct bench *b, void *arg)
{
    struct bench_rows *r = arg;

    b->ops->swiglu_fwd(b->s, r->y, r->x, r->z);
}

static void bench_swiglu_bwd(struct bench *b, void *arg)
{
    struct bench_rows *r = arg;

    b->ops->swiglu_bwd(b->s, r->y, r->w, r->w, r->x, r->z);
}

static void bench_add(struct bench *b, void *arg)
{
    struct bench_rows *r = arg;

    b->ops->add(b->s, r->y, r->x, r->z);
}

static void bench_rope(struct bench *b, void *arg)
{
    struct bench_rows *r = arg;

    b->ops->rope(b->s, r->x, 64, r->w.p, r->id, false);
}

static void bench_embed_bwd(struct bench *b, void *arg)
{
    struct bench_rows *r = arg;

    b->ops->embed_bwd(b->s, r->w, r->x, r->id);
}

/* T x C of the type under test; passes counts the matrices that are read or written. w is fp32
 * where the op wants so. */
static void bench_rows_size(struct bench *b, const char *name, int64_t T, int64_t C, double passes,
                            bench_fn *fn, struct kn_mat w)
{
    struct bench_rows r = {.x = bench_mat(b, b->t, T, C),
                           .y = bench_mat(b, b->t, T, C),
                           .z = bench_mat(b, b->t, T, C),
                           .w = w.p ? w : bench_mat(b, b->t, T, C),
                           .C = C};
    struct kn_mat g = bench_mat(b, KN_F32, 2, C);
    int32_t *id = calloc((size_t)T, sizeof(*id));
    char what[80];

    if (!id)
        bench_die("out of memory");
    for (int64_t i = 0; i < T; i++)
        id[i] = (int32_t)(i * 7 % LH_MIN(C, 1024));
    r.g = g.p;
    r.rstd = bench_alloc(b, (uint64_t)T * 4);
    r.id = bench_alloc(b, (uint64_t)T * 4);
    b->ops->upload(b->s, r.id, id, (uint64_t)T * 4);
    bench_rmsnorm_fwd(b, &r); /* a sane rstd */
    (void)snprintf(what, sizeof(what), "%s %lldx%lld", name, (long long)T, (long long)C);
    bench_run(b, what,
              (struct bench_cost){.bytes = passes * (double)(T * C) * (double)kn_dtype_bytes(b->t)},
              fn, &r);
    free(id);
    b->ops->free(b->s, r.x.p), b->ops->free(b->s, r.y.p), b->ops->free(b->s, r.z.p),
        b->ops->free(b->s, r.w.p);
    b->ops->free(b->s, g.p), b->ops->free(b->s, r.rstd), b->ops->free(b->s, r.id);
}

static void bench_rows(struct bench *b)
{
    struct kn_mat none = {0};

    for (int64_t T = 512; T <= 8192; T *= 4) {
        bench_rows_size(b, "rmsnorm_fwd", T, 576, 2, bench_rmsnorm_fwd, none);
        bench_rows_size(b, "rmsnorm_bwd", T, 576, 4, bench_rmsnorm_bwd, none);
        bench_rows_size(b, "swiglu_fwd", T, 1536, 3, bench_swiglu_fwd, none);
        bench_rows_size(b, "swiglu_bwd", T, 1536, 5, bench_swiglu_bwd, none);
        bench_rows_size(b, "add", T, 576, 3, bench_add, none);
        bench_rows_size(b, "rope", T, 576, 2, bench_rope, bench_mat(b, KN_F32, T, 576));
        bench_rows_size(b, "embed_bwd", T, 576, 1, bench_embed_bwd,
                        bench_mat(b, KN_F32, 1024, 576));
    }
    bench_rows_size(b, "rmsnorm_fwd", 1001, 573, 2, bench_rmsnorm_fwd, none);
    bench_rows_size(b, "rmsnorm_fwd", 512, 4096, 2, bench_rmsnorm_fwd, none);
}

static void bench_adamw_once(struct bench *b, void *arg)
{
    struct bench_rows *r = arg;
    const struct kn_adamw h = {
        .lr = 1e-5f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .t = 3, .grad_scale = 1.0f};

    b->ops->adamw(b->s, r->x.p, r->y.p, r->z.p, r->w.p, NULL, r->x.rows * r->x.cols, &h);
}

static void bench_squares_once(struct bench *b, void *arg)
{
    struct bench_rows *r = arg;

    b->ops->sum_squares(b->s, r->nll, r->x.p, r->x.rows * r->x.cols);
}

static void bench_optim(struct bench *b)
{
    struct bench_rows r = {.x = bench_mat(b, KN_F32, 4096, 1024),
                           .y = bench_mat(b, KN_F32, 4096, 1024),
                           .z = bench_mat(b, KN_F32, 4096, 1024),
                           .w = bench_mat(b, KN_F32, 4096, 1024)};

    b->ops->fill(b->s, r.z, 0.5f); /* squares are not negative */
    r.nll = bench_alloc(b, 8);
    bench_run(b, "adamw of 4 Mi", (struct bench_cost){.bytes = 7.0 * 4096 * 1024 * 4},
              bench_adamw_once, &r);
    bench_run(b, "sum_squares of 4 Mi", (struct bench_cost){.bytes = 4096.0 * 1024 * 4},
              bench_squares_once, &r);
}

static void bench_usage(void)
{
    bench_die(
        "usage: kn-bench peak|matmul|attention|rows|loss|optim|all [-d DEVICE] [-t THREADS] [-p "
        "f32|bf16] [-r REPEATS] [-n PART] [-j FILE [-c COMMIT]]");
}

int main(int argc, char **argv)
{
    struct bench b = {.t = KN_BF16, .repeats = 5, .random = 1};
    const char *device = "cpu", *op, *file = NULL, *commit = "";
    struct lh_err err = {0};
    int threads = 1, c;

    while ((c = getopt(argc, argv, "d:t:p:r:n:j:c:")) != -1) {
        if (c == 'd')
            device = optarg;
        else if (c == 't')
            threads = atoi(optarg);
        else if (c == 'n')
            b.only = optarg;
        else if (c == 'j')
            file = optarg;
        else if (c == 'c')
            commit = optarg;
        else if (c == 'r')
            b.repeats = atoi(optarg);
        else if (c == 'p' && (strcmp(optarg, "f32") == 0 || strcmp(optarg, "bf16") == 0))
            b.t = strcmp(optarg, "f32") == 0 ? KN_F32 : KN_BF16;
        else
            bench_usage();
    }
    if (optind != argc - 1 || b.repeats < 1)
        bench_usage();
    op = argv[optind];
    if (kn_ops_for(device, &b.ops, &err) != 0 || b.ops->stream_new(threads, &b.s, &err) != 0)
        bench_die(err.text);
    b.results = json_array();
    if (strcmp(op, "peak") == 0 || strcmp(op, "all") == 0)
        bench_peak(&b);
    if (strcmp(op, "matmul") == 0 || strcmp(op, "all") == 0)
        bench_matmul(&b);
    if (strcmp(op, "attention") == 0 || strcmp(op, "all") == 0)
        bench_attention(&b);
    if (strcmp(op, "rows") == 0 || strcmp(op, "all") == 0)
        bench_rows(&b);
    if (strcmp(op, "loss") == 0 || strcmp(op, "all") == 0)
        bench_loss(&b);
    if (strcmp(op, "optim") == 0 || strcmp(op, "all") == 0)
        bench_optim(&b);
    if (file)
        bench_write(&b, file, commit, threads);
    json_decref(b.results);
    b.ops->stream_free(b.s);
    return 0;
}
