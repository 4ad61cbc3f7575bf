/* internal.h - the store's parts among themselves: connections (store.c), writer.c, compact.c, reader.c, load.c. */
#pragma once
#include "daemon/coordinator/store/schema.h"
#include "daemon/coordinator/store/store.h"
#include <pthread.h>

#define STORE_BATCH_MAX 256          /* sets in one transaction: about 10 ms of writing, so that p99 stays there */
#define STORE_CHECKPOINT_PAGES 2000  /* 8 MB of WAL, then a PASSIVE checkpoint by the writer */

struct store_op {
    struct store_op *next;
    struct change_set set;
    store_done_fn *done;
    void *arg;
};
struct store_queue {
    struct store_op *first, **end;
    uint64_t n;
};

struct store {
    struct store_config config;
    char *dir, *path;
    int lock_fd;
    char cluster[40];
    uint64_t epoch;

    sqlite3 *db; /* the writer's; before store_start the opener's */
    struct schema_writer rows;
    sqlite3_stmt *begin, *commit, *rollback, *event, *idem, *idem_purge;
    unsigned wal_pages;
    struct schema_writer snapshot; /* of compact.c, as what follows */
    sqlite3_stmt *oldest, *newest, *fold, *forget, *folded;
    uint64_t compacted_ms;

    sqlite3 *reader; /* read only; under reader_lock, used by threads of the pool */
    pthread_mutex_t reader_lock;

    sqlite3 *finder; /* read only; the loop's, for single jobs */

    unsigned reads;   /* under way; loop thread only */
    sqlite3 *checking; /* under reader_lock: what store_close interrupts */

    pthread_t thread;
    bool started;
    uv_async_t wake; /* the writer has something for the loop */
    pthread_mutex_t lock; /* everything below */
    pthread_cond_t work;
    struct store_queue queue, done;
    bool stop;
    bool full, damaged, failed;
    char problem[512];
    uint64_t events_keep_ms, events_max;
    struct store_stats stats;

    uint64_t free_seen_ms; /* loop thread only */
    bool low;
};

/* store.c */
LH_MUST_CHECK int connection_open(const char *path, bool writer, sqlite3 **ret_db, struct lh_err *reterr);
void queue_init(struct store_queue *q);
void queue_push(struct store_queue *q, struct store_op *op);
struct store_op *queue_pop(struct store_queue *q);

/* writer.c */
LH_MUST_CHECK int writer_prepare(struct store *s, struct lh_err *reterr);
void writer_finalize(struct store *s);
void *writer_main(void *arg);
int writer_run(struct store *s, sqlite3_stmt *stmt); /* a statement without rows; an SQLite code */

/* compact.c: the oldest events become part of the snapshot. In the writer's thread. */
LH_MUST_CHECK int compact_prepare(struct store *s, struct lh_err *reterr);
void compact_finalize(struct store *s);
LH_MUST_CHECK int compact_step(struct store *s); /* some events, when there are any to fold; an SQLite code */

/* replay.c */
LH_MUST_CHECK int replay_event(struct schema_writer *w, const char *text, int64_t seq, struct lh_err *reterr);
