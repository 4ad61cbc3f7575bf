/* adamw.c - one update of decoupled weight decay and Adam, and the sum of squares that a clip
 * needs. */
#include "kernels/cpu/level.h"
#include "kernels/cpu/vec.h"
#include <math.h>

#define ADAMW_BLOCK 16384 /* elements an item: 256 KiB of p, m, v and g */

struct adamw_job {
    float *p, *m, *v;
    const float *g;
    uint16_t *low;
    int64_t n;
    float keep, b1, b2, grad_scale, step, root, eps;
    double *partial; /* of sum_squares, one an item */
};

static double squares_block(const float *x, int64_t n)
{
    vd sum[2] = {{0}, {0}};

    for (int64_t i = 0; i < n; i += VEC) {
        vf v = vf_load_f32(x + i, n - i);
        vhalf half[2];

        /* Squared in double: 1e-30 and 1e25 are both legal gradients. */
        memcpy(half, &v, sizeof(half));
        for (int k = 0; k < 2; k++) {
            vd wide = __builtin_convertvector(half[k], vd);

            sum[k] += wide * wide;
        }
    }
    return vd_sum(sum[0], sum[1]);
}

static void squares_item(void *arg, int64_t item, int thread)
{
    const struct adamw_job *j = arg;
    int64_t i = item * ADAMW_BLOCK;

    (void)thread;
    j->partial[item] = squares_block(j->g + i, LH_MIN(j->n - i, ADAMW_BLOCK));
}

void cpu_sum_squares(struct kn_stream *s, double *ret, const float *x, int64_t n)
{
    struct adamw_job j = {.g = x, .n = n};
    int64_t items = (n + ADAMW_BLOCK - 1) / ADAMW_BLOCK;
    double sum = 0.0;

    j.partial = stream_shared(s, (uint64_t)items * sizeof(double));
    if (!j.partial)
        return;
    pool_run(s->pool, items, squares_item, &j);
    for (int64_t i = 0; i < items; i++)
        sum += j.partial[i];
    *ret = sum;
}

static void adamw_block(const struct adamw_job *j, int64_t begin, int64_t end)
{
    struct kn_mat low = kn_mat(j->low, KN_BF16, 1, j->n);

    for (int64_t i = begin; i < end; i += VEC) {
        int64_t n = end - i;
        vf g = vf_load_f32(j->g + i, n) * j->grad_scale;
        vf m = vf_load_f32(j->m + i, n), v = vf_load_f32(j->v + i, n), p = vf_load_f32(j->p + i, n);

        m = j->b1 * m + (1.0f - j->b1) * g;
        v = j->b2 * v + (1.0f - j->b2) * g * g;
        p = p * j->keep - j->step * m / (vf_sqrt(v) * j->root + j->eps);
        vf_store_f32(j->m + i, n, m);
        vf_store_f32(j->v + i, n, v);
        vf_store_f32(j->p + i, n, p);
        if (low.p)
            vf_store(low, 0, i, n, p);
    }
}

static void adamw_item(void *arg, int64_t item, int thread)
{
    const struct adamw_job *j = arg;

    (void)thread;
    adamw_block(j, item * ADAMW_BLOCK, LH_MIN(j->n, (item + 1) * ADAMW_BLOCK));
}

void cpu_adamw(struct kn_stream *s, float *p, float *m, float *v, const float *g, uint16_t *low,
               int64_t n, const struct kn_adamw *h)
{
    double correct1 = 1.0 - pow((double)h->beta1, (double)h->t),
           correct2 = 1.0 - pow((double)h->beta2, (double)h->t);
    struct adamw_job j = {
        .p = p,
        .m = m,
        .v = v,
        .g = g,
        .low = low,
        .n = n,
        .keep = (float)(1.0 - (double)h->lr * (double)h->weight_decay),
        .b1 = h->beta1,
        .b2 = h->beta2,
        .grad_scale = h->grad_scale,
        .eps = h->eps,
        .step = (float)((double)h->lr / correct1),
        .root = (float)(1.0 / sqrt(correct2)),
    };

    if (s->err.code == 0)
        pool_run(s->pool, (n + ADAMW_BLOCK - 1) / ADAMW_BLOCK, adamw_item, &j);
}
