/* table.h - what the files of core/ share and nobody else sees: the tables behind core.h.
 *
 * Each job stands in exactly one list that says what it waits for (final jobs for their leaving memory), so that a step looks only
 * at jobs that it can move:
 *
 *     HELD ─ AFTER ─ PARKED (fits no node that is up) ─ PREFLIGHT_WAIT ─ PREFLIGHT ─ QUEUE ─ ACTIVE ─ DONE
 *
 * and CANCEL: cancelled while it waited, but an attempt that was lost may still run on a node that is down.
 */
#pragma once
#include "daemon/coordinator/core/core.h"

enum list_id {
    LIST_NONE, LIST_HELD, LIST_AFTER, LIST_PARKED, LIST_PREFLIGHT_WAIT, LIST_PREFLIGHT, LIST_QUEUE, LIST_ACTIVE,
    LIST_CANCEL, LIST_DONE,
    LIST_COUNT,
};

struct entry;

struct dep {
    char job[CORE_ID_MAX]; /* id */
    char *as;              /* as the spec names it */
    enum lh_when when;
    bool implicit; /* from a job: URI */
};

struct preflight_node {
    char node[CORE_NODE_NAME_MAX];
    bool answered;
};

struct entry {
    struct core_job pub;
    struct entry *prev, *next; /* of its list */
    enum list_id list;
    struct entry *hash_next, *name_next; /* name_next: an older job of the same name */
    struct dep *deps;
    unsigned n_deps;
    unsigned n_dependents; /* jobs that have not ended and come after this one */
    uint64_t last_seq;     /* the newest event about it */

    struct preflight_node *preflight; /* nodes asked, while in LIST_PREFLIGHT */
    unsigned n_preflight, preflight_tries;
    uint64_t preflight_after_ms; /* monotonic: a preflight that failed for the cluster's reasons waits */

    /* Of the live attempt. */
    uint64_t not_before_ms; /* monotonic twin of pub.not_before_ms */
    uint64_t deadline_ms;   /* monotonic: prepare, launch or wall limit; 0: none */
    bool head_gone;         /* no exit record will come: the head is down, or came back without the attempt */
    json_t *orted;          /* array of {node, command}: relays that a member must run */
    json_t *failure;        /* {code, class, pointer, detail} that ends the attempt, or NULL */
};

struct list {
    struct entry *first, *last;
    unsigned n;
};

struct node {
    struct core_node pub;
    bool registered; /* since this core was made */
    uint64_t used[CORE_SLOTS_MAX / 64];
    unsigned preflights; /* in flight */
};

struct idem {
    struct idem *next; /* of the hash chain */
    char *who;         /* principal, a newline, key */
    char fingerprint[80];
    json_t *jobs; /* array of ids */
    uint64_t time_ms;
};

/* A claim of a lost attempt on a node that did not say that its processes are gone. */
struct dirty {
    struct entry *entry;
    unsigned attempt; /* index */
};

struct core {
    struct core_config config;
    char *config_store, *config_ports;
    struct entry **jobs; /* by number */
    unsigned n_jobs, cap_jobs;
    struct entry **by_id, **by_name;
    unsigned n_buckets; /* a power of two */
    struct list lists[LIST_COUNT];
    unsigned count[LH_JOB_TIMED_OUT + 1];
    unsigned uploads[4]; /* by state, in the order of reports.c */
    uint64_t upload_bytes[4];
    struct node **nodes; /* in order of first registration */
    unsigned n_nodes;
    struct dirty *dirty;
    unsigned n_dirty;
    struct idem **idem;
    unsigned n_idem, n_idem_buckets;
    uint64_t idem_purged_ms;

    uint64_t seq, last_number, last_tick_ms;
    bool deps_changed;     /* a job became final: LIST_AFTER is worth a look */
    bool capacity_changed; /* nodes came or went: LIST_PARKED is */
    bool queue_changed;    /* slots were freed or a job was queued: LIST_QUEUE is */

