/* tile.h - products of small tiles, the arithmetic inside attention.
 *
 * All of attention is made of one product: c (TILE_ROWS x N) = or += a (TILE_ROWS x K) times a
 * packed b (K x N). a is plain rows; b is packed once and read many times, in panels of TILE_STEP
 * columns whose rows follow each other, so that what a block of sums reads is one run of memory.
 * Two forms of elements:
 *   pairs: bf16, a panel is [K/2][TILE_STEP] pairs (b[2k][n], b[2k+1][n]), what the bf16
 *          instructions want; sums are fp32;
 *   wide:  fp32, a panel is [K][TILE_STEP].
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

struct tile_ops {
    bool pairs;
    tile_product_fn *product;
    void (*begin)(void); /* before a thread's first product of an item, */
    void (*end)(void);   /* and after its last: tile registers are set up and let go */
};

/* The best this processor has for matrices of type t. */
const struct tile_ops *tile_ops_for(enum cpu_isa isa, enum kn_dtype t);

static inline int64_t tile_element(const struct tile_ops *ops)
{
    return ops->pairs ? 2 : 4;
}

/* Words of a panel of K rows. */
static inline int64_t tile_panel(const struct tile_ops *ops, int64_t K)
{
    return (ops->pairs ? K / 2 : K) * TILE_STEP;
}

/* x: up to TILE_ROWS rows; to: TILE_ROWS x Dp elements, zeros where x ends. */
void tile_pack_a(const struct tile_ops *ops, void *to, int64_t Dp, struct kn_mat x);
/* x: up to TILE_TOKENS rows, zeros where x ends. to becomes the b of a product by x^T (K = Dp, N =
 * TILE_TOKENS), ... */
void tile_pack_transposed(const struct tile_ops *ops, void *to, int64_t Dp, struct kn_mat x);
/* ... or by x (K = TILE_TOKENS, N = Dp), ... */
void tile_pack_plain(const struct tile_ops *ops, void *to, int64_t Dp, struct kn_mat x);
/* ... or x^T as plain rows, Dp x TILE_TOKENS: the a of a product over tokens. */
void tile_pack_a_transposed(const struct tile_ops *ops, void *to, int64_t Dp, struct kn_mat x);
