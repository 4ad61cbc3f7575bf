/* rope_check.h - does the model still know short texts with the positions that a job asks for? */
#pragma once
#include "worker/data/dataset.h"
#include "worker/kinds/engine.h"
#include "worker/run.h"

#define ROPE_CHECK_TOKENS 1024
#define ROPE_CHECK_BANDS 4

/* Before the first step: compares the loss of the model with the new positions to that with the
 * base's own, on the first tokens of the training data, as many as the base was made for, by bands
 * of positions. Refuses (LH_EJOB at /context/rope, with the figures) when a band is broken
 * (JOB-40); puts the figures into the result as `rope_check`. Nothing is done when the job scales
 * nothing, says skip_check, or is resumed. Collective. */
LH_MUST_CHECK int rope_check(struct run *r, struct engine *e, const struct dataset *data,
                             struct lh_err *reterr);
