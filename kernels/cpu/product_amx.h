/* product_amx.h - products by tile registers, of bf16 matrices and, as sums of bf16 (split.h), of
 * fp32 ones; matmul.c hands over what suits them.
 */
#pragma once
#include "kernels/cpu/product_low.h"
#include "kernels/cpu/stream.h"

/* Is this product of matrices of type t faster here than elsewhere? Few rows against a large b are
 * bound by reading b, and packing it would read it twice. Parts have to be packed in any case. */
static inline bool product_amx_suits(enum kn_dtype t, int64_t M, int64_t N, int64_t K, bool ta)
{
    if (t == KN_F32)
        return M > 32 && N > 32 && K > 32;
    return M >= 16 || (ta && K >= 64);
}

/* The op matmul for checked operands with M, N, K > 0. */
void product_amx(struct kn_stream *s, struct kn_mat c, struct kn_mat a, bool ta, struct kn_mat b,
                 bool tb, float alpha, float beta);

/* The op matmul_low of checked operands of type t; does it suit? */
bool product_amx_low_suits(enum kn_dtype t, int64_t M, int64_t K, int64_t R);
void product_amx_low(struct kn_stream *s, struct kn_mat c, struct kn_mat a, struct kn_mat b,
                     float beta, const struct product_low *low);

/* Between product_amx_begin and _end: sums, 32 rows of 32, of a block of up to 32 rows of a and 32
 * columns of a panel, over so many steps of K of so many parts (product_pack.h); row r of step k is
 * at a + k * a_step + r * lda. Counts up to 16 save half of the work. ahead: memory that is asked
 * for meanwhile, some lines a step, or NULL. */
void product_multiply(int64_t parts, int64_t rows, int64_t cols, int64_t steps, const uint16_t *a,
                      int64_t lda, int64_t a_step, const uint16_t *b, float *sums,
                      const uint16_t *ahead);
