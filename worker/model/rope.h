/* rope.h - the angles of rotary positions for every scaling scheme, and how a job's wish composes
 * with the base's. */
#pragma once
#include "proto/job.h"
#include "worker/formats/source.h"

/* The factor a job means: job.context.rope.factor, or max(1, ceil(length / (max_positions * the
 * base's linear factor))) when it is left out; 1 for type default and on a dynamic base. */
double rope_job_factor(const struct lh_job *job, const struct model_config *base);

/* The scaling that results (spec: job-spec.md). The job's type may be the base's own (its factor
 * multiplies), or on a base without scaling linear, yarn or dynamic (original length = the base's
 * max_positions), or ntk, which comes out as type default with a larger theta; anything else is
 * LH_EJOB at /context/rope. Factor 1 leaves the base as it is, but for dynamic beyond its length.
 */
LH_MUST_CHECK int rope_compose(const struct lh_job *job, const struct model_config *base,
                               struct rope_config *ret_rope, struct lh_err *reterr);

/* max_position_embeddings of a config with this scaling whose model has learned windows of `length`
 * tokens: the larger of both, but with dynamic the original length, from which readers of the
 * config derive the angles of longer texts. */
int64_t rope_max_positions(const struct rope_config *rope, const struct model_config *base,
                           int64_t length);

/* inv_freq (head_dim/2) in double and the scaling of cos and sin, for a window of `length` tokens.
 */
LH_MUST_CHECK int rope_frequencies(const struct rope_config *rope, const struct model_config *base,
                                   int64_t length, double *ret_inv_freq, double *ret_scaling,
                                   struct lh_err *reterr);

/* cos_sin as kn_ops.rope wants it: positions x head_dim floats, computed in double, rounded once.
 */
void rope_table(const double *inv_freq, double scaling, int64_t head_dim, int64_t positions,
                float *ret_cos_sin);

/* rope_parameters / rope_scaling in Hugging Face's words, for checkpoints and exported configs: new
 * reference. */
json_t *rope_json(const struct rope_config *rope);
