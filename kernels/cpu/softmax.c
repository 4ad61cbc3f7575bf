/* softmax.c - the part of attention between its products: scores to weights, and back; see
 * attention.h.
 *
 * Scores are kept in powers of two (scale2 = scale / ln 2), so that one exp2 is all there is to an
 * element. A masked element has score -inf and weight 0. A row whose keys all lie in later tiles
 * has no maximum yet; 0 stands in for it, so that nothing becomes inf - inf.
 */
#include "kernels/cpu/attention.h"
#include "kernels/cpu/vec.h"
#include <math.h>

/* The most of a long segment: given as a constant, so that its loops have fixed bounds and no mask.
 */
static const struct attn_span softmax_whole = {0, TILE_TOKENS, false};

VEC_INLINE bool softmax_is_whole(struct attn_span span)
{
    return !span.masked && span.n0 == 0 && span.n1 == TILE_TOKENS;
}

void softmax_start(struct softmax_rows *rows)
{
    for (int r = 0; r < TILE_ROWS; r++)
        rows->max[r] = -INFINITY;
    memset(rows->sum, 0, sizeof(rows->sum));
}

VEC_INLINE void softmax_put(bool pairs, void *to, int64_t at, vf x)
{
    if (pairs)
        *(vh *)((uint16_t *)to + at) = vf_to_bf16(x);
    else
        *(vf *)((float *)to + at) = x;
}

VEC_INLINE vf softmax_score(const struct softmax_rows *rows, int64_t r, const float *s, int64_t n,
                            bool masked, float scale2)
{
    vf x = *(const vf *)(s + r * TILE_TOKENS + n) * scale2;
    vi column = vi_lanes() + (int32_t)n;

    if (!masked)
        return x;
    return vf_select((column >= vi_all(rows->lo[r])) & (column <= vi_all(rows->hi[r])), x,
                     vf_all(-INFINITY));
}

/* The maximum of VEC rows from r on, their factors, and what to take off their scores. */
VEC_INLINE void forward_max(struct softmax_rows *rows, int64_t r, const float *s,
                            struct attn_span span, float scale2, float *base)
{
    vf max[VEC], now, old = *(const vf *)(rows->max + r), off;

    for (int i = 0; i < VEC; i++) {
        max[i] = vf_all(-INFINITY);
        for (int64_t n = span.n0; n < span.n1; n += VEC)
            max[i] = vf_max(max[i], softmax_score(rows, r + i, s, n, span.masked, scale2));
    }
    now = vf_max(vf_max_rows(max), old);
    off = vf_select(now == vf_all(-INFINITY), (vf){0}, now);
    *(vf *)(rows->max + r) = now;
    *(vf *)(rows->factor + r) = vf_select(old == now, vf_all(1.0f), vf_exp2(old - off));
    *(vf *)base = off;
}

VEC_INLINE void forward_rows(bool pairs, struct softmax_rows *rows, const float *s, void *p,
                             struct attn_span span, float scale2)
{
    float base[TILE_ROWS];

    for (int64_t r = 0; r < TILE_ROWS; r += VEC)
        forward_max(rows, r, s, span, scale2, base + r);
    for (int64_t r = 0; r < TILE_ROWS; r++) {
        vf sum = *(const vf *)rows->sum[r] * rows->factor[r];

        for (int64_t n = span.n0; n < span.n1; n += VEC) {
            vf w = vf_exp2(softmax_score(rows, r, s, n, span.masked, scale2) - base[r]);

            sum += w;
            softmax_put(pairs, p, r * TILE_TOKENS + n, w);
        }
        *(vf *)rows->sum[r] = sum;
    }
}

void softmax_forward(const struct tile_ops *ops, struct softmax_rows *rows, const float *s, void *p,
                     struct attn_span span, float scale2)
{
    if (ops->pairs && softmax_is_whole(span))
        forward_rows(true, rows, s, p, softmax_whole, scale2);
    else if (ops->pairs)
        forward_rows(true, rows, s, p, span, scale2);
    else
        forward_rows(false, rows, s, p, span, scale2);
}