    /* The step under way. */
    uint64_t now_ms, wall_ms, random;
    struct core_effects *fx;
};

/* ---- core.c */
void *core_alloc(size_t n);                /* zeroed; aborts when memory is exhausted */
char *core_strdup(const char *s);          /* aborts likewise */
void *core_grow(void *p, size_t n, size_t size);
void list_move(struct core *c, struct entry *e, enum list_id to);
void entry_free(struct entry *e);
uint64_t core_random(struct core *c); /* the next number from the event's random */

/* ---- find.c */
struct entry *entry_of(const struct core_job *j);
struct entry *find_id(const struct core *c, const char *id);
struct entry *find_number(const struct core *c, uint64_t number);
struct entry *find_any(const struct core *c, const char *what);
void entry_insert(struct core *c, struct entry *e); /* takes the next place by number */
void hash_remove(struct core *c, struct entry *e);

/* ---- rows.c */
json_t *row_job(const struct entry *e);        /* "job": everything */
json_t *row_job_update(const struct entry *e); /* "job_update": what changes */
json_t *row_job_plan(const struct entry *e);   /* "job_plan" */
json_t *row_job_result(const struct entry *e); /* "job_result" */
json_t *row_attempt(const struct entry *e, const struct core_attempt *a);
void rows_claim(struct change_event *ev, const struct core_job *j, const struct core_attempt *a, unsigned i);
json_t *row_checkpoint(const struct core_job *j, const struct core_checkpoint *k);
json_t *row_node(const struct core_node *n);
struct change_event *log_event(struct core *c, const char *type, const char *job, uint64_t attempt, json_t *data);
struct change_event *log_job(struct core *c, struct entry *e, const char *type); /* bumps the revision; job_update row */
void copy_text(char *to, size_t cap, const char *from); /* truncates at a character's boundary */

/* ---- jobs.c: transitions of jobs */
struct change_event *job_move(struct core *c, struct entry *e, enum lh_job_event ev, const char *reason,
                              const char *fmt, ...) LH_PRINTF(5, 6); /* the event: rows may be added to it */
void job_note(struct core *c, struct entry *e, const char *reason, const char *fmt, ...) LH_PRINTF(4, 5);
void job_fail(struct core *c, struct entry *e, json_t *error /* stolen */, const char *reason);
json_t *error_json(const char *code, const char *class, const char *pointer, const char *detail);
void job_action(struct core *c, const struct core_event *ev);
void job_cancel_waiting(struct core *c, struct entry *e); /* of LIST_CANCEL: cancelled as soon as nothing is left */

/* ---- submit.c */
void submit_step(struct core *c, const struct core_event *ev);
void submit_find_deps(struct core *c, struct entry *e, json_t *errors, const char *prefix,
                      struct entry *const *batch, unsigned n_batch);
json_t *dry_run(struct core *c, struct entry *const *batch, unsigned n); /* dry.c: of jobs that are not inserted */
void idem_load(struct core *c, const json_t *row);
void idem_purge(struct core *c);

/* ---- retire.c: from ended to forgotten */
void retire_hold_deps(struct core *c, struct entry *e, int by); /* +1: the jobs before it are needed, -1: no longer */
void retire_tick(struct core *c, uint64_t committed_seq);

/* ---- queue.c: from submitted to placed */
void queue_enter(struct core *c, struct entry *e); /* looks at a blocked job afresh */
bool queue_is_doomed(const struct core *c, const struct entry *e); /* a job that it comes after can never suit it */
void queue_run(struct core *c);                    /* everything that the flags say is worth a look */
void queue_preflight_report(struct core *c, struct node *n, const json_t *report);
void queue_preflight_node_gone(struct core *c, struct node *n);
void queue_leave_preflight(struct core *c, struct entry *e);

