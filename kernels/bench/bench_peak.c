/* bench_peak.c - what the machine can do at most: the denominators of all shares. */
#include "kernels/bench/bench.h"
#include "kernels/profile.h"
#include <string.h>

#define PRODUCT_N 2048
#define COPY_ROWS                                                                                  \
    65536 /* of 1024 fp32: 256 MiB to and fro each, beyond all caches but the largest */

struct peak {
    struct kn_mat a, b, c;
};

static void peak_product(struct bench *b, void *arg)
{
    struct peak *p = arg;

    b->ops->matmul(b->s, p->c, p->a, false, p->b, true, 1, 0);
}

static void peak_copy(struct bench *b, void *arg)
{
    struct peak *p = arg;

    b->ops->copy(b->s, p->c, p->a);
}

static void peak_free(struct bench *b, struct peak *p)
{
    b->ops->free(b->s, p->a.p);
    b->ops->free(b->s, p->b.p);
    b->ops->free(b->s, p->c.p);
}

void bench_peak(struct bench *b)
{
    const enum kn_dtype types[] = {KN_F32, KN_BF16};
    static const char *const registers[] = {"registers f32", "registers bf16"};
    static const char *const products[] = {"product f32 2048x2048x2048",
                                           "product bf16 2048x2048x2048"};
    double n = PRODUCT_N, bytes = 2.0 * COPY_ROWS * 1024 * sizeof(float);
    struct peak p;

    for (int i = 0; i < 2; i++) {
        if (strcmp(b->ops->name, "cpu") == 0)
            bench_tell(b, registers[i], kn_cpu_peak(types[i]), "FLOP/s a core");
        p = (struct peak){.a = bench_mat(b, types[i], PRODUCT_N, PRODUCT_N),
                          .b = bench_mat(b, types[i], PRODUCT_N, PRODUCT_N),
                          .c = bench_mat(b, types[i], PRODUCT_N, PRODUCT_N)};
        bench_run(b, products[i], (struct bench_cost){.flop = 2 * n * n * n}, peak_product, &p);
        peak_free(b, &p);
    }
    p = (struct peak){.a = bench_mat(b, KN_F32, COPY_ROWS, 1024),
                      .b = bench_mat(b, KN_F32, 1, 1),
                      .c = bench_mat(b, KN_F32, COPY_ROWS, 1024)};
    bench_run(b, "copy of 256 MiB", (struct bench_cost){.bytes = bytes}, peak_copy, &p);
    peak_free(b, &p);
}
