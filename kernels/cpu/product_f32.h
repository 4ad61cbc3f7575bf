/* product_f32.h - products of fp32 matrices with AVX-512; matmul.c hands over what suits them.
 */
#pragma once
#include "kernels/cpu/stream.h"

/* Is this product faster here than in oneDNN? */
static inline bool product_f32_suits(int64_t M, int64_t N)
{
    return M >= 64 && N >= 16;
}

/* The op matmul for checked operands with M, N, K > 0: all fp32. */
void product_f32(struct kn_stream *s, struct kn_mat c, struct kn_mat a, bool ta, struct kn_mat b,
                 bool tb, float alpha, float beta);

/* The low-rank part of the op matmul_low: z = z_scale * a op(p), c += c_scale * z op(q). */
struct product_f32_low {
    struct kn_mat z, p, q;
    bool t;
    float z_scale, c_scale;
    float *p_panel; /* packed */
};

/* The op matmul_low of checked operands; does it suit? */
bool product_f32_low_suits(int64_t M, int64_t N, int64_t K, int64_t R);
void product_f32_low(struct kn_stream *s, struct kn_mat c, struct kn_mat a, struct kn_mat b,
                     float beta, struct product_f32_low *low);
