/* cross_entropy.c - per-row loss log sum exp(x) - x[label], and its gradient (softmax - onehot) *
 * grad_scale. */
#include "kernels/reference/ref.h"
#include <math.h>

static void cross_entropy_row(double *nll, struct kn_mat dlogits, struct kn_mat logits, int64_t t,
                              int32_t label, double grad_scale, double *row)
{
    double max = -INFINITY, sum = 0.0, target;

    for (int64_t c = 0; c < logits.cols; c++) {
        row[c] = ref_get(logits, t, c);
        max = fmax(max, row[c]);
    }
    target = label >= 0 ? row[label] : 0.0;
    for (int64_t c = 0; c < logits.cols; c++) {
        row[c] = exp(row[c] - max);
        sum += row[c];
    }
    *nll = label >= 0 ? max + log(sum) - target : 0.0;
    for (int64_t c = 0; dlogits.p && c < logits.cols; c++) {
        double grad = label >= 0 ? (row[c] / sum - (c == label ? 1.0 : 0.0)) * grad_scale : 0.0;

        ref_set(dlogits, t, c, grad);
    }
}

void ref_cross_entropy(struct kn_stream *s, double *nll, struct kn_mat dlogits,
                       struct kn_mat logits, const int32_t *label, float grad_scale)
{
    struct kn_check ck = ref_check(s, "cross_entropy");
    double *row;

    if (!kn_check_mat(ck, "logits", logits) ||
        (dlogits.p && !kn_check_same(ck, "logits", logits, "dlogits", dlogits)) ||
        !kn_check_labels(ck, label, logits.rows, logits.cols))
        return;
    row = ref_scratch(s, logits.cols);
    if (!row)
        return;
    for (int64_t t = 0; t < logits.rows; t++)
        cross_entropy_row(&nll[t], dlogits, logits, t, label[t], (double)grad_scale, row);
}
