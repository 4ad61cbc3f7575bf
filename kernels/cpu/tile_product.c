/* tile_product.c - the tile product of tile.h in fp32, for three vector widths, and for pairs with
 * AVX-512 and AMX.
 *
 * Register blocks: rows x columns of sums stay in registers over all of K. fp32: 8 x 32 with 32
 * registers of AVX-512, 4 x 16 with AVX2, 4 x 8 with SSE2. Pairs: 8 x 32 by vdpbf16ps. AMX: 32 x
 * 32, four of the eight tile registers, two for a and two for b, so that each load is used twice.
 */
#include "kernels/cpu/tile_product.h"
#include "kernels/cpu/vec.h"
#ifdef __AVX512BF16__
#include "kernels/cpu/amx.h"
#endif

/* rows and vectors are constants where this is inlined. */
VEC_INLINE void product_wide(int rows, int vectors, int64_t N, int64_t K, const float *a,
                             int64_t lda, const float *b, int64_t panel, float *c, int64_t ldc,
                             bool add)
{
    for (int64_t r = 0; r < TILE_ROWS; r += rows) {
        for (int64_t n = 0; n < N; n += vectors * VEC) {
            const float *b_row = b + n / TILE_STEP * panel + n % TILE_STEP;
            vf sum[8][2];

            for (int i = 0; i < rows; i++)
                for (int v = 0; v < vectors; v++)
                    sum[i][v] = add ? *(const vf *)(c + (r + i) * ldc + n + v * VEC) : (vf){0};
            for (int64_t k = 0; k < K; k++) {
                vf col[2];

                for (int v = 0; v < vectors; v++)
                    col[v] = *(const vf *)(b_row + k * TILE_STEP + v * VEC);
                for (int i = 0; i < rows; i++)
                    for (int v = 0; v < vectors; v++)
                        sum[i][v] += a[(r + i) * lda + k] * col[v];
            }
            for (int i = 0; i < rows; i++)
                for (int v = 0; v < vectors; v++)
                    *(vf *)(c + (r + i) * ldc + n + v * VEC) = sum[i][v];
        }
    }
}

void tile_product_wide(int64_t N, int64_t K, const void *a, int64_t lda, const void *b,
                       int64_t panel, float *c, int64_t ldc, bool add)
{
    product_wide(VEC == 16 ? 8 : 4, 2, N, K, a, lda, b, panel, c, ldc, add);
}

#ifdef __AVX512BF16__
#define PAIR_ROWS 8
#define K_STEP (TILE_STEP * TILE_STEP) /* of a panel, for TILE_STEP of K */

void tile_product_pairs(int64_t N, int64_t K, const void *a, int64_t lda, const void *b,
                        int64_t panel, float *c, int64_t ldc, bool add)
{
    for (int64_t r = 0; r < TILE_ROWS; r += PAIR_ROWS) {
        for (int64_t n = 0; n < N; n += 2 * VEC) {
            const uint32_t *b_pair = (const uint32_t *)b + n / TILE_STEP * panel;
            __m512 sum[PAIR_ROWS][2];

            for (int i = 0; i < PAIR_ROWS; i++)
                for (int v = 0; v < 2; v++)
                    sum[i][v] = add ? _mm512_loadu_ps(c + (r + i) * ldc + n + v * VEC)
                                    : _mm512_setzero_ps();
            for (int64_t k = 0; k < K / 2; k++) {
                __m512bh left = (__m512bh)_mm512_loadu_si512(b_pair + k * TILE_STEP);
                __m512bh right = (__m512bh)_mm512_loadu_si512(b_pair + k * TILE_STEP + VEC);

                for (int i = 0; i < PAIR_ROWS; i++) {
                    uint32_t word;

                    memcpy(&word, (const uint16_t *)a + (r + i) * lda + 2 * k, sizeof(word));
                    sum[i][0] =
                        _mm512_dpbf16_ps(sum[i][0], (__m512bh)_mm512_set1_epi32((int)word), left);
                    sum[i][1] =
                        _mm512_dpbf16_ps(sum[i][1], (__m512bh)_mm512_set1_epi32((int)word), right);
                }
            }
            for (int i = 0; i < PAIR_ROWS; i++)
                for (int v = 0; v < 2; v++)
                    _mm512_storeu_ps(c + (r + i) * ldc + n + v * VEC, sum[i][v]);
        }
    }
}

__attribute__((target("amx-tile,amx-bf16"))) void tile_amx_begin(void)
{
    amx_begin();
}

__attribute__((target("amx-tile,amx-bf16"))) void tile_amx_end(void)
{
    amx_end();
}

/* Half a microsecond without a product and the multiplier goes to sleep; waking it takes 0.3 us, as
 * long as 64 products. One product of whatever the registers hold keeps it up. */
__attribute__((target("amx-tile,amx-bf16"))) void tile_amx_awake(void)
{
    _tile_dpbf16ps(0, 4, 6);
}

__attribute__((target("amx-tile,amx-bf16"))) void tile_product_amx(int64_t N, int64_t K,
                                                                   const void *a, int64_t lda,
                                                                   const void *b, int64_t panel,
                                                                   float *c, int64_t ldc, bool add)
{
    for (int64_t n = 0; n < N; n += TILE_STEP) {
        struct amx_operand rows = {a, lda, 16 * lda, 0};
        struct amx_operand cols = {(const uint16_t *)b + n / TILE_STEP * panel * 2, 2 * TILE_STEP,
                                   2 * VEC, 0};

        amx_sums(true, true, add ? c + n : NULL, ldc);
        for (int64_t k = 0; k < K; k += TILE_STEP, rows.p += TILE_STEP, cols.p += K_STEP)
            amx_step(true, true, rows, cols);
        amx_store(true, true, c + n, ldc);
    }
}
#endif
