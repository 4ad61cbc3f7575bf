/* rope.c - rotates pairs (x_i, x_{i+D/2}) of every head by the angles of the token's position. */
#include "kernels/reference/ref.h"

void ref_rope(struct kn_stream *s, struct kn_mat x, int64_t D, const float *cos_sin,
              const int32_t *pos, bool inverse)
{
    int64_t half = D / 2;

    if (!kn_check_heads_of(ref_check(s, "rope"), "x", x, D))
        return;
    for (int64_t t = 0; t < x.rows; t++) {
        const float *angle = cos_sin + pos[t] * D;

        for (int64_t h = 0; h < x.cols; h += D) {
            for (int64_t i = 0; i < half; i++) {
                double cosine = (double)angle[i];
                double sine = inverse ? -(double)angle[half + i] : (double)angle[half + i];
                double a = ref_get(x, t, h + i), b = ref_get(x, t, h + half + i);

                ref_set(x, t, h + i, a * cosine - b * sine);
                ref_set(x, t, h + half + i, b * cosine + a * sine);
            }
        }
    }
}
