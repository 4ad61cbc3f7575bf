/* core.h - the coordinator's decisions, pure: event and time in, effects out.
 *
 * No clock, socket, file, database or log here: the same code runs in production, in unit tests and in a simulator.
 * The core owns the tables of jobs, attempts, nodes and claims in memory; effects tell step.c what to write (in one
 * transaction), and what to tell nodes once that transaction is on disk (commit before side effect).
 *
 * Always true: a slot belongs to at most one live attempt; a job has at most one live attempt; a final state never
 * changes; every transition is one of proto/state.h's tables and makes exactly one event row.
 */
#pragma once
#include "daemon/coordinator/change.h"
#include "proto/job.h"
#include "proto/state.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define CORE_NODE_NAME_MAX 64
#define CORE_ID_MAX 32
#define CORE_SLOTS_MAX 256       /* of a node: far above any machine, 32 bytes of bit map a claim */
#define CORE_KEY_MAX 128         /* bytes of an Idempotency-Key */
#define CORE_PIPELINE_MAX 256    /* jobs of one POST */
#define CORE_PREFLIGHTS_MAX 4    /* at a time on a node: each is a process that reads a model's header */

struct core;

struct core_config {
    uint64_t suspect_ms, down_ms, lease_ms; /* 15000, 60000, 1800000 */
    uint64_t prepare_ms;                    /* allocated to prepared deadline (staging): 3600000 */
    uint64_t launch_ms;                     /* launching to running deadline: 120000 */
    uint64_t wall_slack_ms;                 /* beyond limits.wall_s, which the shim keeps by itself: 120000 */
    uint64_t stop_grace_ms;                 /* cancel: from stop to kill: 10000 */
    uint64_t retry_base_ms, retry_max_ms;   /* backoff of attempts: 10000, 600000 */
    uint64_t stall_ms;                      /* a tick later than this was our own pause: no node is blamed: 5000 */
    uint64_t idem_keep_ms;                  /* how long an Idempotency-Key is known: 7 days */
    unsigned queue_max;                     /* not final jobs: 1000000 */
    uint64_t jobs_keep_ms;                  /* a job that ended leaves the core after so long; 0: never */
    unsigned jobs_max;                      /* and the longest ended when there are more; 0: any number */
    const char *store;                      /* default upload URI prefix */
    const char *ports;                      /* "LOW-HIGH" */
};

