/* softmax.c - the part of attention between its products: scores to weights, and back; see
 * attention.h.
 *
 * Scores are taken in powers of two (scale2 = scale / ln 2), so that one exp2 is all there is to an
 * element. A masked element has weight 0. A row whose keys all lie in later tiles has no base yet;
 * 0 stands in for it, so that nothing becomes inf - inf.
 */
#include "kernels/cpu/attention.h"
#include "kernels/cpu/split.h"
#include "kernels/cpu/vec.h"
#include <math.h>

#define SOFTMAX_AWAKE 8    /* rows: 0.25 us of fp32 */
#define SOFTMAX_SLACK 8.0f /* powers of two; weights of up to 256 are as exact as those up to 1 */

/* The most of a long segment: given as a constant, so that its loops have fixed bounds and no mask.
 */
static const struct attn_span softmax_whole = {0, TILE_TOKENS, TILE_TOKENS};

VEC_INLINE bool softmax_is_whole(struct attn_span span)
{
    return span.n0 == 0 && span.open == TILE_TOKENS;
}

void softmax_start(struct softmax_rows *rows)
{
    for (int r = 0; r < TILE_ROWS; r++)
        rows->base[r] = -INFINITY;
    memset(rows->sum, 0, sizeof(rows->sum));
}

#ifdef __AVX512BF16__
/* Pairs of the parts of two vectors; stride: words from one part to the next. */
VEC_INLINE void softmax_put_split(uint32_t *to, int64_t stride, const vu low[SPLIT_PARTS],
                                  const vu high[SPLIT_PARTS])
{
    vu pairs[SPLIT_PARTS];

    split_join(low, high, pairs);
    for (int i = 0; i < SPLIT_PARTS; i++)
        *(vu *)(to + i * stride) = pairs[i];
}
#endif

/* Two vectors side by side, as elements of a row; of the split form, a step. */
VEC_INLINE void softmax_put(enum tile_form form, void *to, int64_t at, vf x, vf y)
{
#ifdef __AVX512BF16__
    if (form == TILE_PAIRS) {
        _mm512_storeu_si512((uint16_t *)to + at,
                            (__m512i)_mm512_cvtne2ps_pbh((__m512)y, (__m512)x));
        return;
    }
    if (form == TILE_SPLIT) {
        vu low[SPLIT_PARTS], high[SPLIT_PARTS];

        split_lanes(x, low);
        split_lanes(y, high);
        softmax_put_split((uint32_t *)((char *)to + at * SPLIT_BYTES), VEC, low, high);
        return;
    }
#endif
    (void)form;
    *(vf *)((float *)to + at) = x;
    *(vf *)((float *)to + at + VEC) = y;
}

VEC_INLINE vf softmax_exp2(enum tile_form form, vf x)
{
    if (form == TILE_WIDE)
        return vf_exp2(x);
    return form == TILE_PAIRS ? vf_exp2_coarse(x) : vf_exp2_floor(x);
}

/* x where row r sees column n + lane, else other. */
VEC_INLINE vf softmax_seen(const struct softmax_rows *rows, int64_t r, int64_t n, vf x, float other)
{
    vi column = vi_lanes() + (int32_t)n;

    return vf_select((column >= vi_all(rows->lo[r])) & (column <= vi_all(rows->hi[r])), x,
                     vf_all(other));
}

/* Moves the bases of VEC rows from r on, and finds their factors and what to take off their scores.
 */
VEC_INLINE void forward_base(struct softmax_rows *rows, int64_t r, const float *s,
                             struct attn_span span, float scale2, float *off)
{
    vf max[VEC], top, now, take, old = *(const vf *)(rows->base + r);

#pragma GCC unroll 16
    for (int i = 0; i < VEC; i++) {
        const float *row = s + (r + i) * TILE_TOKENS;

        max[i] = vf_all(-INFINITY);
        for (int64_t n = span.n0; n < span.open; n += VEC)
            max[i] = vf_max(max[i], *(const vf *)(row + n) * scale2);
        for (int64_t n = span.open; n < span.n1; n += VEC)
            max[i] = vf_max(
                max[i], softmax_seen(rows, r + i, n, *(const vf *)(row + n) * scale2, -INFINITY));
    }
    top = vf_max_rows(max);
    now = vf_select(top > old + SOFTMAX_SLACK, top, old);
    take = vf_select(now == vf_all(-INFINITY), (vf){0}, now);
    *(vf *)(rows->base + r) = now;
    *(vf *)(rows->factor + r) = vf_select(old == now, vf_all(1.0f), vf_exp2(old - take));
    *(vf *)off = take;
}

