/* matmul.c - c = alpha * op(a) op(b) + beta * c, one dot product an element; and three of them as
 * one op. */
#include "kernels/reference/ref.h"

void ref_matmul(struct kn_stream *s, struct kn_mat c, struct kn_mat a, bool ta, struct kn_mat b,
                bool tb, float alpha, float beta)
{
    int64_t K = ta ? a.rows : a.cols;

    if (!kn_check_matmul(ref_check(s, "matmul"), c, a, ta, b, tb, beta))
        return;
    for (int64_t m = 0; m < c.rows; m++) {
        for (int64_t n = 0; n < c.cols; n++) {
            double sum = 0.0;

            for (int64_t k = 0; k < K; k++)
                sum += (ta ? ref_get(a, k, m) : ref_get(a, m, k)) *
                       (tb ? ref_get(b, n, k) : ref_get(b, k, n));
            sum *= (double)alpha;
            ref_set(c, m, n, beta != 0.0f ? ref_get(c, m, n) + sum : sum);
        }
    }
}

void ref_matmul_low(struct kn_stream *s, struct kn_mat c, struct kn_mat z, struct kn_mat a,
                    struct kn_mat b, struct kn_mat p, struct kn_mat q, bool t, float z_scale,
                    float c_scale, float beta)
{
    if (!kn_check_matmul_low(ref_check(s, "matmul_low"), c, z, a, b, p, q, t, beta))
        return;
    ref_matmul(s, z, a, false, p, t, z_scale, 0.0f);
    ref_matmul(s, c, a, false, b, t, 1.0f, beta);
    ref_matmul(s, c, z, false, q, t, c_scale, 1.0f);
}
