/* core.h - the coordinator's decisions, pure: event and time in, effects out.
 *
 * No clock, socket, file, database or log here: the same code runs in production, in unit tests and in a simulator.
 * The core owns the tables of jobs, attempts, nodes and claims in memory; effects tell app.c what to write (in one
 * transaction), and what to tell nodes once that transaction is on disk (commit before side effect).
 *
 * Always true: a slot belongs to at most one live attempt; a job has at most one live attempt; a final state never
 * changes; every transition is one of proto/state.h's tables and makes exactly one event row.
 */
#pragma once
#include "proto/job.h"
#include "proto/state.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define CORE_NODE_NAME_MAX 64
#define CORE_ID_MAX 32

struct core;

struct core_config {
    uint64_t suspect_ms, down_ms, lease_ms; /* 15000, 60000, 1800000 */
    uint64_t launch_ms;                     /* allocated to running deadline: 120000 */
    uint64_t stop_grace_ms;                 /* cancel: from stop to kill: 10000 */
    unsigned queue_max;                     /* not final jobs: 1000000 */
    const char *store;                      /* default upload URI prefix */
    const char *ports;                      /* "LOW-HIGH" */
};

/* ---- what the API shows; pointers live until the next core_step ------------------------------------------------ */
struct core_job {
    char id[CORE_ID_MAX];
    uint64_t number;   /* short, for people; grows with submission */
    uint64_t revision; /* grows with every change: the ETag */
    struct lh_job *job;
    char *principal;   /* who submitted it */
    enum lh_job_state state;
    char reason[64];    /* "preflight", "after", "infeasible", "resources", "user", ...; "" when none */
    char detail[320];   /* a sentence for people */
    uint64_t submitted_ms, started_ms, ended_ms; /* wall clock; 0: not yet */
    json_t *plan;       /* from preflight, or NULL */
    json_t *result;     /* of the last attempt, or NULL */
    json_t *error;      /* {code, class, pointer, detail} of a failed job, or NULL */
    unsigned n_attempts;
    struct core_attempt *attempts;    /* n_attempts, oldest first */
    unsigned n_checkpoints;
    struct core_checkpoint *checkpoints;
};
struct core_claim { char node[CORE_NODE_NAME_MAX]; unsigned slots; bool prepared, cleaned; };
struct core_attempt {
    uint64_t number;
    enum lh_attempt_state state;
    char outcome[24], class[16];
    uint64_t allocated_ms, started_ms, ended_ms;
    unsigned n_claims;
    struct core_claim *claims; /* the gang; [0] is the head */
    json_t *exit;              /* the exit report, or NULL */
    char stop_reason[24];      /* "cancel", "time_limit", "drain"; "" */
};
struct core_checkpoint {
    uint64_t attempt;
    int64_t step;       /* -1: an output named `output` */
    char output[32];
    char state[16];     /* "written", "uploading", "done", "failed" */
    char uri[1024];     /* where it is uploaded, or the local path */
    char manifest_sha256[65];
    uint64_t bytes, time_ms;
    char error[256];
};
struct core_node {
    char name[CORE_NODE_NAME_MAX], agent_id[40], boot_id[40], version[24], hostname[72], address[64], device[16];
    enum lh_node_state state;
    unsigned slots, slots_used, cores;
    uint64_t memory_bytes, registered_ms, seen_ms /* monotonic */;
    char reason[128];
};

/* Iteration and lookup. Listing is by number, descending or ascending from a cursor. */
const struct core_job *core_find_job(const struct core *c, const char *id_or_number_or_name);
const struct core_job *core_next_job(const struct core *c, uint64_t after_number, bool descending); /* 0: from the end */
unsigned core_count_jobs(const struct core *c, enum lh_job_state state);
unsigned core_n_nodes(const struct core *c);
const struct core_node *core_node_at(const struct core *c, unsigned i);
