/* optim.h - what happens to gradients: the learning rate of a step, their squares, clipping, AdamW.
 */
#pragma once
#include "worker/model/linear.h"

/* The rate of step `step` (counted from 0) of a run of `steps`: with W warm-up steps
 *   constant: lr min(1, s/W);   linear: lr s/W, then down to 0 at `steps`;   cosine: lr s/W, then
 * half a cosine to 0. With a warm-up the first step has rate 0, as in transformers. */
double optim_rate(const struct lh_job *job, int64_t step, int64_t steps);

/* The sum of squares of the gradients that this process updates (params_own), in double, tensors in
 * the order of the table. The norm is the square root of the sum over all ranks. */
LH_MUST_CHECK int optim_squares(const struct device *d, const struct params *p, double *ret_squares,
                                struct lh_err *reterr);

/* What every gradient is multiplied by: min(1, clip / (norm + 1e-6)); 1 when clip is 0. */
double optim_clip(double clip, double norm);

/* One AdamW update, number t (1 for the first), of what this process updates (params_own): masters,
 * moments and what the ops read. LoRA's B takes lora_plus_ratio times the rate. */
LH_MUST_CHECK int optim_update(const struct device *d, const struct params *p,
                               const struct lh_job *job, double rate, double grad_scale, int64_t t,
                               struct lh_err *reterr);