/* ---- place.c */
struct gang {
    unsigned n;
    struct gang_member { struct node *node; unsigned slots; } *at;
};
enum place_on { PLACE_FREE /* slots free now, nodes up */, PLACE_UP /* empty cluster of nodes that are up or suspect */,
                PLACE_ANY /* all nodes that ever registered */ };
bool place_gang(const struct core *c, const struct lh_job *job, enum place_on on, struct gang *ret_gang); /* ret may be NULL */
void gang_release(struct gang *g);
void pick_slots(const struct node *n, unsigned slots, uint64_t ret_mask[static CORE_SLOTS_MAX / 64]);
void claim_slots(struct node *n, const struct core_claim *claim);
void free_slots(struct node *n, const struct core_claim *claim);
unsigned mask_count(const uint64_t mask[static CORE_SLOTS_MAX / 64]);

/* ---- attempts.c: transitions of attempts */
struct core_attempt *live_attempt(struct entry *e); /* or NULL */
void attempt_start(struct core *c, struct entry *e, const struct gang *g);
void attempt_stop(struct core *c, struct entry *e, const char *reason, json_t *failure /* stolen or NULL */);
void attempt_node_gone(struct core *c, struct entry *e, struct core_attempt *a, unsigned claim, bool clean);
bool attempt_awaits_exit(const struct core *c, const struct core_attempt *a); /* launched, and the head is there */
void attempt_settle(struct core *c, struct entry *e); /* ends it when nothing is left to wait for */
void attempt_tick(struct core *c, struct entry *e);
void dirty_tick(struct core *c); /* claims of lost attempts whose lease has passed */
void attempt_arm(struct core *c, struct entry *e); /* sets the deadline of the stage that the live attempt is in */
uint64_t attempt_wall_left_ms(const struct core *c, const struct entry *e); /* of limits.wall_s; UINT64_MAX: no limit */
void attempt_claim_cleaned(struct core *c, struct entry *e, struct core_attempt *a, unsigned claim, const char *type);
struct change_event *attempt_move(struct core *c, struct entry *e, struct core_attempt *a, enum lh_attempt_event event);
struct change_event *attempt_log(struct core *c, struct entry *e, struct core_attempt *a, const char *type);

/* ---- attempt_reports.c */
void attempt_report(struct core *c, struct node *n, const char *type, const json_t *report);

/* ---- retry.c */
void retry_decide(struct core *c, struct entry *e, struct core_attempt *a);

/* ---- reports.c: checkpoints and uploads, ends of ranks */
void attempt_take_ranks(struct core_attempt *a, const json_t *ranks);
void checkpoint_report(struct core *c, struct entry *e, const char *type, const json_t *report);
void count_checkpoint(struct core *c, const struct core_checkpoint *k, int by); /* +1, -1 */
const struct core_checkpoint *newest_done(const struct core_job *j, const char *output /* NULL: checkpoints */);

/* ---- commands.c: what nodes are told */
void command_add(struct core *c, const char *node, json_t *body /* stolen */);
json_t *command_inputs(struct core *c, struct entry *e, json_t **ret_error); /* NULL and an error when one is missing */
typedef void uri_fn(void *arg, const char *pointer, const char *uri);
void each_uri(const struct lh_job *job, uri_fn *fn, void *arg);
void command_preflight(struct core *c, struct entry *e, const char *node);
void command_prepare(struct core *c, struct entry *e, unsigned claim);
void command_launch(struct core *c, struct entry *e);
void command_stop(struct core *c, struct entry *e, struct core_attempt *a, unsigned claim, const char *reason);
void command_forget(struct core *c, const char *node, const char *job, uint64_t attempt);

/* ---- nodes.c */
struct node *find_node(const struct core *c, const char *name);
struct node *node_add(struct core *c, const char *name);
void node_register(struct core *c, const json_t *body);
void node_seen(struct core *c, struct node *n);
void nodes_tick(struct core *c);
