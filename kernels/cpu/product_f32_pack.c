/* product_f32_pack.c - strips and panels of product_f32_tile.h. */
#include "kernels/cpu/product_f32_tile.h"
#include "kernels/cpu/vec.h"
#include "proto/base/attr.h"

/* Columns [c, end) of row r of x, VEC of them at most. */
VEC_INLINE vf pack_load(enum kn_dtype t, struct kn_mat x, int64_t r, int64_t c, int64_t end)
{
    struct kn_mat m = {x.p, t, x.rows, x.cols, x.ld};

    return c < end ? vf_load(m, r, c, end - c) : (vf){0};
}

/* Eight of them at most. */
VEC_INLINE __m256 pack_load_8(enum kn_dtype t, struct kn_mat x, int64_t r, int64_t c, int64_t end)
{
    const uint16_t *low = (const uint16_t *)x.p + r * x.ld + c;
    const float *at = (const float *)x.p + r * x.ld + c;
    __mmask8 mask = (__mmask8)(end - c >= 8 ? 0xff : end > c ? (1 << (end - c)) - 1 : 0);

    if (t == KN_F32)
        return _mm256_maskz_loadu_ps(mask, at);
    return (__m256)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_maskz_loadu_epi16(mask, low)), 16);
}

/* Rows [r, r_end) of x, eight at most, turned: eight columns from c on become rows of eight. */
VEC_INLINE void pack_turned_8(enum kn_dtype t, float *to, struct kn_mat x, int64_t r, int64_t r_end,
                              int64_t c, int64_t c_end, __m512 factor)
{
    __m512 row[4], pair[4], turned[4];

    /* Lanes of four: columns 0-3 and 4-7 of row i, then of row i + 4. */
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m256 upper = r + i < r_end ? pack_load_8(t, x, r + i, c, c_end) : _mm256_setzero_ps();
        __m256 lower =
            r + i + 4 < r_end ? pack_load_8(t, x, r + i + 4, c, c_end) : _mm256_setzero_ps();

        row[i] = _mm512_mul_ps(_mm512_insertf32x8(_mm512_castps256_ps512(upper), lower, 1), factor);
    }
    pair[0] = _mm512_unpacklo_ps(row[0], row[1]);
    pair[1] = _mm512_unpackhi_ps(row[0], row[1]);
    pair[2] = _mm512_unpacklo_ps(row[2], row[3]);
    pair[3] = _mm512_unpackhi_ps(row[2], row[3]);
    turned[0] = _mm512_shuffle_ps(pair[0], pair[2], 0x44);
    turned[1] = _mm512_shuffle_ps(pair[0], pair[2], 0xee);
    turned[2] = _mm512_shuffle_ps(pair[1], pair[3], 0x44);
    turned[3] = _mm512_shuffle_ps(pair[1], pair[3], 0xee);
    /* turned[i]: columns i and 4 + i of the upper rows, then of the lower ones. */
    _mm512_storeu_ps(to, _mm512_shuffle_f32x4(turned[0], turned[1], 0x88));
    _mm512_storeu_ps(to + 16, _mm512_shuffle_f32x4(turned[2], turned[3], 0x88));
    _mm512_storeu_ps(to + 32, _mm512_shuffle_f32x4(turned[0], turned[1], 0xdd));
    _mm512_storeu_ps(to + 48, _mm512_shuffle_f32x4(turned[2], turned[3], 0xdd));
}

/* block[k] = lanes of rows r + 0, 1, ... of x at column c + k; rows from r_end on and columns from
 * c_end on are zero. */
VEC_INLINE void pack_turned(enum kn_dtype t, vu block[VEC], struct kn_mat x, int64_t r,
                            int64_t r_end, int64_t c, int64_t c_end)
{
#pragma GCC unroll 16
    for (int i = 0; i < VEC; i++)
        block[i] = r + i < r_end ? (vu)pack_load(t, x, r + i, c, c_end) : (vu){0};
    vu_transpose(block);
}