VEC_INLINE void forward_rows(enum tile_form form, const struct tile_ops *ops,
                             struct softmax_rows *rows, const float *s, void *p,
                             struct attn_span span, float scale2)
{
    float off[TILE_ROWS];

    for (int64_t r = 0; r < TILE_ROWS; r += VEC)
        forward_base(rows, r, s, span, scale2, off + r);
    for (int64_t r = 0; r < TILE_ROWS; r++) {
        const float *row = s + r * TILE_TOKENS;
        vf sum = *(const vf *)rows->sum[r] * rows->factor[r];
        vf w[2];

        if (r > 0 && r % (form == TILE_PAIRS ? 2 * SOFTMAX_AWAKE : SOFTMAX_AWAKE) == 0)
            ops->awake();
        for (int64_t n = span.n0; n < span.open; n += 2 * VEC) {
            for (int k = 0; k < 2; k++) {
                w[k] = softmax_exp2(form, *(const vf *)(row + n + k * VEC) * scale2 - off[r]);
                sum += w[k];
            }
            softmax_put(form, p, r * TILE_TOKENS + n, w[0], w[1]);
        }
        for (int64_t n = span.open; n < span.n1; n += 2 * VEC) {
            for (int k = 0; k < 2; k++) {
                w[k] = softmax_exp2(form, *(const vf *)(row + n + k * VEC) * scale2 - off[r]);
                w[k] = softmax_seen(rows, r, n + k * VEC, w[k], 0.0f);
                sum += w[k];
            }
            softmax_put(form, p, r * TILE_TOKENS + n, w[0], w[1]);
        }
        *(vf *)rows->sum[r] = sum;
    }
}

/* form is a constant where this is inlined. */
VEC_INLINE void forward_form(enum tile_form form, const struct tile_ops *ops,
                             struct softmax_rows *rows, const float *s, void *p,
                             struct attn_span span, float scale2)
{
    if (softmax_is_whole(span))
        forward_rows(form, ops, rows, s, p, softmax_whole, scale2);
    else
        forward_rows(form, ops, rows, s, p, span, scale2);
}

void softmax_forward(const struct tile_ops *ops, struct softmax_rows *rows, const float *s, void *p,
                     struct attn_span span, float scale2)
{
#ifdef __AVX512BF16__
    if (ops->form == TILE_PAIRS) {
        forward_form(TILE_PAIRS, ops, rows, s, p, span, scale2);
        return;
    }
    if (ops->form == TILE_SPLIT) {
        forward_form(TILE_SPLIT, ops, rows, s, p, span, scale2);
        return;
    }
#endif
    forward_form(TILE_WIDE, ops, rows, s, p, span, scale2);
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
    float part[TILE_ROWS], log_sum[TILE_ROWS];

    for (int64_t r = 0; r < TILE_ROWS; r += VEC) {
        vf sums[VEC], sum;

        for (int i = 0; i < VEC; i++)
            sums[i] = *(const vf *)rows->sum[r + i];
        sum = vf_sum_rows(sums);
        *(vf *)(part + r) = 1.0f / sum;
        *(vf *)(log_sum + r) = vf_log2(sum);
    }
    for (int64_t r = 0; r < o.rows; r++) {
        for (int64_t d = 0; d < o.cols; d += VEC)
            vf_store(o, r, d, o.cols - d, *(const vf *)(out + r * Dp + d) * part[r]);
        if (lse)
            lse[r] = (float)(M_LN2 * ((double)rows->base[r] + (double)log_sum[r]));
    }
}

/* p = 2^(s*scale2 - lse2) and ds = p * (dp - delta) of one vector; columns from n of the tile. */
VEC_INLINE vf backward_one(enum tile_form form, const struct softmax_rows *rows, int64_t r,
                           int64_t n, bool masked, const float *s, const float *dp, float scale2,
                           vf *ret_ds)
{
    vf w = softmax_exp2(form, *(const vf *)s * scale2 - rows->base[r]);

    if (masked)
        w = softmax_seen(rows, r, n, w, 0.0f);
    *ret_ds = w * (*(const vf *)dp - rows->factor[r]);
    return w;
}

