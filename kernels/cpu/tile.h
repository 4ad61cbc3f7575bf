/* tile.h - products of small tiles, the arithmetic inside attention.
 *
 * All of attention is made of one product: c (TILE_ROWS x N) = or += a (TILE_ROWS x K) times a
 * packed b (K x N). a is plain rows; b is packed once and read many times, in panels of TILE_STEP
 * columns whose rows follow each other, so that what a block of sums reads is one run of memory.
 * Three forms of elements:
 *   pairs: bf16, a panel is [K/2][TILE_STEP] pairs (b[2k][n], b[2k+1][n]), what the bf16
 *          instructions want; sums are fp32;
 *   wide:  fp32, a panel is [K][TILE_STEP];
 *   split: fp32 as three parts of bf16 (split.h). TILE_STEP of K, one step, are three runs of
 *          pairs, one a part. A pair is elements k and k + 16 of the step, so that two vectors side
 *          by side are pairs without a shuffle. a: [K/32][3][16] pairs a row; a panel is
 *          [K/32][3][16][TILE_STEP] pairs. Offsets in a row of a are whole steps.
 * N and K are multiples of TILE_STEP; callers pad with zeros.
 */
#pragma once
#include "kernels/cpu/level.h"
#include "kernels/tensor.h"
#include <stdbool.h>

#define TILE_ROWS 32
#define TILE_STEP 32
#define TILE_TOKENS                                                                                \
    128 /* tokens of one packed tile: S of 32 x 128 in fp32 is 16 KiB, a third of L1 */

/* lda, ldc count elements of a and c; panel: words of 32 bits from one panel of b to the next. */
typedef void tile_product_fn(int64_t N, int64_t K, const void *a, int64_t lda, const void *b,
                             int64_t panel, float *c, int64_t ldc, bool add);

/* Dp: columns of x, made a multiple of TILE_STEP. */
struct tile_ops;
typedef void tile_pack_fn(const struct tile_ops *ops, void *to, int64_t Dp, struct kn_mat x);
struct tile_pack {
    /* x: up to TILE_ROWS rows; to: TILE_ROWS x Dp elements, zeros where x ends. */
    tile_pack_fn *a;
    /* x: up to TILE_TOKENS rows, zeros where x ends. to becomes the b of a product by x^T (K = Dp,
     * N = TILE_TOKENS), ... */
    tile_pack_fn *transposed;
    /* ... or by x (K = TILE_TOKENS, N = Dp), ... */
    tile_pack_fn *plain;
    /* ... or x^T as plain rows, Dp x TILE_TOKENS: the a of a product over tokens. */
    tile_pack_fn *a_transposed;
};

enum tile_form { TILE_WIDE, TILE_PAIRS, TILE_SPLIT };

struct tile_ops {
    enum tile_form form;
    int64_t element; /* bytes */
    const struct tile_pack *pack;
    tile_product_fn *product;
    void (*begin)(void); /* before a thread's first product of an item, */
    void (*end)(void);   /* and after its last: tile registers are set up and let go */
    void (*awake)(void); /* to be called every 0.3 us of other work between products */
};

/* The best this processor has for matrices of type t. */
const struct tile_ops *tile_ops_for(enum cpu_isa isa, enum kn_dtype t);

/* Words of a panel of K rows. */
static inline int64_t tile_panel(const struct tile_ops *ops, int64_t K)
{
    return K * ops->element / 4 * TILE_STEP;
}
