/* cross_entropy.c - loss of each row, and its gradient (softmax - onehot) * grad_scale.
 *
 * Sums are fp32 in VEC lanes over a block, then double over the blocks. One pass finds maximum and
 * sum together: block after block that fits L1, the sum rescaled when the maximum grows. A second
 * pass writes the gradient; it may overwrite the logits, since each vector is read before it is
 * written.
 */
#include "kernels/cpu/level.h"
#include "kernels/cpu/vec.h"
#include <math.h>

#define CE_BLOCK 2048 /* logits: 8 KiB of fp32 */

struct cross_entropy_job {
    double *nll;
    struct kn_mat dlogits, logits;
    const int32_t *label;
    float grad_scale;
    struct cpu_rows rows;
};

struct ce_row {
    float max;
    double sum; /* of exp(x - max) */
};

VEC_INLINE struct ce_row ce_sum(struct kn_mat x, int64_t r)
{
    struct ce_row row = {.max = -INFINITY, .sum = 0.0};

    for (int64_t b = 0; b < x.cols; b += CE_BLOCK) {
        int64_t end = LH_MIN(x.cols, b + CE_BLOCK);
        vf max = vf_all(-INFINITY);
        vf sum = {0};
        float old = row.max;

        for (int64_t c = b; c < end; c += VEC) {
            vf v = vf_load(x, r, c, end - c);

            /* Lanes past the end read 0, which could exceed every logit: they repeat the first
             * instead. */
            max = end - c >= VEC ? vf_max(max, v) : vf_max(max, vf_tail(v, end - c, v[0]));
        }
        row.max = fmaxf(old, vf_max_lane(max));
        row.sum *= old == row.max ? 1.0 : exp((double)old - (double)row.max);
        for (int64_t c = b; c < end; c += VEC) {
            vf e = vf_exp(vf_load(x, r, c, end - c) - row.max);

            sum += end - c >= VEC ? e : vf_tail(e, end - c, 0.0f);
        }
        row.sum += (double)vf_sum(sum);
    }
    return row;
}

VEC_INLINE void ce_grad(struct kn_mat d, struct kn_mat x, int64_t r, struct ce_row row, float scale)
{
    float factor = (float)((double)scale / row.sum);

    for (int64_t c = 0; c < x.cols; c += VEC) {
        int64_t n = x.cols - c;

        vf_store(d, r, c, n, vf_exp(vf_load(x, r, c, n) - row.max) * factor);
    }
}

static void cross_entropy_rows(const struct cross_entropy_job *j, int64_t r0, int64_t r1)
{
    struct kn_mat x = j->logits, d = j->dlogits;

    for (int64_t r = r0; r < r1; r++) {
        int32_t label = j->label[r];
        struct ce_row row;
        float target, hit;

        if (label < 0) {
            j->nll[r] = 0.0;
            for (int64_t c = 0; d.p && c < d.cols; c += VEC)
                vf_store(d, r, c, d.cols - c, (vf){0});
            continue;
        }
        row = ce_sum(x, r);
        target = vf_load(x, r, label, 1)[0];
        j->nll[r] = (double)row.max + log(row.sum) - (double)target;
        if (!d.p)
            continue;
        ce_grad(d, x, r, row, j->grad_scale);
        /* p - 1 from the logit itself: the gradient just written may be rounded to bf16. */
        hit = (float)(exp((double)target - (double)row.max) / row.sum - 1.0) * j->grad_scale;
        vf_store(d, r, label, 1, vf_all(hit));
    }
}

static void cross_entropy_item(void *arg, int64_t item, int thread)
{
    const struct cross_entropy_job *j = arg;

    (void)thread;
    cross_entropy_rows(j, item * j->rows.per, cpu_rows_end(j->rows, item));
}

void cpu_cross_entropy(struct kn_stream *s, double *nll, struct kn_mat dlogits,
                       struct kn_mat logits, const int32_t *label, float grad_scale)
{
    struct kn_check ck = cpu_check(s, "cross_entropy");
    struct cross_entropy_job j = {.nll = nll,
                                  .dlogits = dlogits,
                                  .logits = logits,
                                  .label = label,
                                  .grad_scale = grad_scale,
                                  .rows = cpu_rows(logits.rows, logits.cols)};

    if (kn_check_mat(ck, "logits", logits) &&
        (!dlogits.p || kn_check_same(ck, "logits", logits, "dlogits", dlogits)) &&
        kn_check_labels(ck, label, logits.rows, logits.cols))
        pool_run(s->pool, cpu_rows_items(j.rows), cross_entropy_item, &j);
}
