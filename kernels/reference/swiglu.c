/* swiglu.c - h = silu(gate) * up and its gradients. silu(x) = x * sigma(x), silu' = sigma * (1 + x
 * * (1 - sigma)). */
#include "kernels/reference/ref.h"
#include <math.h>

void ref_swiglu_fwd(struct kn_stream *s, struct kn_mat h, struct kn_mat gate, struct kn_mat up)
{
    struct kn_check ck = ref_check(s, "swiglu_fwd");

    if (!kn_check_same(ck, "gate", gate, "up", up) || !kn_check_same(ck, "gate", gate, "h", h))
        return;
    for (int64_t t = 0; t < h.rows; t++) {
        for (int64_t c = 0; c < h.cols; c++) {
            double x = ref_get(gate, t, c);

            ref_set(h, t, c, x / (1.0 + exp(-x)) * ref_get(up, t, c));
        }
    }
}

void ref_swiglu_bwd(struct kn_stream *s, struct kn_mat dgate, struct kn_mat dup, struct kn_mat dh,
                    struct kn_mat gate, struct kn_mat up)
{
    struct kn_check ck = ref_check(s, "swiglu_bwd");

    if (!kn_check_same(ck, "gate", gate, "up", up) || !kn_check_same(ck, "gate", gate, "dh", dh) ||
        !kn_check_same(ck, "gate", gate, "dgate", dgate) ||
        !kn_check_same(ck, "gate", gate, "dup", dup))
        return;
    for (int64_t t = 0; t < dh.rows; t++) {
        for (int64_t c = 0; c < dh.cols; c++) {
            double x = ref_get(gate, t, c), u = ref_get(up, t, c), d = ref_get(dh, t, c);
            double sigma = 1.0 / (1.0 + exp(-x));

            ref_set(dgate, t, c, d * u * sigma * (1.0 + x * (1.0 - sigma)));
            ref_set(dup, t, c, d * x * sigma);
        }
    }
}
