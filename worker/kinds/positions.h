/* positions.h - the positions of a finished model: those that it was trained with (JOB-31). */
#pragma once
#include "proto/job.h"
#include "worker/formats/source.h"

/* adapter_dir: what model.adapter names, or "". With a state.json in it the scaling and the length
 * are the checkpoint's, and a job that asks for another scaling is refused (LH_EJOB at
 * /context/rope). Otherwise they are the job's, or the base's own where the job says nothing. */
LH_MUST_CHECK int positions_finished(const struct lh_job *job, const struct model_config *base,
                                     const char *adapter_dir, struct rope_config *ret_rope,
                                     int64_t *ret_length, struct lh_err *reterr);
