/* store.c - opening, a connection's settings, and the loop's side of the writer's queue.
 */
#include "daemon/coordinator/store/internal.h"
#include "daemon/coordinator/store/lock.h"
#include "proto/base/clock.h"
#include "proto/base/fs.h"
#include "proto/base/str.h"
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void queue_init(struct store_queue *q)
{
    q->first = NULL;
    q->end = &q->first;
    q->n = 0;
}

void queue_push(struct store_queue *q, struct store_op *op)
{
    op->next = NULL;
    *q->end = op;
    q->end = &op->next;
    q->n++;
}

struct store_op *queue_pop(struct store_queue *q)
{
    struct store_op *op = q->first;

    if (!op)
        return NULL;
    q->first = op->next;
    if (!q->first)
        q->end = &q->first;
    q->n--;
    return op;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* trusted_schema stays on: this SQLite counts json_valid in a CHECK as unsafe without it. */
int connection_open(const char *path, bool writer, sqlite3 **ret_db, struct lh_err *reterr)
{
    static const char writer_settings[] =
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; PRAGMA "
        "wal_autocheckpoint=0;"
        "PRAGMA journal_size_limit=67108864; PRAGMA cell_size_check=ON;"
        "PRAGMA temp_store=MEMORY;";
    static const char reader_settings[] = "PRAGMA query_only=ON; PRAGMA cell_size_check=ON;";
    int flags = (writer ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE : SQLITE_OPEN_READWRITE) |
                SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    sqlite3 *db = NULL;
    char what[600];

    (void)snprintf(what, sizeof(what), "database '%.500s'", path);
    if (sqlite3_open_v2(path, &db, flags, NULL) != SQLITE_OK)
        goto failed;
    (void)sqlite3_busy_timeout(db, 5000);
    (void)sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    if (!writer) /* only the writer checkpoints, also at the end */
        (void)sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    if (sqlite3_exec(db, writer ? writer_settings : reader_settings, NULL, NULL, NULL) != SQLITE_OK)
        goto failed;
    *ret_db = db;
    return 0;
failed:
    flags = schema_error(db, reterr, what);
    (void)sqlite3_close(db);
    return flags;
}

static int load_cluster(struct store *s, struct lh_err *reterr)
{
    sqlite3_stmt *stmt = NULL;
    char sql[200], id[33];
    int rc;

    lh_random_hex(16, id);
    (void)sqlite3_snprintf(sizeof(sql), sql,
                           "INSERT INTO cluster VALUES (1, '%q', 0, %lld) ON CONFLICT DO NOTHING",
                           id, (long long)lh_now_ms());
    if (sqlite3_exec(s->db, sql, NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(s->db, "SELECT id, epoch FROM cluster", -1, &stmt, NULL) != SQLITE_OK ||
        sqlite3_step(stmt) != SQLITE_ROW) {
        rc = schema_error(s->db, reterr, "read the cluster's id");
    } else {
        (void)snprintf(s->cluster, sizeof(s->cluster), "%s",
                       (const char *)sqlite3_column_text(stmt, 0));
        s->epoch = (uint64_t)sqlite3_column_int64(stmt, 1);
        rc = 0;
    }
    (void)sqlite3_finalize(stmt);
    return rc;
}

int store_open(const struct store_config *config, struct store **ret_store, struct lh_err *reterr)
{
    LH_CLEANUP(store_closep) struct store *s = calloc(1, sizeof(*s));
    int rc;

    if (!s)
        return lh_err_set(reterr, -ENOMEM, "open the store");
    s->lock_fd = -1;
    queue_init(&s->queue);
    queue_init(&s->done);
    (void)pthread_mutex_init(&s->lock, NULL);
    (void)pthread_mutex_init(&s->reader_lock, NULL);
    (void)pthread_cond_init(&s->work, NULL);
    s->config = *config;
    s->dir = strdup(config->dir);
    if (!s->dir || asprintf(&s->path, "%s/longhauld.db", config->dir) < 0)
        return lh_err_set(reterr, -ENOMEM, "open the store");
    s->config.dir = s->dir;
    s->events_keep_ms = config->events_keep_ms;
    s->events_max = config->events_max;
    rc = lock_take(s->dir, &s->lock_fd, reterr);
    if (rc < 0)
        return rc;
    /* One that was at work may start again on a full disk: its jobs go on, new ones are refused. */
    if (!lh_path_exists(s->path) && lh_free_bytes(s->dir) < config->reserve_bytes)
        return lh_err_set(reterr, -ENOSPC,
                          "state directory '%s' has fewer than %llu MiB free, the reserve that "
                          "longhauld keeps; free some "
                          "space, give a --state on a larger disk, or lower limits.reserve_mib",
                          s->dir, (unsigned long long)(config->reserve_bytes >> 20));
    rc = connection_open(s->path, true, &s->db, reterr);
    if (rc == 0)
        rc = schema_create(s->db, false, reterr);
    if (rc == 0)
        rc = load_cluster(s, reterr);
    if (rc == 0)
        rc = connection_open(s->path, false, &s->reader, reterr);
    if (rc == 0)
        rc = connection_open(s->path, false, &s->finder, reterr);
    if (rc < 0)
        return rc;
    *ret_store = s;
    s = NULL;
    return 0;
}

/* ---- the writer, from the loop --------------------------------------------------------------- */

static void run_done(struct store *s)
{
    struct store_queue ready;
    struct store_op *op;

    queue_init(&ready);
    (void)pthread_mutex_lock(&s->lock);
    while ((op = queue_pop(&s->done)))
        queue_push(&ready, op);
    (void)pthread_mutex_unlock(&s->lock);
    while ((op = queue_pop(&ready))) {
        op->done(op->arg);
        free(op);
    }
}

static void on_wake(uv_async_t *h)
{
    run_done(h->data);
}

int store_start(struct store *s, uv_loop_t *loop, struct lh_err *reterr)
{
    sigset_t all, old;
    int rc;

    if (sqlite3_exec(s->db, "UPDATE cluster SET epoch = epoch + 1", NULL, NULL, NULL) != SQLITE_OK)
        return schema_error(s->db, reterr, "write the new epoch");
    s->epoch++;
    rc = writer_prepare(s, reterr);
    if (rc < 0)
        return rc;
    rc = uv_async_init(loop, &s->wake, on_wake);
    if (rc < 0)
        return lh_err_set(reterr, rc, "start the writer");
    s->wake.data = s;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&s->thread, NULL, writer_main, s);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0) {
        uv_close((uv_handle_t *)&s->wake, NULL);
        return lh_err_set(reterr, -rc, "start the writer's thread");
    }
    s->started = true;
    return 0;
}

