/* sample.c - see sample.h. */
#include "worker/model/sample.h"
#include "worker/model/counter.h"
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

int sampler_init(struct sampler *s, struct lh_err *reterr)
{
    assert(s->V > 0);
    assert(s->temperature >= 0);
    assert(s->top_p > 0 && s->top_p <= 1);
    s->at = malloc((size_t)s->V * sizeof(*s->at));
    return s->at ? 0 : lh_err_set(reterr, -ENOMEM, "candidates of a draw");
}

void sampler_release(struct sampler *s)
{
    free(s->at);
    s->at = NULL;
}

/* The likeliest, or -1. Minus infinity is a token that is ruled out; anything else must be finite.
 */
static int32_t greedy(const struct sampler *s, const float *logits)
{
    int32_t best = -1;

    for (int64_t i = 0; i < s->V; i++) {
        if (isnan(logits[i]) || logits[i] == INFINITY)
            return -1;
        if (isfinite(logits[i]) && (best < 0 || logits[i] > logits[best]))
            best = (int32_t)i;
    }
    return best;
}

static int likelier_first(const void *a, const void *b)
{
    const struct sample_candidate *x = a, *y = b;

    if (x->p != y->p)
        return x->p > y->p ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* The candidates that may be drawn, in the order in which they are added up; *ret_sum is of them.
 */
static int64_t nucleus(struct sampler *s, const float *logits, float largest, double *ret_sum)
{
    double sum = 0, least, taken = 0;
    int64_t n = 0, kept = 0;

    for (int64_t i = 0; i < s->V; i++) {
        double p = exp(((double)logits[i] - (double)largest) / s->temperature);

        if (p > 0)
            s->at[n++] = (struct sample_candidate){p, (int32_t)i};
        sum += p;
    }
    *ret_sum = sum;
    if (s->top_p == 1)
        return n;
    /* Those below `least` have less than 1 - top_p together, so none of them is in the nucleus: few
     * are left to be sorted. */
    least = (1 - s->top_p) * sum / (double)s->V;
    for (int64_t i = 0; i < n; i++)
        if (s->at[i].p >= least)
            s->at[kept++] = s->at[i];
    qsort(s->at, (size_t)kept, sizeof(*s->at), likelier_first);
    for (n = 0; n < kept && taken < s->top_p * sum; n++)
        taken += s->at[n].p;
    *ret_sum = taken;
    return n;
}

int32_t sampler_next(struct sampler *s, const float *logits, uint64_t place, uint64_t index)
{
    int32_t best = greedy(s, logits);
    double sum, at, so_far = 0;
    int64_t n;

    if (s->temperature == 0 || best < 0)
        return best;
    n = nucleus(s, logits, logits[best], &sum);
    at = (double)(counter_bits(s->seed, place, index) >> 11) * 0x1p-53 * sum;
    for (int64_t i = 0; i < n; i++) {
        so_far += s->at[i].p;
        if (at < so_far)
            return s->at[i].id;
    }
    return n > 0 ? s->at[n - 1].id
                 : best; /* the sum, added in another order, was larger by a bit */
}
