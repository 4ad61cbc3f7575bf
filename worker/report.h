/* report.h - the first and the last lines of a rank's journal (spec: events.md). */
#pragma once
#include "worker/run.h"

/* `start`: who runs what where. with_plan: rank 0's line has what `--plan` would say, and a job
 * that does not fit is found here, before any weight is read. */
LH_MUST_CHECK int report_start(struct run *r, bool with_plan, struct lh_err *reterr);

/* An `error` unless all is well or the end was asked for, then `done`. */
void report_end(struct run *r, int rc, enum worker_exit code, const struct lh_err *err);
