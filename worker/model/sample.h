/* sample.h - the next token out of logits: greedy, or drawn with a temperature from the likeliest.
 *
 * Draws come from a counter (seed, place, index), so a text depends on nothing but its own seed,
 * place and logits. All arithmetic is in double, ties go to the lower id.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <stdint.h>

struct sample_candidate {
    double p; /* not normalised */
    int32_t id;
};

struct sampler {
    double temperature; /* 0: greedy */
    double top_p;       /* in (0, 1]: draw from the likeliest that together have this share */
    uint64_t seed;
    int64_t V;
    struct sample_candidate *at; /* owned, V */
};

/* temperature, top_p, seed and V are set by the caller. */
LH_MUST_CHECK int sampler_init(struct sampler *s, struct lh_err *reterr);
void sampler_release(struct sampler *s);

/* Token `index` of text `place`; -1 when a logit is not finite. */
int32_t sampler_next(struct sampler *s, const float *logits, uint64_t place, uint64_t index);
