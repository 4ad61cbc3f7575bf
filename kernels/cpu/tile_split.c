/* tile_split.c - the split form of tile.h: fp32 in tile registers, each number as three of bf16;
 * its packing and its product. What the parts are, and which of their products are made: split.h.
 */
#include "kernels/cpu/tile_product.h"

#ifdef __AVX512BF16__
#include "kernels/cpu/amx.h"

/* Words of 32 bits: a step of a row of a, and of a panel; a part of each. */
#define A_PART VEC
#define A_STEP (SPLIT_PARTS * A_PART)
#define B_PART (VEC * TILE_STEP)
#define B_STEP (SPLIT_PARTS * B_PART)

/* Elements k (low) and k + VEC (high) of a step, or of many; part: words from one part to the next.
 */
VEC_INLINE void split_put(uint32_t *to, int64_t part, vf low, vf high)
{
    vu pairs[SPLIT_PARTS];

    split_pairs(low, high, pairs);
    for (int i = 0; i < SPLIT_PARTS; i++)
        *(vu *)(to + i * part) = pairs[i];
}

/* block[k]: column d + k of the VEC tokens from t on. */
VEC_INLINE void split_columns(vu block[VEC], struct kn_mat x, int64_t t, int64_t d)
{
#pragma GCC unroll 16
    for (int64_t r = 0; r < VEC; r++)
        block[r] = (vu)tile_get(x, t + r, d);
    vu_transpose(block);
}

void tile_split_a(const struct tile_ops *ops, void *to, int64_t Dp, struct kn_mat x)
{
    uint32_t *step = to;

    (void)ops;
    for (int64_t r = 0; r < TILE_ROWS; r++)
        for (int64_t d = 0; d < Dp; d += TILE_STEP, step += A_STEP)
            split_put(step, A_PART, tile_get(x, r, d), tile_get(x, r, d + VEC));
}

void tile_split_transposed(const struct tile_ops *ops, void *to, int64_t Dp, struct kn_mat x)
{
    for (int64_t t = 0; t < TILE_TOKENS; t += VEC) {
        uint32_t *step = (uint32_t *)to + t / TILE_STEP * (tile_panel(ops, Dp)) + t % TILE_STEP;

        for (int64_t d = 0; d < Dp; d += TILE_STEP, step += B_STEP) {
            vu low[VEC], high[VEC];

            split_columns(low, x, t, d);
            split_columns(high, x, t, d + VEC);
            for (int64_t k = 0; k < VEC; k++)
                split_put(step + k * TILE_STEP, B_PART, (vf)low[k], (vf)high[k]);
        }
    }
}

void tile_split_plain(const struct tile_ops *ops, void *to, int64_t Dp, struct kn_mat x)
{
    for (int64_t d = 0; d < Dp; d += VEC) {
        uint32_t *step =
            (uint32_t *)to + d / TILE_STEP * (tile_panel(ops, TILE_TOKENS)) + d % TILE_STEP;

        for (int64_t t = 0; t < TILE_TOKENS; t += TILE_STEP, step += B_STEP)
            for (int64_t k = 0; k < VEC; k++)
                split_put(step + k * TILE_STEP, B_PART, tile_get(x, t + k, d),
                          tile_get(x, t + k + VEC, d));
    }
}

void tile_split_a_transposed(const struct tile_ops *ops, void *to, int64_t Dp, struct kn_mat x)
{
    const int64_t row = TILE_TOKENS / TILE_STEP * A_STEP;

    (void)ops;
    for (int64_t d = 0; d < Dp; d += VEC) {
        uint32_t *step = (uint32_t *)to + d * row;

        for (int64_t t = 0; t < TILE_TOKENS; t += TILE_STEP, step += A_STEP) {
            vu low[VEC], high[VEC];

            split_columns(low, x, t, d);
            split_columns(high, x, t + VEC, d);
            for (int64_t k = 0; k < VEC; k++)
                split_put(step + k * row, A_PART, (vf)low[k], (vf)high[k]);
        }
    }
}

__attribute__((target("amx-tile,amx-bf16"))) void
tile_product_split(int64_t N, int64_t K, const void *a, int64_t lda, const void *b, int64_t panel,
                   float *c, int64_t ldc, bool add)
{
    int64_t row = lda * SPLIT_PARTS;

    for (int64_t n = 0; n < N; n += TILE_STEP) {
        struct amx_operand rows = {a, row, 16 * row, 2 * A_PART};
        struct amx_operand cols = {(const uint16_t *)b + n / TILE_STEP * panel * 2, 2 * TILE_STEP,
                                   2 * VEC, 2 * B_PART};

        amx_sums(true, true, add ? c + n : NULL, ldc);
        for (int64_t k = 0; k < K; k += TILE_STEP, rows.p += 2 * A_STEP, cols.p += 2 * B_STEP)
            amx_step_parts(true, true, rows, cols);
        amx_store(true, true, c + n, ldc);
    }
}
#endif
