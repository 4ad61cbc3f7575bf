/* held.h - what this node holds: one entry for each attempt on its disk that is not forgotten.
 *
 * STATE/attempts/JOB/NUMBER/ is the truth (spec: node-protocol.md, SHIM-1); an entry is what can be
 * read from it, plus what was told to the coordinator in this session. A restarted daemon reads the
 * directories and goes on.
 *
 *   STAGING ──inputs are there──► STARTING ──shim answers──► LIVE ──cleaned.json──► OVER
 *      └──── an error ───► OVER (refused.json) ◄── shim dead ──┘ (leftovers killed, records made)
 */
#pragma once
#include "daemon/node/node.h"

enum held_state { HELD_STAGING, HELD_STARTING, HELD_LIVE, HELD_OVER };

struct ship;
struct uploads;

struct held {
    struct held *next;
    struct node *node;
    char job[64];
    uint64_t number;
    bool head;
    unsigned rank0, n_local; /* the ranks of this node */
    char dir[NODE_PATH_MAX];
    json_t *command; /* attempt.json, owned */
    enum held_state state;
    bool told_prepared, told_launched, told_running, told_exited, told_cleaned;
    bool stop_wanted, forget_wanted, asking, cgroup_gone;
    volatile bool cancel; /* read by the staging thread */
    unsigned workers;     /* threads that still use this entry */
    uint64_t over_ms;     /* when OVER was seen, monotonic */
    json_t *relayed;      /* object: names of relay files told in this session */
    struct ship *ship;
    struct uploads *uploads;
};

const char *held_path(const struct held *h, char *buf,
                      const char *name); /* DIR/name, buf of NODE_PATH_MAX */
struct held *held_find(const struct node *n, const char *job, uint64_t number); /* NULL: not held */

/* At start: adopts what is on disk. */
LH_MUST_CHECK int held_load_all(struct node *n, struct lh_err *reterr);
void held_free_all(struct node *n); /* memory only; nothing is stopped */

/* Commands (NODE-9 ... NODE-13). Each may be repeated. */
void held_prepare(struct node *n, const json_t *command);
void held_launch(struct held *h);
void held_orted(struct held *h, const char *command);
void held_checkpoint(struct held *h);
void held_stop(struct held *h, const char *reason, uint64_t grace_ms);
void held_forget(struct held *h);

/* A few times a second: looks at the files and reports what is new. */
void held_tick_all(struct node *n);

json_t *held_list(const struct node *n); /* for registration: [{job, attempt, role, state}] */
void held_tell_all(struct node *n);      /* everything again: after a registration */
void held_renew_leases(struct node *n);  /* each attempt's own lease_s */
