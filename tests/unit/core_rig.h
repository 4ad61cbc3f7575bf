/* core_rig.h - a core on virtual time for tests: short calls in, a trace of effects out, invariants after each step.
 *
 * The rows of all events are kept as a store would keep them, so that a test can start another core from them
 * (rig_restart) exactly as longhauld does after a crash.
 */
#pragma once
#include "daemon/coordinator/core/core.h"
#include "proto/base/buf.h"
#include "tests/unit/unit.h"

struct rig {
    struct core *core;
    struct core_config config;
    uint64_t now_ms, random;
    json_t *tables; /* {"job": {id: row}, ...} */
    json_t *finals; /* id: state, of jobs that have ended */
    struct lh_buf trace;
    struct core_effects fx; /* of the last step */
    void (*on_command)(void *arg, const char *node, const json_t *body); /* NULL body: reset */
    void *arg;
};

void rig_init(struct rig *r);
void rig_release(struct rig *r);
void rig_restart(struct rig *r); /* a new core from the rows; nodes have to register */

/* Steps. Each appends lines to the trace and checks the invariants. */
void rig_step(struct rig *r, struct core_event *ev);
void rig_wait(struct rig *r, uint64_t ms); /* ticks of 500 ms */
void rig_submit(struct rig *r, const char *id, const char *spec);       /* one job, JSON with ' for " */
void rig_submit_key(struct rig *r, const char *id, const char *spec, const char *key, const char *fingerprint);
void rig_pipeline(struct rig *r, unsigned n, const char *const *ids, const char *specs);
void rig_action(struct rig *r, const char *id, const char *action);
void rig_register(struct rig *r, const char *node, unsigned slots, const char *agent, const char *attempts);
void rig_report(struct rig *r, const char *node, const char *report);

/* Usual ways: preflight ok; prepared on all nodes and running; the head's exit and cleaned everywhere. */
void rig_preflight(struct rig *r, const char *node, const char *id);
void rig_run(struct rig *r, const char *id);
void rig_exit(struct rig *r, const char *id, const char *outcome, const char *class, int code);
void rig_clean(struct rig *r, const char *id);

const struct core_job *rig_job(const struct rig *r, const char *id);
void rig_expect_state(const struct rig *r, const char *id, const char *state, const char *reason);
/* Compares the trace since the last call, line by line, and clears it. */
void rig_expect(struct rig *r, const char *trace);
