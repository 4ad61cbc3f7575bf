/* writer.c - the writer's thread: whatever is queued becomes one transaction.
 *
 *     wait ─ take STORE_BATCH_MAX sets ─ BEGIN IMMEDIATE ... COMMIT (fsync) ─ to the loop ─
 * checkpoint? └── disk full: ROLLBACK, wait half a second, the same sets again
 *
 * Any other failure is final: the thread stops, the loop is told (store_problem) and nothing is
 * acknowledged any more.
 */
#include "daemon/coordinator/store/internal.h"
#include "proto/base/clock.h"
#include "proto/base/fault.h"
#include "proto/base/json.h"
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define COMPACT_EVERY_MS 100 /* a step takes some 10 ms: a tenth of the writer's time at most */

static int on_wal(void *arg, sqlite3 *db, const char *name, int pages)
{
    struct store *s = arg;

    (void)db;
    (void)name;
    s->wal_pages = (unsigned)pages;
    return SQLITE_OK;
}

int writer_prepare(struct store *s, struct lh_err *reterr)
{
    struct {
        const char *sql;
        sqlite3_stmt **stmt;
    } const all[] = {
        {"BEGIN IMMEDIATE", &s->begin},
        {"COMMIT", &s->commit},
        {"ROLLBACK", &s->rollback},
        {"INSERT INTO event (seq, time_ms, type, job, attempt, data, rows) VALUES "
         "(?1,?2,?3,?4,?5,?6,?7)",
         &s->event},
        {"INSERT INTO idem_key (principal, key, fingerprint, jobs, time_ms) VALUES (?1,?2,?3,?4,?5)"
         " ON CONFLICT (principal, key) DO UPDATE SET fingerprint=?3, jobs=?4, time_ms=?5 WHERE "
         "time_ms < ?6",
         &s->idem},
        {"DELETE FROM idem_key WHERE time_ms < ?1", &s->idem_purge},
    };

    for (size_t i = 0; i < LH_ARRAY_LEN(all); i++)
        if (sqlite3_prepare_v3(s->db, all[i].sql, -1, SQLITE_PREPARE_PERSISTENT, all[i].stmt,
                               NULL) != SQLITE_OK)
            return schema_error(s->db, reterr, "prepare a statement of the database");
    (void)sqlite3_wal_hook(s->db, on_wal, s);
    if (schema_writer_init(&s->rows, s->db, "", reterr) < 0)
        return reterr ? reterr->code : LH_ESTATE;
    return compact_prepare(s, reterr);
}

void writer_finalize(struct store *s)
{
    sqlite3_stmt *all[] = {s->begin, s->commit, s->rollback, s->event, s->idem, s->idem_purge};

    for (size_t i = 0; i < LH_ARRAY_LEN(all); i++)
        (void)sqlite3_finalize(all[i]);
    schema_writer_release(&s->rows);
    compact_finalize(s);
}

int writer_run(struct store *s, sqlite3_stmt *stmt)
{
    int rc = sqlite3_step(stmt) == SQLITE_DONE ? SQLITE_OK : sqlite3_extended_errcode(s->db);

    (void)sqlite3_reset(stmt);
    (void)sqlite3_clear_bindings(stmt);
    return rc;
}

static int write_event(struct store *s, const struct change_event *e)
{
    char *rows, *data;
    int rc = SQLITE_OK;

    for (unsigned i = 0; i < e->n_rows && rc == SQLITE_OK; i++)
        rc = schema_apply(&s->rows, e->rows[i].table, e->rows[i].row);
    if (rc != SQLITE_OK)
        return rc;
    rows = change_rows_text(e);
    data = lh_json_text(e->data, 0);
    (void)sqlite3_bind_int64(s->event, 1, (sqlite3_int64)e->seq);
    (void)sqlite3_bind_int64(s->event, 2, (sqlite3_int64)e->time_ms);
    (void)sqlite3_bind_text(s->event, 3, e->type, -1, SQLITE_STATIC);
    if (e->job[0])
        (void)sqlite3_bind_text(s->event, 4, e->job, -1, SQLITE_STATIC);
    if (e->attempt)
        (void)sqlite3_bind_int64(s->event, 5, (sqlite3_int64)e->attempt);
    (void)sqlite3_bind_text(s->event, 6, data ? data : "{}", -1, SQLITE_STATIC);
    (void)sqlite3_bind_text(s->event, 7, rows, -1, SQLITE_STATIC);
    rc = writer_run(s, s->event);
    free(rows);
    free(data);
    return rc;
}

static int write_idem(struct store *s, const json_t *row)
{
    int64_t now = lh_json_i64(row, "time_ms", 0);

    (void)sqlite3_bind_text(s->idem, 1, lh_json_str(row, "principal", ""), -1, SQLITE_STATIC);
    (void)sqlite3_bind_text(s->idem, 2, lh_json_str(row, "key", ""), -1, SQLITE_STATIC);
    (void)sqlite3_bind_text(s->idem, 3, lh_json_str(row, "fingerprint", ""), -1, SQLITE_STATIC);
    (void)sqlite3_bind_text(s->idem, 4, lh_json_str(row, "jobs", "[]"), -1, SQLITE_STATIC);
    (void)sqlite3_bind_int64(s->idem, 5, now);
    (void)sqlite3_bind_int64(s->idem, 6, now - (int64_t)s->config.idem_keep_ms);
    return writer_run(s, s->idem);
}

