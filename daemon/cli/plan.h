/* plan.h - the two ways of `longhaul plan` to a plan: through the coordinator, or by itself. */
#pragma once
#include "daemon/cli/cli.h"

/* The answer of `longhaul-worker --plan` for a job, new reference: {"ok": true, ...} or {"ok":
 * false, "code", "pointer", "detail"}. Returns 0, or an exit code after a message. */
int plan_local(const json_t *job, json_t **ret_answer);
