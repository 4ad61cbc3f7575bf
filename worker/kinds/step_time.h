/* step_time.h - how long a step will take, from measured rates (PLAN-6). */
#pragma once
#include "worker/kinds/engine.h"
#include "worker/model/rates.h"

/* What ranks on several machines are taken to send each other, bytes a second: 10 Gbit. Within a
 * machine the measured copy counts. */
#define STEP_TIME_NETWORK_BYTES 1.25e9

/* Seconds of a step of the rank that has most to do, on a machine that does nothing else: its
 * micro-batches, the sum of the gradients over the ranks, the update. Of an evaluation: a pass over
 * one window. */
double step_time(const struct llama *m, const struct lh_job *job, const struct engine_place *place,
                 const struct rates *rates);
