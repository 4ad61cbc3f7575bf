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

VEC_INLINE void pack_a(enum kn_dtype t, float *to, int64_t ld, struct kn_mat a, bool ta, int64_t m,
                       int64_t rows, int64_t k0, int64_t k1, float alpha)
{
    int64_t steps = f32_up(k1 - k0, F32_STEPS);

    for (int64_t k = 0; k < steps; k += VEC) {
        int64_t n = LH_MIN(VEC, steps - k);
        vu block[VEC];

        if (!ta)
            pack_turned(t, block, a, m, m + rows, k0 + k, k1);
        for (int64_t i = 0; i < n; i++) {
            vf x = (vf)block[i];

            if (ta)
                x = k0 + k + i < k1 ? pack_load(t, a, k0 + k + i, m, m + rows) : (vf){0};
            x *= alpha;
            _mm256_storeu_ps(to + (k + i) * F32_ROWS, _mm512_castps512_ps256((__m512)x));
            if (rows > F32_ROWS)
                _mm256_storeu_ps(to + ld + (k + i) * F32_ROWS,
                                 _mm512_extractf32x8_ps((__m512)x, 1));
        }
    }
}

void product_f32_pack_a(float *to, int64_t ld, struct kn_mat a, bool ta, int64_t m, int64_t rows,
                        int64_t k0, int64_t k1, float alpha)
{
    if (a.t == KN_F32 && ta)
        pack_a(KN_F32, to, ld, a, true, m, rows, k0, k1, alpha);
    else if (a.t == KN_F32)
        pack_a(KN_F32, to, ld, a, false, m, rows, k0, k1, alpha);
    else if (ta)
        pack_a(KN_BF16, to, ld, a, true, m, rows, k0, k1, alpha);
    else
        pack_a(KN_BF16, to, ld, a, false, m, rows, k0, k1, alpha);
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
