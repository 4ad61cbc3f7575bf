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

VEC_INLINE vf ce_exp(bool coarse, vf x)
{
    return coarse ? vf_exp2_coarse(x * (float)M_LOG2E) : vf_exp(x);
}

VEC_INLINE struct ce_row ce_sum(struct kn_mat x, int64_t r)
{
    struct ce_row row = {.max = -INFINITY, .sum = 0.0};

    for (int64_t b = 0; b < x.cols; b += CE_BLOCK) {
        int64_t end = LH_MIN(x.cols, b + CE_BLOCK), whole = b + (end - b) / VEC * VEC;
        vf max = vf_all(-INFINITY);
        vf sum = {0};
        float old = row.max;

        for (int64_t c = b; c < whole; c += VEC)
            max = vf_max(max, vf_load(x, r, c, VEC));
        if (whole < end) {
            vf v = vf_load(x, r, whole, end - whole);

            /* Lanes past the end read 0, which could exceed every logit: they repeat the first
             * instead. */
            max = vf_max(max, vf_tail(v, end - whole, v[0]));
        }
        row.max = fmaxf(old, vf_max_lane(max));
        row.sum *= old == row.max ? 1.0 : exp((double)old - (double)row.max);
        for (int64_t c = b; c < whole; c += VEC)
            sum += vf_exp(vf_load(x, r, c, VEC) - row.max);
        if (whole < end)
            sum += vf_tail(vf_exp(vf_load(x, r, whole, end - whole) - row.max), end - whole, 0.0f);
        row.sum += (double)vf_sum(sum);
    }
    return row;
}

VEC_INLINE void ce_grad(struct kn_mat d, struct kn_mat x, int64_t r, struct ce_row row, float scale)
{
    float factor = (float)((double)scale / row.sum);
    int64_t whole = x.cols / VEC * VEC;
    bool coarse = d.t == KN_BF16;

    for (int64_t c = 0; c < whole; c += VEC)
        vf_store(d, r, c, VEC, ce_exp(coarse, vf_load(x, r, c, VEC) - row.max) * factor);
    if (whole < x.cols) {
        int64_t n = x.cols - whole;

        vf_store(d, r, whole, n, ce_exp(coarse, vf_load(x, r, whole, n) - row.max) * factor);
    }
}

/* Where the types are constants the loops have no branch in them. */
VEC_INLINE void cross_entropy_rows(const struct cross_entropy_job *j, enum kn_dtype x_t,
                                   enum kn_dtype d_t, int64_t r0, int64_t r1)
{
    struct kn_mat x = j->logits, d = j->dlogits;

    x.t = x_t;
    d.t = d_t;
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

    int64_t r0 = item * j->rows.per, r1 = cpu_rows_end(j->rows, item);

    (void)thread;
    if (j->logits.t == KN_F32 && j->dlogits.t == KN_BF16) /* as the head in bf16 has it */
        cross_entropy_rows(j, KN_F32, KN_BF16, r0, r1);
    else
        cross_entropy_rows(j, j->logits.t, j->dlogits.t, r0, r1);
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
