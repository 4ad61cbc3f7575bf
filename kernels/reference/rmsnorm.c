/* rmsnorm.c - y = x * rstd * g with rstd = 1/sqrt(mean x^2 + eps), and its gradients.
 *
 * With xhat = x*rstd: dx = rstd * (dy*g - xhat * mean(dy*g*xhat)), dg = sum over tokens of dy*xhat.
 */
#include "kernels/reference/ref.h"
#include <math.h>

void ref_rmsnorm_fwd(struct kn_stream *s, struct kn_mat y, float *rstd, struct kn_mat x,
                     const float *g, float eps)
{
    if (!kn_check_same(ref_check(s, "rmsnorm_fwd"), "x", x, "y", y))
        return;
    for (int64_t t = 0; t < x.rows; t++) {
        double squares = 0.0, r;

        for (int64_t c = 0; c < x.cols; c++)
            squares += ref_get(x, t, c) * ref_get(x, t, c);
        r = 1.0 / sqrt(squares / (double)x.cols + (double)eps);
        rstd[t] = (float)r;
        for (int64_t c = 0; c < x.cols; c++)
            ref_set(y, t, c, ref_get(x, t, c) * r * (double)g[c]);
    }
}

static void rmsnorm_dg(float *dg, struct kn_mat dy, struct kn_mat x, const float *rstd)
{
    for (int64_t c = 0; c < x.cols; c++) {
        double sum = 0.0;

        for (int64_t t = 0; t < x.rows; t++)
            sum += ref_get(dy, t, c) * ref_get(x, t, c) * (double)rstd[t];
        dg[c] = (float)((double)dg[c] + sum);
    }
}

void ref_rmsnorm_bwd(struct kn_stream *s, struct kn_mat dx, float *dg, struct kn_mat dy,
                     struct kn_mat x, const float *g, const float *rstd)
{
    struct kn_check ck = ref_check(s, "rmsnorm_bwd");

    if (!kn_check_same(ck, "x", x, "dy", dy) || !kn_check_same(ck, "x", x, "dx", dx))
        return;
    if (dg)
        rmsnorm_dg(dg, dy, x, rstd);
    for (int64_t t = 0; t < x.rows; t++) {
        double r = (double)rstd[t], mean = 0.0;

        for (int64_t c = 0; c < x.cols; c++)
            mean += ref_get(dy, t, c) * (double)g[c] * ref_get(x, t, c) * r;
        mean /= (double)x.cols;
        for (int64_t c = 0; c < x.cols; c++)
            ref_add(dx, t, c, r * (ref_get(dy, t, c) * (double)g[c] - ref_get(x, t, c) * r * mean));
    }
}
