/* loss.c - the vector code of loss.h: lanes are tokens, so that nothing is ever summed across
 * lanes.
 */
#include "kernels/cpu/loss.h"
#include "kernels/cpu/level.h"
#include "kernels/cpu/vec.h"
#include <math.h>

#define LOSS_VECTORS 2 /* a line of bf16 where vectors are longest */

/* Rows of so many vectors of tokens side by side: their maxima, then their exponentials, which go
 * to d (t: its type). n: tokens from t0 on, all that the vectors hold unless there is one only. */
VEC_INLINE void loss_lanes(const struct loss_job *j, enum kn_dtype t, bool keep, int vectors,
                           int64_t b, const float *logits, int64_t ld, int64_t t0, int64_t n)
{
    struct kn_mat d = {j->d.p, t, j->d.rows, j->d.cols, j->d.ld};
    int64_t rows = loss_rows(j, b);
    vf max[LOSS_VECTORS], sum[LOSS_VECTORS] = {0};

    for (int i = 0; i < vectors; i++)
        max[i] = vf_load_f32(logits + i * VEC, n);
    for (int64_t r = 1; r < rows; r++)
        for (int i = 0; i < vectors; i++)
            max[i] = vf_max(max[i], vf_load_f32(logits + r * ld + i * VEC, n));
    for (int64_t r = 0; r < rows; r++) {
        for (int i = 0; i < vectors; i++) {
            vf e = vf_exp(vf_load_f32(logits + r * ld + i * VEC, n) - max[i]);

            sum[i] += e;
            if (keep)
                vf_store(d, b * LOSS_ROWS + r, t0 + i * VEC, n, e);
        }
    }
    for (int i = 0; i < vectors; i++) {
        vf_store_f32(j->max + b * j->x.rows + t0 + i * VEC, n, max[i]);
        vf_store_f32(j->sum + b * j->x.rows + t0 + i * VEC, n, sum[i]);
    }
}

void cpu_loss_block(const struct loss_job *j, int64_t b, const float *logits, int64_t ld,
                    int64_t t0, int64_t n)
{
    for (int64_t i = 0; i < n; i += VEC) {
        if (!j->d.p) {
            loss_lanes(j, KN_F32, false, 1, b, logits + i, ld, t0 + i, n - i);
        } else if (j->d.t == KN_BF16 && n - i >= LOSS_VECTORS * VEC) {
            loss_lanes(j, KN_BF16, true, LOSS_VECTORS, b, logits + i, ld, t0 + i, VEC);
            i += (LOSS_VECTORS - 1) * VEC;
        } else {
            loss_lanes(j, j->d.t, true, 1, b, logits + i, ld, t0 + i, n - i);
        }
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t v = j->label[t0 + i] - b * LOSS_ROWS;

        if (v >= 0 && v < loss_rows(j, b))
            j->target[t0 + i] = logits[v * ld + i];
    }
}

/* nll and the label's gradient of one token, from its maximum and its sum. */
static float loss_token(const struct loss_job *j, int64_t t, float max, double sum)
{
    double target = (double)j->target[t];

    if (j->label[t] < 0) {
        j->nll[t] = 0.0;
        j->hit[t] = 0.0f;
        return 0.0f;
    }
    j->nll[t] = (double)max + log(sum) - target;
    /* p - 1 from the logit itself: the exponential in d may be rounded to bf16. */
    j->hit[t] = (float)(exp(target - (double)max) / sum - 1.0) * j->grad_scale;
    return (float)((double)j->grad_scale / sum);
}

void cpu_loss_tokens(const struct loss_job *j, int64_t t0, int64_t t1)
{
    for (int64_t t = t0; t < t1; t += VEC) {
        int64_t n = LH_MIN(VEC, t1 - t), T = j->x.rows;
        vf max = vf_load_f32(j->max + t, n), scale = {0};
        double sum[VEC] = {0};

        for (int64_t b = 1; b < j->blocks; b++)
            max = vf_max(max, vf_load_f32(j->max + b * T + t, n));
        for (int64_t b = 0; b < j->blocks; b++) {
            vf part = vf_load_f32(j->sum + b * T + t, n) *
                      vf_exp(vf_load_f32(j->max + b * T + t, n) - max);

            for (int i = 0; i < VEC; i++)
                sum[i] += (double)part[i];
        }
        for (int64_t i = 0; i < n; i++)
            scale[i] = loss_token(j, t + i, max[i], sum[i]);
        for (int64_t b = 0; b < j->blocks; b++) {
            float *factor = j->max + b * T + t;

            vf_store_f32(factor, n, vf_exp(vf_load_f32(factor, n) - max) * scale);
        }
    }
}

VEC_INLINE void loss_scale_row(struct kn_mat row, const float *factor)
{
    for (int64_t t = 0; t < row.cols; t += VEC) {
        int64_t n = row.cols - t;
        vf f = vf_load_f32(factor + t, n);

        /* A token without label gets 0 even where its logits are not finite. */
        vf_store(row, 0, t, n, vf_select(f == (vf){0}, (vf){0}, vf_load(row, 0, t, n) * f));
    }
}

void cpu_loss_scale(const struct loss_job *j, int64_t b)
{
    const float *factor = j->max + b * j->x.rows;

    for (int64_t v = b * LOSS_ROWS; v < b * LOSS_ROWS + loss_rows(j, b); v++)
        loss_scale_row(kn_rows(j->d, v, 1), factor);
    for (int64_t t = 0; t < j->x.rows; t++)
        if (j->label[t] >= 0 && j->label[t] / LOSS_ROWS == b)
            vf_store(j->d, j->label[t], t, 1, vf_all(j->hit[t]));
}