const char *store_cluster(const struct store *s)
{
    return s->cluster;
}

uint64_t store_epoch(const struct store *s)
{
    return s->epoch;
}

void store_put(struct store *s, struct change_set *set, store_done_fn *done, void *arg)
{
    struct store_op *op = calloc(1, sizeof(*op));

    if (!op)
        abort(); /* the core has decided already */
    op->set = *set;
    memset(set, 0, sizeof(*set));
    op->done = done;
    op->arg = arg;
    (void)pthread_mutex_lock(&s->lock);
    queue_push(&s->queue, op);
    if (s->queue.n == 1)
        (void)pthread_cond_signal(&s->work);
    (void)pthread_mutex_unlock(&s->lock);
}

void store_retain(struct store *s, uint64_t keep_ms, uint64_t max)
{
    (void)pthread_mutex_lock(&s->lock);
    s->events_keep_ms = keep_ms;
    s->events_max = max;
    (void)pthread_mutex_unlock(&s->lock);
}

enum store_mode store_mode(struct store *s)
{
    uint64_t now = lh_mono_ms();
    bool full, damaged;

    if (now - s->free_seen_ms >= 1000) {
        s->free_seen_ms = now;
        s->low = lh_free_bytes(s->dir) < s->config.reserve_bytes;
    }
    (void)pthread_mutex_lock(&s->lock);
    full = s->full;
    damaged = s->damaged;
    (void)pthread_mutex_unlock(&s->lock);
    return damaged ? STORE_DAMAGED : full ? STORE_FULL : s->low ? STORE_LOW : STORE_OK;
}

const char *store_problem(struct store *s)
{
    const char *text;

    (void)pthread_mutex_lock(&s->lock);
    text = s->failed ? s->problem : NULL;
    (void)pthread_mutex_unlock(&s->lock);
    return text;
}

void store_stats(struct store *s, struct store_stats *ret_stats)
{
    char wal[4200];
    int64_t size;

    (void)pthread_mutex_lock(&s->lock);
    *ret_stats = s->stats;
    ret_stats->queued = s->queue.n;
    s->stats.max_commit_s = 0;
    (void)pthread_mutex_unlock(&s->lock);
    size = lh_file_size(s->path);
    ret_stats->db_bytes = size > 0 ? (uint64_t)size : 0;
    (void)snprintf(wal, sizeof(wal), "%s-wal", s->path);
    size = lh_file_size(wal);
    ret_stats->wal_bytes = size > 0 ? (uint64_t)size : 0;
    ret_stats->free_bytes = lh_free_bytes(s->dir);
}

static void store_free(struct store *s)
{
    free(s->dir);
    free(s->path);
    if (s->lock_fd >= 0)
        (void)close(s->lock_fd);
    (void)pthread_mutex_destroy(&s->lock);
    (void)pthread_mutex_destroy(&s->reader_lock);
    (void)pthread_cond_destroy(&s->work);
    free(s);
}

static void on_wake_closed(uv_handle_t *h)
{
    store_free(h->data);
}

void store_close(struct store *s)
{
    struct store_op *op;

    if (!s)
        return;
    if (s->started) {
        (void)pthread_mutex_lock(&s->reader_lock);
        if (s->checking)
            sqlite3_interrupt(s->checking);
        (void)pthread_mutex_unlock(&s->reader_lock);
        while (s->reads > 0)
            (void)uv_run(s->wake.loop, UV_RUN_ONCE);
        (void)pthread_mutex_lock(&s->lock);
        s->stop = true;
        (void)pthread_cond_signal(&s->work);
        (void)pthread_mutex_unlock(&s->lock);
        (void)pthread_join(s->thread, NULL);
        run_done(s);
        while ((op = queue_pop(&s->queue))) { /* only after a failure: never acknowledged */
            change_set_release(&op->set);
            free(op);
        }
    }
    writer_finalize(s);
    (void)sqlite3_close(s->reader);
    (void)sqlite3_close(s->finder);
    (void)sqlite3_close(s->db); /* last: it checkpoints and removes the WAL */
    if (s->started)
        uv_close((uv_handle_t *)&s->wake, on_wake_closed); /* the caller runs the loop once more */
    else
        store_free(s);
}
