/* store.h - what is durable: SQLite behind one writer thread. The only folder that includes sqlite3.h.
 *
 * Everything queued is written in one transaction (group commit, WAL, synchronous FULL), and `done` is called on the
 * loop after the COMMIT, in the order of the puts. A set is never dropped once it is queued: on a full disk the
 * writer holds what it has, the mode is STORE_FULL, and it goes on when there is room again. A failed fsync or a
 * damaged database stops the writer for good (store_problem): what is on disk is found out by starting again.
 *
 * Always true: one connection writes and checkpoints (a second one that did would risk the WAL-reset bug of SQLite
 * before 3.51.3); readers have a read-only connection of their own.
 */
#pragma once
#include "daemon/coordinator/change.h"
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct store;

struct store_config {
    const char *dir;        /* STATE; made when absent */
    uint64_t reserve_bytes; /* below so many free bytes no new work is taken */
    uint64_t idem_keep_ms;
    uint64_t jobs_keep_ms, jobs_max;     /* store_load: jobs that ended before, or in excess, may be left out; 0: none */
    uint64_t events_keep_ms, events_max; /* store_retain; both 0: every event is kept */
    bool realtime; /* the writer asks for SCHED_RR; without the right it stays as it is */
};

enum store_mode { STORE_OK, STORE_LOW /* below the reserve */, STORE_FULL /* the disk refused a write */,
                  STORE_DAMAGED /* quick_check found something: nothing is written any more */ };

/* Exit codes that go with errors of store_open: -EBUSY held by another (text names its pid), LH_ESTATE not usable
 * (network file system, newer schema, damaged), other -errno cannot be made or written. */
LH_MUST_CHECK int store_open(const struct store_config *config, struct store **ret_store, struct lh_err *reterr);

/* Calls row for every row of node, job, attempt, claim, checkpoint, idem_key, in that order, that the core needs:
 * jobs that ended long ago (store_config) are left out. Then gives the newest numbers of the whole database. row
 * returning negative stops the load with that code. */
struct store_newest {
    uint64_t seq;    /* of an event */
    uint64_t number; /* of a job */
};
typedef int store_row_fn(void *arg, const char *table, const json_t *row, struct lh_err *reterr);
LH_MUST_CHECK int store_load(struct store *s, store_row_fn *row, void *arg, struct store_newest *ret_newest,
                             struct lh_err *reterr);

/* Single jobs, whatever their age; on the loop, by an index: some 0.1 ms. By id, number or name (the newest of a name);
 * the newest with a lower number. false: there is none. */
bool store_find_job(struct store *s, const char *what, char ret_id[static CHANGE_ID_MAX]);
bool store_job_below(struct store *s, uint64_t number, char ret_id[static CHANGE_ID_MAX]);
/* Calls row for the job itself and for its attempts, claims and checkpoints. */
LH_MUST_CHECK int store_load_job(struct store *s, const char *id, store_row_fn *row, void *arg, struct lh_err *reterr);

/* Adds one to the epoch (the first transaction of a start) and starts the writer. */
LH_MUST_CHECK int store_start(struct store *s, uv_loop_t *loop, struct lh_err *reterr);
const char *store_cluster(const struct store *s); /* random, made with the database */
uint64_t store_epoch(const struct store *s);

/* Queues a set (its content is moved out, set is empty afterwards); an empty one is answered in its turn. */
typedef void store_done_fn(void *arg);
void store_put(struct store *s, struct change_set *set, store_done_fn *done, void *arg);

/* Events older than keep_ms, and those beyond the newest max, leave the log, some at a time: in one transaction they
 * are folded into a snapshot of the tables, with which the log then begins. */
void store_retain(struct store *s, uint64_t keep_ms, uint64_t max);

/* Events after seq, oldest first; only of one job when job is not NULL. gone: some after seq are no longer kept;
 * the oldest that is has this number. 0: none is missing. */
typedef void store_events_fn(void *arg, json_t *events /* to be owned */, uint64_t gone);
void store_events(struct store *s, uint64_t after_seq, unsigned limit, const char *job, store_events_fn *done,
                  void *arg);

/* quick_check on the reader, in the background. done: NULL text when sound. */
typedef void store_checked_fn(void *arg, const char *problem);
void store_check(struct store *s, store_checked_fn *done, void *arg);

/* NULL, or why the writer has given up: nothing is acknowledged any more, the process has to end. */
const char *store_problem(struct store *s);

enum store_mode store_mode(struct store *s); /* also looks at the free bytes, at most once a second */
struct store_stats {
    uint64_t db_bytes, wal_bytes, free_bytes;
    uint64_t commits, sets, events;     /* since the start */
    uint64_t queued;                    /* sets that wait for the writer */
    double last_commit_s, max_commit_s; /* max: since the last call */
    uint64_t beat;                      /* grows as long as the writer moves */
    uint64_t snapshot_seq;              /* the newest event that is folded into the snapshot; 0: none is */
};
void store_stats(struct store *s, struct store_stats *ret_stats);

/* Writes what is queued, checkpoints, closes; not to be called from a callback of the loop, which it may run. done
 * callbacks of the last sets are called from here; the loop has to be run once more for the last handle. */
void store_close(struct store *s); /* accepts NULL */
LH_DEFINE_FREEP(struct store *, store_close)

/* Rebuilds all tables from the event log of the database at dir (not open elsewhere for writing) and compares them
 * with the tables as they are. LH_ESTATE names the first row that differs. */
LH_MUST_CHECK int store_replay_check(const char *dir, struct lh_err *reterr);
