/* cross_entropy.c - loss log sum exp(z) - z[label] of the logits z = w x of each token, and its
 * gradient (softmax - onehot) * grad_scale, transposed. */
#include "kernels/reference/ref.h"
#include <math.h>

static void cross_entropy_logits(double *z, struct kn_mat x, struct kn_mat w, int64_t t)
{
    for (int64_t v = 0; v < w.rows; v++) {
        z[v] = 0.0;
        for (int64_t c = 0; c < x.cols; c++)
            z[v] += ref_get(x, t, c) * ref_get(w, v, c);
    }
}

/* z: the logits of token t, used up. */
static void cross_entropy_token(double *nll, struct kn_mat d, int64_t t, int32_t label,
                                double grad_scale, double *z, int64_t V)
{
    double max = -INFINITY, sum = 0.0, target = label >= 0 ? z[label] : 0.0;

    for (int64_t v = 0; v < V; v++)
        max = fmax(max, z[v]);
    for (int64_t v = 0; v < V; v++) {
        z[v] = exp(z[v] - max);
        sum += z[v];
    }
    *nll = label >= 0 ? max + log(sum) - target : 0.0;
    for (int64_t v = 0; d.p && v < V; v++) {
        double grad = label >= 0 ? (z[v] / sum - (v == label ? 1.0 : 0.0)) * grad_scale : 0.0;

        ref_set(d, v, t, grad);
    }
}

void ref_cross_entropy(struct kn_stream *s, double *nll, struct kn_mat d, struct kn_mat x,
                       struct kn_mat w, const int32_t *label, float grad_scale)
{
    double *z;

    if (!kn_check_cross_entropy(ref_check(s, "cross_entropy"), d, x, w, label))
        return;
    z = ref_scratch(s, w.rows);
    if (!z)
        return;
    for (int64_t t = 0; t < x.rows; t++) {
        cross_entropy_logits(z, x, w, t);
        cross_entropy_token(&nll[t], d, t, label[t], (double)grad_scale, z, w.rows);
    }
}
