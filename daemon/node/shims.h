/* shims.h - starting shims so that they outlive us, talking to them, and cleaning up after one that
 * died. */
#pragma once
#include "daemon/node/node.h"

/* Starts `longhaul-shim DIR` detached: its own session, not our child, its output in DIR/shim.log;
 * in that cgroup, "" in ours. */
LH_MUST_CHECK int shims_start(const struct node *n, const char *dir, const char *cgroup,
                              struct lh_err *reterr);

/* Whether DIR/shim.json names a process that lives (same boot, same start time). */
bool shims_alive(const char *dir);

/* One request to DIR/control.sock. done is called once from the loop with the answer (borrowed), or
 * NULL and why. The request is stolen. */
typedef void shims_done_fn(void *arg, const json_t *answer, const struct lh_err *err);
void shims_ask(uv_loop_t *loop, const char *dir, json_t *request, unsigned timeout_ms,
               shims_done_fn *done, void *arg);

/* Kills every process that carries LONGHAUL_ATTEMPT_DIR=dir in its environment; returns how many
 * there were. Blocking, some milliseconds; for attempts whose shim is dead. */
unsigned shims_kill_orphans(const char *dir);
