/* ropes.h - the scalings of positions that an evaluation compares (eval.ropes), on one loaded
 * model. */
#pragma once
#include "worker/kinds/engine.h"

/* How many settings there are: 1 without eval.ropes, which is the engine's own. */
unsigned ropes_count(const struct lh_job *job);

/* Refuses what the base cannot take, at /eval/ropes/N: before weights are loaded. */
LH_MUST_CHECK int ropes_check(const struct lh_job *job, const struct engine *e,
                              struct lh_err *reterr);

/* Turns the model to setting i; without eval.ropes nothing changes. */
LH_MUST_CHECK int ropes_turn(const struct lh_job *job, struct engine *e, unsigned i,
                             struct lh_err *reterr);

#define ROPES_LABEL 40
/* For people: "as shipped", "yarn x 4". */
void ropes_label(const struct lh_job *job, const struct engine *e, unsigned i,
                 char ret_label[static ROPES_LABEL]);
