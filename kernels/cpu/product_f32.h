/* product_f32.h - products in fp32 with AVX-512: of fp32 matrices, and of bf16 ones where the
 * processor has nothing better for them. matmul.c hands over what suits them.
 */
#pragma once
#include "kernels/cpu/product_low.h"
#include "kernels/cpu/stream.h"

/* Is this product of fp32 matrices faster here than in oneDNN? Packing b pays from some rows on,
 * and more of them where b is beyond the caches; few columns fill panels badly. Of bf16 ones all
 * are, since oneDNN is to have them widened first. */
static inline bool product_f32_suits(int64_t M, int64_t N, int64_t K, bool ta)
{
    return M >= (N * K > 4 << 20 ? 512 : 96) && (N > 32 || ta);
}

/* The op matmul for checked operands with M, N, K > 0. */
void product_f32(struct kn_stream *s, struct kn_mat c, struct kn_mat a, bool ta, struct kn_mat b,
                 bool tb, float alpha, float beta);

/* The op matmul_low of checked operands with M, N > 0; can it be one product? */
bool product_f32_low_fits(int64_t K, int64_t R);
void product_f32_low(struct kn_stream *s, struct kn_mat c, struct kn_mat a, struct kn_mat b,
                     float beta, const struct product_low *low);