void softmax_rescale(const struct softmax_rows *rows, float *out, int64_t Dp)
{
    for (int64_t r = 0; r < TILE_ROWS; r++) {
        if (rows->factor[r] == 1.0f)
            continue;
        for (int64_t d = 0; d < Dp; d += VEC)
            *(vf *)(out + r * Dp + d) *= rows->factor[r];
    }
}

void softmax_finish(const struct softmax_rows *rows, const float *out, int64_t Dp, struct kn_mat o,
                    float *lse)
{
    for (int64_t r = 0; r < o.rows; r++) {
        float sum = vf_sum(*(const vf *)rows->sum[r]);

        for (int64_t d = 0; d < o.cols; d += VEC)
            vf_store(o, r, d, o.cols - d, *(const vf *)(out + r * Dp + d) / sum);
        if (lse)
            lse[r] = (float)(M_LN2 * ((double)rows->max[r] + log2((double)sum)));
    }
}

VEC_INLINE void backward_q_rows(bool pairs, const struct softmax_rows *rows, const float *s,
                                const float *dp, void *ds, struct attn_span span, float scale2,
                                float scale)
{
    for (int64_t r = 0; r < TILE_ROWS; r++) {
        float lse2 = rows->max[r], delta = rows->factor[r];

        for (int64_t n = span.n0; n < span.n1; n += VEC) {
            vf w = vf_exp2(softmax_score(rows, r, s, n, span.masked, scale2) - lse2);
            vf d = w * ((*(const vf *)(dp + r * TILE_TOKENS + n) - delta) * scale);

            softmax_put(pairs, ds, r * TILE_TOKENS + n, d);
        }
    }
}

void softmax_backward_q(const struct tile_ops *ops, const struct softmax_rows *rows, const float *s,
                        const float *dp, void *ds, struct attn_span span, float scale2, float scale)
{
    if (ops->pairs && softmax_is_whole(span))
        backward_q_rows(true, rows, s, dp, ds, softmax_whole, scale2, scale);
    else if (ops->pairs)
        backward_q_rows(true, rows, s, dp, ds, span, scale2, scale);
    else
        backward_q_rows(false, rows, s, dp, ds, span, scale2, scale);
}

VEC_INLINE void backward_k_rows(bool pairs, struct softmax_cols cols, const float *s,
                                const float *dp, void *p, void *ds, struct attn_span span,
                                float scale2, float scale)
{
    for (int64_t r = 0; r < TILE_ROWS; r++) {
        int32_t key = cols.j0 + (int32_t)r;

        for (int64_t n = span.n0; n < span.n1; n += VEC) {
            vf x = *(const vf *)(s + r * TILE_TOKENS + n) * scale2 - *(const vf *)(cols.lse2 + n);
            vf d =
                (*(const vf *)(dp + r * TILE_TOKENS + n) - *(const vf *)(cols.delta + n)) * scale;
            vf w;

            if (span.masked) {
                vi query = vi_lanes() + (cols.i0 + (int32_t)n);
                vi seen = (query >= vi_all(key)) & (*(const vi *)(cols.begin + n) <= vi_all(key));

                x = vf_select(seen, x, vf_all(-INFINITY));
            }
            w = vf_exp2(x);
            softmax_put(pairs, p, r * TILE_TOKENS + n, w);
            softmax_put(pairs, ds, r * TILE_TOKENS + n, w * d);
        }
    }
}

void softmax_backward_k(const struct tile_ops *ops, struct softmax_cols cols, const float *s,
                        const float *dp, void *p, void *ds, struct attn_span span, float scale2,
                        float scale)
{
    if (ops->pairs && softmax_is_whole(span))
        backward_k_rows(true, cols, s, dp, p, ds, softmax_whole, scale2, scale);
    else if (ops->pairs)
        backward_k_rows(true, cols, s, dp, p, ds, span, scale2, scale);
    else
        backward_k_rows(false, cols, s, dp, p, ds, span, scale2, scale);
}
