/* tile.c - packing for tile products, and the choice of the product for this processor; see tile.h.
 */
#include "kernels/cpu/tile.h"
#include "kernels/cpu/split.h"
#include "kernels/cpu/tile_product.h"
#include "kernels/cpu/vec.h"
#include <assert.h>

/* Row r of x from column c, zeros outside, as raw bf16, for pairs. */
VEC_INLINE vh tile_get_bf16(struct kn_mat x, int64_t r, int64_t c)
{
    assert(x.t == KN_BF16);
    if (r >= x.rows || c >= x.cols)
        return (vh){0};
    return vf_load_bf16((const uint16_t *)x.p + r * x.ld + c, x.cols - c);
}

/* The most of it: whole rows of bf16, no conversion. */
static void tile_pack_a_whole(uint16_t *to, int64_t Dp, struct kn_mat x)
{
    for (int64_t r = 0; r < TILE_ROWS; r++)
        for (int64_t c = 0; c < Dp; c += 2 * VEC)
            *(vraw *)(to + r * Dp + c) = *(const vraw *)((const uint16_t *)x.p + r * x.ld + c);
}

static void words_a(const struct tile_ops *ops, void *to, int64_t Dp, struct kn_mat x)
{
    if (ops->form == TILE_PAIRS && x.rows == TILE_ROWS && x.cols == Dp) {
        tile_pack_a_whole(to, Dp, x);
        return;
    }
    for (int64_t r = 0; r < TILE_ROWS; r++) {
        for (int64_t c = 0; c < Dp; c += VEC) {
            if (ops->form == TILE_PAIRS)
                *(vh *)((uint16_t *)to + r * Dp + c) = tile_get_bf16(x, r, c);
            else
                *(vf *)((float *)to + r * Dp + c) = tile_get(x, r, c);
        }
    }
}

/* VEC words of 32 bits of row r: a number of fp32, or two of bf16, from column c. One load, since
 * halves that meet in memory wait for each other. */
VEC_INLINE vu tile_get_words(bool pairs, struct kn_mat x, int64_t r, int64_t c)
{
#ifdef __AVX512BF16__
    if (pairs) {
        int64_t n = LH_MIN(2 * VEC, x.cols - c);

        assert(x.t == KN_BF16);
        if (r >= x.rows || n <= 0)
            return (vu){0};
        return (vu)_mm512_maskz_loadu_epi16((__mmask32)((1ull << n) - 1),
                                            (const uint16_t *)x.p + r * x.ld + c);
    }
#endif
    (void)pairs;
    return (vu)tile_get(x, r, c);
}

/* Words d.. of the VEC tokens from t on: block[k] becomes word k of each. */
VEC_INLINE void tile_transpose(bool pairs, vu block[VEC], struct kn_mat x, int64_t t, int64_t d)
{
#pragma GCC unroll 16
    for (int64_t r = 0; r < VEC; r++)
        block[r] = tile_get_words(pairs, x, t + r, d);
    vu_transpose(block);
}

static void words_transposed(const struct tile_ops *ops, void *to, int64_t Dp, struct kn_mat x)
{
    int64_t per = ops->form == TILE_PAIRS ? 2 : 1; /* elements in a 32-bit word */

    for (int64_t t = 0; t < TILE_TOKENS; t += VEC) {
        uint32_t *panel = (uint32_t *)to + t / TILE_STEP * tile_panel(ops, Dp) + t % TILE_STEP;

        for (int64_t d = 0; d < Dp; d += VEC * per) {
            vu block[VEC];

            tile_transpose(ops->form == TILE_PAIRS, block, x, t, d);
            for (int64_t k = 0; k < VEC; k++)
                *(vu *)(panel + (d / per + k) * TILE_STEP) = block[k];
        }
    }
}

static void words_plain(const struct tile_ops *ops, void *to, int64_t Dp, struct kn_mat x)
{
    for (int64_t d = 0; d < Dp; d += VEC) {
        uint32_t *panel =
            (uint32_t *)to + d / TILE_STEP * tile_panel(ops, TILE_TOKENS) + d % TILE_STEP;

        for (int64_t t = 0; t < TILE_TOKENS; t += ops->form == TILE_PAIRS ? 2 : 1) {
            if (ops->form == TILE_PAIRS) {
                vu even = __builtin_convertvector(tile_get_bf16(x, t, d), vu);
                vu odd = __builtin_convertvector(tile_get_bf16(x, t + 1, d), vu);

                *(vu *)(panel + t / 2 * TILE_STEP) = even | odd << 16;
            } else {
                *(vf *)(panel + t * TILE_STEP) = tile_get(x, t, d);
            }
        }
    }
}

static void words_a_transposed(const struct tile_ops *ops, void *to, int64_t Dp, struct kn_mat x)
{
    int64_t per = ops->form == TILE_PAIRS ? 2 : 1;

    for (int64_t t = 0; t < TILE_TOKENS; t += VEC) {
        for (int64_t d = 0; d < Dp; d += VEC * per) {
            vu block[VEC];

            tile_transpose(ops->form == TILE_PAIRS, block, x, t, d);
            for (int64_t k = 0; k < VEC; k++) {
                int64_t at = (d + k * per) * TILE_TOKENS + t;

                if (ops->form == TILE_PAIRS) {
                    *(vh *)((uint16_t *)to + at) = __builtin_convertvector(block[k] & 0xffffu, vh);
                    *(vh *)((uint16_t *)to + at + TILE_TOKENS) =
                        __builtin_convertvector(block[k] >> 16, vh);
                } else {
                    *(vu *)((uint32_t *)to + at) = block[k];
                }
            }
        }
    }
}

static void tile_nothing(void)
{
}

static const struct tile_pack pack_words = {words_a, words_transposed, words_plain,
                                            words_a_transposed};
static const struct tile_ops tile_wide = {.form = TILE_WIDE,
                                          .element = 4,
                                          .pack = &pack_words,
                                          .product = tile_product_wide,
                                          .begin = tile_nothing,
                                          .awake = tile_nothing,
                                          .end = tile_nothing};
#ifdef __AVX512BF16__
static const struct tile_pack pack_split = {tile_split_a, tile_split_transposed, tile_split_plain,
                                            tile_split_a_transposed};
static const struct tile_ops tile_pairs = {.form = TILE_PAIRS,
                                           .element = 2,
                                           .pack = &pack_words,
                                           .product = tile_product_pairs,
                                           .begin = tile_nothing,
                                           .awake = tile_nothing,
                                           .end = tile_nothing};
static const struct tile_ops tile_amx = {.form = TILE_PAIRS,
                                         .element = 2,
                                         .pack = &pack_words,
                                         .product = tile_product_amx,
                                         .begin = tile_amx_begin,
                                         .awake = tile_amx_awake,
                                         .end = tile_amx_end};
static const struct tile_ops tile_split = {.form = TILE_SPLIT,
                                           .element = SPLIT_BYTES,
                                           .pack = &pack_split,
                                           .product = tile_product_split,
                                           .begin = tile_amx_begin,
                                           .awake = tile_amx_awake,
                                           .end = tile_amx_end};
#endif

const struct tile_ops *tile_ops_for(enum cpu_isa isa, enum kn_dtype t)
{
#ifdef __AVX512BF16__
    if (t == KN_BF16)
        return isa >= CPU_AMX ? &tile_amx : &tile_pairs;
    if (isa >= CPU_AMX)
        return &tile_split;
#endif
    (void)isa;
    (void)t;
    return &tile_wide;
}
