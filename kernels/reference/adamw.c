/* adamw.c - one update of decoupled weight decay and Adam, and the sum of squares that a clip
 * needs. */
#include "kernels/reference/ref.h"
#include <math.h>

void ref_sum_squares(struct kn_stream *s, double *ret, const float *x, int64_t n)
{
    double sum = 0.0;

    if (s->err.code != 0)
        return;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    *ret = sum;
}

void ref_adamw(struct kn_stream *s, float *p, float *m, float *v, const float *g, uint16_t *low,
               int64_t n, const struct kn_adamw *h)
{
    double b1 = (double)h->beta1, b2 = (double)h->beta2, lr = (double)h->lr;
    double correct1 = 1.0 - pow(b1, (double)h->t), correct2 = 1.0 - pow(b2, (double)h->t);

    if (s->err.code != 0)
        return;
    for (int64_t i = 0; i < n; i++) {
        double grad = (double)g[i] * (double)h->grad_scale;
        double first = b1 * (double)m[i] + (1.0 - b1) * grad;
        double second = b2 * (double)v[i] + (1.0 - b2) * grad * grad;
        double x = (double)p[i] * (1.0 - lr * (double)h->weight_decay);

        x -= lr * (first / correct1) / (sqrt(second / correct2) + (double)h->eps);
        m[i] = (float)first;
        v[i] = (float)second;
        p[i] = (float)x;
        if (low)
            low[i] = kn_f32_to_bf16(p[i]);
    }
}