VEC_INLINE void pack_a(enum kn_dtype t, float *to, struct kn_mat a, int64_t m, int64_t rows,
                       int64_t k0, int64_t k1, float alpha)
{
    int64_t whole = rows < F32_ROWS ? k0 : k0 + (k1 - k0) / 8 * 8;
    __m512 factor = _mm512_set1_ps(alpha);

    for (int64_t k = k0; k < whole; k += 8)
        pack_turned_8(t, to + (k - k0) * F32_ROWS, a, m, m + 8, k, k + 8, factor);
    for (int64_t k = whole; k < k1; k += 8)
        pack_turned_8(t, to + (k - k0) * F32_ROWS, a, m, m + rows, k, k1, factor);
}

/* All strips of a transposed a at once: its rows are far apart, and read once so. */
VEC_INLINE void pack_a_plain(enum kn_dtype t, float *to, int64_t ld, struct kn_mat a, int64_t m,
                             int64_t rows, int64_t k0, int64_t k1, float alpha)
{
    __m256 factor = _mm256_set1_ps(alpha);

    for (int64_t k = k0; k < k1; k++)
        for (int64_t r = 0; r < rows; r += F32_ROWS)
            _mm256_storeu_ps(to + r / F32_ROWS * ld + (k - k0) * F32_ROWS,
                             _mm256_mul_ps(pack_load_8(t, a, k, m + r, m + rows), factor));
    for (int64_t k = k1; k < k0 + f32_up(k1 - k0, F32_STEPS); k++)
        for (int64_t r = 0; r < rows; r += F32_ROWS)
            _mm256_storeu_ps(to + r / F32_ROWS * ld + (k - k0) * F32_ROWS, _mm256_setzero_ps());
}

void product_f32_pack_a(float *to, int64_t ld, struct kn_mat a, bool ta, int64_t m, int64_t rows,
                        int64_t k0, int64_t k1, float alpha)
{
    if (ta && a.t == KN_F32 && rows == F32_GROUP)
        pack_a_plain(KN_F32, to, ld, a, m, F32_GROUP, k0, k1, alpha);
    else if (ta)
        pack_a_plain(a.t, to, ld, a, m, rows, k0, k1, alpha);
    for (int64_t r = 0; r < rows && !ta; r += F32_ROWS, to += ld) {
        if (a.t == KN_F32)
            pack_a(KN_F32, to, a, m + r, LH_MIN(F32_ROWS, rows - r), k0, k1, alpha);
        else
            pack_a(KN_BF16, to, a, m + r, LH_MIN(F32_ROWS, rows - r), k0, k1, alpha);
    }
}

VEC_INLINE void pack_b(enum kn_dtype t, float *to, struct kn_mat b, bool tb, int64_t n,
                       int64_t cols, int64_t k0, int64_t k1)
{
    int64_t steps = f32_up(k1 - k0, F32_STEPS), width = f32_up(cols, VEC);

    for (int64_t k = 0; k < steps; k += VEC) {
        for (int64_t v = 0; v < width; v += VEC) {
            int64_t count = LH_MIN(VEC, steps - k);
            vu block[VEC];

            if (tb)
                pack_turned(t, block, b, n + v, n + cols, k0 + k, k1);
            for (int64_t i = 0; i < count; i++) {
                vf x = (vf)block[i];

                if (!tb)
                    x = k0 + k + i < k1 ? pack_load(t, b, k0 + k + i, n + v, n + cols) : (vf){0};
                *(vf *)(to + (k + i) * width + v) = x;
            }
        }
    }
}

void product_f32_pack_b(float *to, struct kn_mat b, bool tb, int64_t n, int64_t cols, int64_t k0,
                        int64_t k1)
{
    if (b.t == KN_F32 && tb)
        pack_b(KN_F32, to, b, true, n, cols, k0, k1);
    else if (b.t == KN_F32)
        pack_b(KN_F32, to, b, false, n, cols, k0, k1);
    else if (tb)
        pack_b(KN_BF16, to, b, true, n, cols, k0, k1);
    else
        pack_b(KN_BF16, to, b, false, n, cols, k0, k1);
}
