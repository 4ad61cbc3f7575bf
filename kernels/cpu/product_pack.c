/* product_pack.c - see product_pack.h; fp32 is packed by product_split.c. */
#include "kernels/cpu/product_pack.h"
#include "kernels/cpu/vec.h"
#include "proto/base/attr.h"
#include <immintrin.h>
#include <string.h>

/* Numbers of lanes: from i on one of the first vector, one of the second, and so on. */
#define PACK_PAIR(i) (i), (i) + 32, (i) + 1, (i) + 33, (i) + 2, (i) + 34, (i) + 3, (i) + 35
#define PACK_PAIRS(i)                                                                              \
    {                                                                                              \
        PACK_PAIR(i), PACK_PAIR((i) + 4), PACK_PAIR((i) + 8), PACK_PAIR((i) + 12)                  \
    }

__attribute__((target("amx-tile,amx-bf16"))) void product_amx_begin(void)
{
    amx_begin();
}

__attribute__((target("amx-tile,amx-bf16"))) void product_amx_end(void)
{
    amx_end();
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

/* Two rows of 32 columns, element by element by turns: columns from 0 and from 16 on. */
VEC_INLINE void pack_two_rows(const uint16_t *at, int64_t ld, vu *ret_low, vu *ret_high)
{
    static const uint16_t low[] = PACK_PAIRS(0), high[] = PACK_PAIRS(16);
    __m512i even = _mm512_loadu_si512(at), odd = _mm512_loadu_si512(at + ld);

    *ret_low = (vu)_mm512_permutex2var_epi16(even, _mm512_loadu_si512(low), odd);
    *ret_high = (vu)_mm512_permutex2var_epi16(even, _mm512_loadu_si512(high), odd);
}

/* A whole step of 32 rows of an a that is stored transposed. Memory sees 32 rows at a time, too
 * many for the processor to foresee what comes next in them. */
static void pack_step_transposed(uint16_t *to, struct kn_mat a, int64_t m, int64_t k)
{
    const uint16_t *at = (const uint16_t *)a.p + k * a.ld + m;
    vu low[VEC], high[VEC];

#pragma GCC unroll 16
    for (int i = 0; i < VEC; i++, at += 2 * a.ld) {
        _mm_prefetch((const char *)(at + 2 * AMX_STEP), _MM_HINT_T0);
        _mm_prefetch((const char *)(at + a.ld + 2 * AMX_STEP), _MM_HINT_T0);
        pack_two_rows(at, a.ld, &low[i], &high[i]);
    }
    vu_transpose(low);
    for (int i = 0; i < VEC; i++)
        *(vu *)(to + i * AMX_STEP) = low[i];
    vu_transpose(high);
    for (int i = 0; i < VEC; i++)
        *(vu *)(to + (VEC + i) * AMX_STEP) = high[i];
}

/* The same of fewer rows or columns. */
static void pack_part_transposed(uint16_t *to, struct kn_mat a, int64_t m, int64_t rows, int64_t k,
                                 int64_t k1)
{
    for (int64_t half = 0; half < AMX_STEP; half += VEC) {
        vu block[VEC];

        for (int i = 0; i < VEC; i++)
            block[i] = pack_pairs(a, k + 2 * i, k1, m + half, LH_MIN(VEC, rows - half));
        vu_transpose(block);
        for (int i = 0; i < VEC; i++)
            *(vu *)(to + (half + i) * AMX_STEP) = block[i];
    }
}

void product_pack_a(uint16_t *to, struct kn_mat a, bool ta, int64_t m, int64_t rows, int64_t k0,
                    int64_t k1)
{
    if (a.t == KN_F32) {
        product_split_a(to, a, ta, m, rows, k0, k1);
        return;
    }
    for (int64_t k = k0; ta && k < k1; k += AMX_STEP, to += 2 * AMX_TILE)
        if (rows >= AMX_STEP && k + AMX_STEP <= k1)
            pack_step_transposed(to, a, m, k);
        else
            pack_part_transposed(to, a, m, rows, k, k1);
    for (int64_t i = 0; !ta && i < AMX_STEP; i++)
        for (int64_t k = k0; k < k1; k += AMX_STEP)
            *(vu *)(to + (k - k0 + i) * AMX_STEP) = i < rows ? pack_row(a, m + i, k, k1) : (vu){0};
}

void product_pack_step(uint16_t *to, int64_t ld, struct kn_mat b, int64_t n0, int64_t n1, int64_t k,
                       int64_t k1)
{
    int64_t whole = k + AMX_STEP <= k1 ? n0 + (n1 - n0) / AMX_STEP * AMX_STEP : n0;

    if (b.t == KN_F32) {
        product_split_step(to, ld, b, n0, n1, k, k1);
        return;
    }
    for (int64_t i = 0; whole > n0 && i < AMX_STEP; i += 2)
        for (int64_t n = n0; n < whole; n += AMX_STEP) {
            uint16_t *at = to + (n - n0) * ld + i * VEC;

            pack_two_rows((const uint16_t *)b.p + (k + i) * b.ld + n, b.ld, (vu *)at,
                          (vu *)(at + AMX_TILE));
        }
    for (int64_t n = whole; n < n1; n += AMX_STEP)
        product_pack_b(to + (n - n0) * ld, b, false, n, LH_MIN(AMX_STEP, n1 - n), k,
                       LH_MIN(k1, k + AMX_STEP));
}

/* Whole steps of a whole panel of a b that is stored transposed. */
static void pack_whole_transposed(uint16_t *to, struct kn_mat b, int64_t n, int64_t k0, int64_t k1)
{
    for (int64_t k = k0; k < k1; k += AMX_STEP) {
        for (int64_t half = 0; half < AMX_STEP; half += VEC, to += AMX_TILE) {
            const uint16_t *at = (const uint16_t *)b.p + (n + half) * b.ld + k;
            vu block[VEC];

#pragma GCC unroll 16
            for (int i = 0; i < VEC; i++)
                block[i] = *(const vu *)(at + i * b.ld);
            vu_transpose(block);
#pragma GCC unroll 16
            for (int i = 0; i < VEC; i++)
                *(vu *)(to + 2 * i * VEC) = block[i];
        }
    }
}

void product_pack_b(uint16_t *to, struct kn_mat b, bool tb, int64_t n, int64_t cols, int64_t k0,
                    int64_t k1)
{
    int64_t whole = tb && cols >= AMX_STEP ? k0 + (k1 - k0) / AMX_STEP * AMX_STEP : k0;

    if (b.t == KN_F32) {
        product_split_b(to, b, tb, n, cols, k0, k1);
        return;
    }
    pack_whole_transposed(to, b, n, k0, whole);
    to += (whole - k0) * AMX_STEP;
    for (int64_t k = whole; k < k1; k += AMX_STEP) {
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
