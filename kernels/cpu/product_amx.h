/* product_amx.h - products of bf16 matrices by tile registers; matmul.c hands over what suits them.
 */
#pragma once
#include "kernels/cpu/stream.h"

/* Is this product faster here than in oneDNN? Few rows against a large b are bound by reading b,
 * and packing it would read it twice. */
static inline bool product_amx_suits(int64_t M, int64_t K, bool ta)
{
    return M >= 16 || (ta && K >= 64);
}

/* The op matmul for checked bf16 operands with M, N, K > 0. */
void product_amx(struct kn_stream *s, struct kn_mat c, struct kn_mat a, bool ta, struct kn_mat b,
                 bool tb, float alpha, float beta);
