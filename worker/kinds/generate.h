/* generate.h - kind generate: what a finished model writes behind prompts. */
#pragma once
#include "proto/job.h"
#include <jansson.h>

/* The answer of `--plan`; tokenises the prompts, since memory follows from their length. */
struct engine_place;
LH_MUST_CHECK int generate_plan(const struct lh_job *job, const struct engine_place *place,
                                json_t **ret_plan, struct lh_err *reterr);
