/* product_pack.c - see product_pack.h. */
#include "kernels/cpu/product_pack.h"
#include "kernels/cpu/vec.h"
#include "proto/base/attr.h"
#include <immintrin.h>
#include <string.h>

struct amx_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

__attribute__((target("amx-tile"))) void product_amx_begin(void)
{
    /* Constant: the intrinsic tells the compiler of the first 8 bytes only, and stores to others
     * could be dropped. */
    static const struct amx_config config = {.palette = 1,
                                             .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
                                             .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

    _tile_loadconfig(&config);
}

__attribute__((target("amx-tile"))) void product_amx_end(void)
{
    _tile_release();
}

/* Pairs of rows (k, k + 1) of x at columns from c on, lane by lane: up to n lanes; a row from k1 on
 * is zero. */
VEC_INLINE vu pack_pairs(struct kn_mat x, int64_t k, int64_t k1, int64_t c, int64_t n)
{
    const uint16_t *at = (const uint16_t *)x.p + k * x.ld + c;
    vu even = {0}, odd = {0};

    if (n <= 0)
        return even;
    if (k < k1)
        even = (vu)_mm512_cvtepu16_epi32((__m256i)vf_load_bf16(at, n));
    if (k + 1 < k1)
        odd = (vu)_mm512_cvtepu16_epi32((__m256i)vf_load_bf16(at + x.ld, n));
    return even | odd << 16;
}

/* 32 elements of row r of x from column c on, zeros from column end on. */
VEC_INLINE vu pack_row(struct kn_mat x, int64_t r, int64_t c, int64_t end)
{
    const uint16_t *at = (const uint16_t *)x.p + r * x.ld + c;
    __mmask32 mask = end - c >= 32 ? ~(__mmask32)0 : ((__mmask32)1 << (end - c)) - 1;

    return (vu)_mm512_maskz_loadu_epi16(mask, at);
}

void product_pack_a(uint16_t *to, int64_t lda, struct kn_mat a, bool ta, int64_t m, int64_t rows,
                    int64_t k0, int64_t k1)
{
    for (int64_t half = 0; half < AMX_STEP; half += VEC) {
        int64_t n = LH_MIN(VEC, rows - half);

        for (int64_t k = k0; k < k1; k += AMX_STEP) {
            vu block[VEC];

            for (int i = 0; i < VEC; i++) {
                if (ta)
                    block[i] = pack_pairs(a, k + 2 * i, k1, m + half, n);
                else
                    block[i] = i < n ? pack_row(a, m + half + i, k, k1) : (vu){0};
            }
            if (ta)
                vu_transpose(block);
            for (int i = 0; i < VEC; i++)
                *(vu *)(to + (half + i) * lda + (k - k0)) = block[i];
        }
    }
}

void product_pack_b(uint16_t *to, struct kn_mat b, bool tb, int64_t n, int64_t cols, int64_t k0,
                    int64_t k1)
{
    for (int64_t k = k0; k < k1; k += AMX_STEP) {
        for (int64_t half = 0; half < AMX_STEP; half += VEC) {
            vu block[VEC];

            for (int i = 0; i < VEC; i++) {
                if (!tb)
                    block[i] = pack_pairs(b, k + 2 * i, k1, n + half, LH_MIN(VEC, cols - half));
                else
                    block[i] = half + i < cols ? pack_row(b, n + half + i, k, k1) : (vu){0};
            }
            if (tb)
                vu_transpose(block);
            for (int i = 0; i < VEC; i++, to += 2 * VEC)
                *(vu *)to = block[i];
        }
    }
}
