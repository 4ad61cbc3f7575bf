/* job_plan.h - what a job of any kind with a model will need of a rank. */
#pragma once
#include "proto/job.h"

/* As engine_plan, of every kind that has a model: new reference. Opens its model, no texts. */
struct engine_place;
LH_MUST_CHECK int job_plan(const struct lh_job *job, const struct engine_place *place,
                           json_t **ret_plan, struct lh_err *reterr);