/* ---- what the API shows; pointers live until the next core_step ------------------------------ */
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
    uint64_t not_before_ms; /* wall clock: a retry waits until then; 0: does not wait */
    bool cancel;            /* a user wants it gone; it is on its way */
};
struct core_claim {
    char node[CORE_NODE_NAME_MAX];
    unsigned slots;
    bool prepared, cleaned;
    uint64_t slot_mask[CORE_SLOTS_MAX / 64]; /* which slots of the node */
};
struct core_attempt {
    uint64_t number;
    enum lh_attempt_state state;
    char outcome[24], class[16];
    uint64_t allocated_ms, started_ms, ended_ms;
    unsigned n_claims;
    struct core_claim *claims; /* the gang; [0] is the head */
    json_t *exit;              /* the exit report, or NULL */
    char stop_reason[24];      /* "cancel", "time_limit", "prepare_failed", "launch_timeout", "node_lost"; "" */
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
const struct core_node *core_find_node(const struct core *c, const char *name);
uint64_t core_last_seq(const struct core *c);
uint64_t core_last_number(const struct core *c); /* of any job, also one that has left */
uint64_t core_oldest_queued_ms(const struct core *c); /* wall clock of its submission; 0: none is queued */

/* Checkpoints and outputs of all jobs by state ("written", "uploading", "done", "failed"), and their bytes. */
unsigned core_count_uploads(const struct core *c, const char *state, uint64_t *ret_bytes);

/* Why a job does not run, as of now: reason (a word) and detail (a sentence). */
void core_explain(const struct core *c, const struct core_job *j, uint64_t wall_ms, char ret_reason[static 64],
                  char ret_detail[static 320]);

/* Its place in the queue, from 1: the head; 0: it is not queued. A job that waits for its next attempt has a place, too. */
unsigned core_queue_position(const struct core *c, const struct core_job *j);

/* The jobs that have not ended and that this one comes after, by `after` or by a `job:` URI: at most max, their number. */
unsigned core_unmet(const struct core *c, const struct core_job *j, unsigned max, const struct core_job **ret_jobs);

/* ---- events ---------------------------------------------------------------------------------- */
enum core_event_type {
    CORE_EV_TICK,     /* time has passed; at least once a second */
    CORE_EV_SUBMIT,   /* one job, or a pipeline */
    CORE_EV_ACTION,   /* cancel, hold, release */
    CORE_EV_REGISTER, /* NODE-4 */
    CORE_EV_SEEN,     /* a poll of a known node: it lives */
    CORE_EV_REPORT,   /* one report of NODE-14 to NODE-18 */
};

struct core_new_job {
    char id[CORE_ID_MAX];
    struct lh_job *job; /* the step takes it, also when it refuses */
};

struct core_event {
    enum core_event_type type;
    uint64_t now_ms;  /* monotonic; never less than the event before: deadlines */
    uint64_t wall_ms; /* what rows and people see */
    uint64_t random;  /* jitter */
    union {
        struct {
            struct core_new_job *jobs; /* n_jobs, each with a fresh id */
            unsigned n_jobs;
            bool pipeline;   /* came as an array: pointers of problems begin with /INDEX */
            bool dry_run;    /* answer with the placement, change nothing */
            const char *principal, *key, *fingerprint; /* key may be NULL */
        } submit;
        struct { uint64_t committed_seq; } tick; /* the newest event that is on disk */
        struct {
            const char *job, *action, *principal;
            uint64_t if_match; /* 0: not given */
        } action;
        struct { const json_t *body; } reg; /* a request of NODE-4 whose members have been checked */
        struct { const char *node; } seen;
        struct { const char *node; const json_t *report; } report;
    } u;
};

/* ---- effects --------------------------------------------------------------------------------- */
/* To deliver after the commit, in order. body: a command without seq. NULL: forget what waits for this node, it
 * has registered anew and what it must still do follows. */
struct core_command {
    char node[CORE_NODE_NAME_MAX];
    json_t *body; /* owned */
};

struct core_effects {
    struct change_set changes;
    struct core_command *commands;
    unsigned n_commands, cap_commands;

    /* The answer, to be given after the commit. status is an HTTP status; refusals have code and detail. */
    int status;
    const char *code;
    char detail[320];
    json_t *errors; /* array of {pointer, code, detail}, or NULL */
    /* submit: array of job ids; dry run: array of {spec, fits, now, placement, plan: null, problem, reason?, detail?,
     * inputs?}, where inputs (NODE-9) stands when a preflight can be made; action: the job's id; register: {kill: [...]} */
    json_t *body;
    bool replayed;
};

struct core *core_new(const struct core_config *config, uint64_t now_ms, uint64_t wall_ms); /* strings are copied */
void core_free(struct core *c); /* accepts NULL */

/* The one door. *fx is zeroed here; release it. Events come in the order of their time. */
void core_step(struct core *c, const struct core_event *ev, struct core_effects *fx);
void core_effects_release(struct core_effects *fx);

/* Start: rows as the store holds them (change.h), tables in the order node, job, attempt, claim, checkpoint,
 * idem_key, then core_loaded. LH_ESTATE names the row that makes no sense. */
LH_MUST_CHECK int core_load(struct core *c, const char *table, const json_t *row, struct lh_err *reterr);
void core_loaded(struct core *c, uint64_t last_seq, uint64_t last_number);

/* Jobs that ended long ago leave (core_config.jobs_keep_ms, jobs_max) and are then found by none of the above, except
 * while another job needs them. core_recall takes one back: after core_loaded, rows as core_load takes them, [table, row]
 * with the job first. core_unknown_names calls fn for each job that `job` comes after and that is not here. */
LH_MUST_CHECK int core_recall(struct core *c, const json_t *rows, struct lh_err *reterr);
typedef void core_name_fn(void *arg, const char *name);
void core_unknown_names(const struct core *c, const struct lh_job *job, core_name_fn *fn, void *arg);

void core_configure(struct core *c, const struct core_config *config); /* new timers and limits, from now on */

/* True when an agent id belongs to a node that has registered since this core was made (NODE-3). */
bool core_knows_agent(const struct core *c, const char *node, const char *agent_id);