static int write_batch(struct store *s, const struct store_queue *batch)
{
    int rc = writer_run(s, s->begin);

    for (const struct store_op *op = batch->first; op && rc == SQLITE_OK; op = op->next) {
        for (unsigned i = 0; i < op->set.n_events && rc == SQLITE_OK; i++)
            rc = write_event(s, &op->set.events[i]);
        if (rc == SQLITE_OK && op->set.idem)
            rc = write_idem(s, op->set.idem);
    }
    lh_fault("store.commit");
    if (rc == SQLITE_OK)
        rc = writer_run(s, s->commit);
    if (rc != SQLITE_OK)
        (void)snprintf(s->problem, sizeof(s->problem), "%s (SQLite %d)", sqlite3_errmsg(s->db), rc);
    else
        lh_fault("store.committed");
    if (rc != SQLITE_OK && !sqlite3_get_autocommit(s->db))
        (void)writer_run(s, s->rollback);
    return rc;
}

static void wait_ms(struct store *s, unsigned ms)
{
    struct timespec until;

    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    (void)pthread_cond_timedwait(&s->work, &s->lock, &until);
}

/* Until it is on disk, or will never be. */
static int commit_batch(struct store *s, const struct store_queue *batch)
{
    bool empty = true;

    for (const struct store_op *op = batch->first; op && empty; op = op->next)
        empty = op->set.n_events == 0 && !op->set.idem;
    if (empty)
        return SQLITE_OK;
    for (;;) {
        int rc = write_batch(s, batch);
        bool stop;

        if ((rc & 0xff) != SQLITE_FULL)
            return rc;
        (void)pthread_mutex_lock(&s->lock);
        s->full = true;
        s->stats.beat++; /* waiting for room is not being stuck */
        if (!s->stop)
            wait_ms(s, 500);
        stop = s->stop;
        (void)pthread_mutex_unlock(&s->lock);
        if (stop)
            return rc;
    }
}

static void count(struct store *s, uint64_t n_sets, uint64_t n_events, double seconds)
{
    s->stats.commits++;
    s->stats.sets += n_sets;
    s->stats.events += n_events;
    s->stats.last_commit_s = seconds;
    s->stats.max_commit_s = LH_MAX(s->stats.max_commit_s, seconds);
}

/* Takes a batch and returns true, or false when it is time to stop and nothing is left. */
static bool take_batch(struct store *s, struct store_queue *batch, uint64_t *idle_ms)
{
    struct store_op *op;
    bool over;

    queue_init(batch);
    (void)pthread_mutex_lock(&s->lock);
    if ((!s->queue.first || s->damaged) && !s->stop) {
        wait_ms(s, 1000);
        *idle_ms += 1000;
    }
    s->stats.beat++;
    while (batch->n < STORE_BATCH_MAX && !s->damaged && (op = queue_pop(&s->queue)))
        queue_push(batch, op);
    over = s->stop && batch->n == 0;
    (void)pthread_mutex_unlock(&s->lock);
    return !over;
}

static void checkpoint(struct store *s, uint64_t *idle_ms)
{
    if (s->wal_pages >= STORE_CHECKPOINT_PAGES) {
        (void)sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
        s->wal_pages = 0;
    } else if (*idle_ms >= 30000) { /* nothing to do: give the space back, forget old keys */
        (void)sqlite3_bind_int64(s->idem_purge, 1,
                                 (sqlite3_int64)(lh_now_ms() - s->config.idem_keep_ms));
        (void)writer_run(s, s->idem_purge);
        (void)sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
        *idle_ms = 0;
    }
}

/* Between batches. Returns an SQLite code that is final, or SQLITE_OK. */
static int tidy(struct store *s, uint64_t *idle_ms)
{
    int rc = SQLITE_OK;

    checkpoint(s, idle_ms);
    if (lh_mono_ms() - s->compacted_ms >= COMPACT_EVERY_MS) {
        rc = compact_step(s);
        s->compacted_ms = lh_mono_ms();
    }
    return (rc & 0xff) == SQLITE_FULL ? SQLITE_OK : rc; /* it is tried again */
}

/* Commits a batch and hands it to the loop; when it cannot be committed, back to the queue. */
static int write_and_hand_over(struct store *s, struct store_queue *batch)
{
    uint64_t begin = lh_mono_ns(), n_events = 0;
    struct store_op *op;
    int rc = commit_batch(s, batch);

    for (op = batch->first; op && rc == SQLITE_OK; op = op->next) {
        n_events += op->set.n_events;
        change_set_release(&op->set); /* here, not on the loop */
    }
    (void)pthread_mutex_lock(&s->lock);
    if (rc == SQLITE_OK) {
        count(s, batch->n, n_events, (double)(lh_mono_ns() - begin) / 1e9);
        s->full = false;
        while ((op = queue_pop(batch)))
            queue_push(&s->done, op);
    } else {
        while ((op = queue_pop(batch)))
            queue_push(&s->queue, op);
    }
    (void)pthread_mutex_unlock(&s->lock);
    (void)uv_async_send(&s->wake);
    return rc;
}

void *writer_main(void *arg)
{
    struct store *s = arg;
    struct store_queue batch;
    uint64_t idle_ms = 0;
    int rc = SQLITE_OK;

    if (s->config.realtime) {
        struct sched_param first = {.sched_priority = 1};

        (void)sched_setscheduler(0 /* this thread */, SCHED_RR | SCHED_RESET_ON_FORK, &first);
    }
    while (rc == SQLITE_OK && take_batch(s, &batch, &idle_ms)) {
        if (batch.n > 0) {
            idle_ms = 0;
            rc = write_and_hand_over(s, &batch);
        }
        if (rc == SQLITE_OK)
            rc = tidy(s, &idle_ms);
    }
    if (rc != SQLITE_OK && (rc & 0xff) != SQLITE_FULL) {
        (void)pthread_mutex_lock(&s->lock);
        s->failed = true;
        (void)pthread_mutex_unlock(&s->lock);
        (void)uv_async_send(&s->wake);
    }
    return NULL;
}
