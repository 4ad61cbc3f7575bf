/* attention_row.c - attention of a few queries against cached keys, as generation asks for.
 *
 * One query row of one head an item, straight from k and v: bound by reading them, so packing them
 * would cost as much as the work. Scores of all keys lie in the thread's scratch between the
 * passes.
 */
#include "kernels/cpu/attention.h"
#include "kernels/cpu/vec.h"
#include <math.h>

/* Returns the greatest score. */
static float row_scores(float *score, struct kn_mat q, struct kn_mat k, float scale2)
{
    float max = -INFINITY;

    for (int64_t j = 0; j < k.rows; j++) {
        vf sum = {0};

        for (int64_t d = 0; d < q.cols; d += VEC)
            sum += vf_load(q, 0, d, q.cols - d) * vf_load(k, j, d, q.cols - d);
        score[j] = vf_sum(sum) * scale2;
        max = score[j] > max ? score[j] : max;
    }
    return max;
}

/* Turns n scores into weights; returns their sum. */
static double row_weights(float *score, int64_t n, float max)
{
    vd sum[2] = {{0}, {0}};

    for (int64_t j = 0; j < n; j += VEC) {
        vf w = vf_exp2(vf_load_f32(score + j, n - j) - max);

        vf_add_to_double(sum, n - j >= VEC ? w : vf_tail(w, n - j, 0.0f));
        vf_store_f32(score + j, n - j, w);
    }
    return vd_sum(sum[0], sum[1]);
}

static void row_output(struct kn_mat o, const float *w, struct kn_mat v, float factor)
{
    for (int64_t d = 0; d < o.cols; d += VEC) {
        int64_t n = o.cols - d;
        vf sum = {0};

        for (int64_t j = 0; j < v.rows; j++)
            sum += w[j] * vf_load(v, j, d, n);
        vf_store(o, 0, d, n, sum * factor);
    }
}

static void attention_row_item(void *arg, int64_t item, int thread)
{
    const struct attn *a = arg;
    int64_t h = item % a->H, r = item / a->H, kv = h / a->group, keys = a->q0 + r + 1;
    float *score = a->s->local[thread].p;
    struct kn_mat v = attn_head(a->v, 0, keys, kv, a->D);
    float max = row_scores(score, attn_head(a->q, r, 1, h, a->D),
                           attn_head(a->k, 0, keys, kv, a->D), a->scale * (float)M_LOG2E);
    double sum = row_weights(score, keys, max);

    row_output(attn_head(a->o, r, 1, h, a->D), score, v, (float)(1.0 / sum));
}

void attention_rows(struct attn *a)
{
    a->group = a->H / a->KV;
    if (stream_local(a->s, (uint64_t)a->T * sizeof(float)))
        pool_run(a->s->pool, a->q.rows * a->H, attention_row_item, a);
}