#ifdef __AVX512BF16__
/* Two rows side by side, word by word: a row of pairs of a packed panel. */
VEC_INLINE void backward_put_pairs(void *to, __m512i even, __m512i odd)
{
    static const uint16_t lanes[2][32] __attribute__((aligned(64))) = {
        {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
         8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
        {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
         24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63}};

    for (int k = 0; k < 2; k++)
        _mm512_storeu_si512((uint32_t *)to + k * VEC,
                            _mm512_permutex2var_epi16(even, _mm512_load_si512(lanes[k]), odd));
}

VEC_INLINE void backward_pairs(const struct softmax_rows *rows, int64_t n, bool masked,
                               const float *s, const float *dp, struct softmax_out out,
                               float scale2)
{
    for (int64_t r = 0; r < TILE_ROWS; r += 2) {
        __m512i p[2], ds[2];

        for (int k = 0; k < 2; k++) {
            int64_t at = (r + k) * TILE_STEP;
            vf d[2], w[2];

            for (int v = 0; v < 2; v++)
                w[v] = backward_one(TILE_PAIRS, rows, r + k, n + v * VEC, masked, s + at + v * VEC,
                                    dp + at + v * VEC, scale2, &d[v]);
            p[k] = (__m512i)_mm512_cvtne2ps_pbh((__m512)w[1], (__m512)w[0]);
            ds[k] = (__m512i)_mm512_cvtne2ps_pbh((__m512)d[1], (__m512)d[0]);
            _mm512_storeu_si512((uint16_t *)out.ds + (r + k) * TILE_TOKENS, ds[k]);
        }
        backward_put_pairs((uint32_t *)out.p_b + r / 2 * TILE_STEP, p[0], p[1]);
        backward_put_pairs((uint32_t *)out.ds_b + r / 2 * TILE_STEP, ds[0], ds[1]);
    }
}

VEC_INLINE void backward_split(const struct softmax_rows *rows, int64_t n, bool masked,
                               const float *s, const float *dp, struct softmax_out out,
                               float scale2)
{
    const int64_t part = VEC * TILE_STEP; /* words of a panel's */

    for (int64_t r = 0; r < VEC; r++) {
        vu ds[2][2][SPLIT_PARTS]; /* of rows r and r + VEC, which are a pair */

        for (int v = 0; v < 2; v++) {
            int64_t to = r * TILE_STEP + v * VEC;
            vu p[2][SPLIT_PARTS];

            for (int k = 0; k < 2; k++) {
                int64_t row = r + k * VEC, at = row * TILE_STEP + v * VEC;
                vf d, w = backward_one(TILE_SPLIT, rows, row, n + v * VEC, masked, s + at, dp + at,
                                       scale2, &d);

                split_lanes(w, p[k]);
                split_lanes(d, ds[k][v]);
            }
            softmax_put_split((uint32_t *)out.p_b + to, part, p[0], p[1]);
            softmax_put_split((uint32_t *)out.ds_b + to, part, ds[0][v], ds[1][v]);
        }
        for (int k = 0; k < 2; k++)
            softmax_put_split(
                (uint32_t *)((char *)out.ds + (r + k * VEC) * TILE_TOKENS * SPLIT_BYTES), VEC,
                ds[k][0], ds[k][1]);
    }
}
#endif

VEC_INLINE void backward_wide(const struct softmax_rows *rows, int64_t n, bool masked,
                              const float *s, const float *dp, struct softmax_out out, float scale2)
{
    for (int64_t r = 0; r < TILE_ROWS; r++) {
        for (int64_t c = 0; c < TILE_STEP; c += VEC) {
            int64_t at = r * TILE_STEP + c;
            vf d, w = backward_one(TILE_WIDE, rows, r, n + c, masked, s + at, dp + at, scale2, &d);

            *(vf *)((float *)out.p_b + at) = w;
            *(vf *)((float *)out.ds_b + at) = d;
            *(vf *)((float *)out.ds + r * TILE_TOKENS + c) = d;
        }
    }
}

void softmax_backward(const struct tile_ops *ops, const struct softmax_rows *rows, int64_t n,
                      bool masked, const float *s, const float *dp, struct softmax_out out,
                      float scale2)
{
#ifdef __AVX512BF16__
    if (ops->form == TILE_PAIRS) {
        if (masked)
            backward_pairs(rows, n, true, s, dp, out, scale2);
        else
            backward_pairs(rows, n, false, s, dp, out, scale2);
        return;
    }
    if (ops->form == TILE_SPLIT) {
        if (masked)
            backward_split(rows, n, true, s, dp, out, scale2);
        else
            backward_split(rows, n, false, s, dp, out, scale2);
        return;
    }
#endif
    (void)ops;
    if (masked)
        backward_wide(rows, n, true, s, dp, out, scale2);
    else
        backward_wide(rows, n, false, s, dp, out, scale2);
}
