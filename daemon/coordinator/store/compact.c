/* compact.c - keeps the event log bounded: its oldest events are folded into a snapshot.
 *
 *     snapshot (tables as of event N) + events N+1 ... newest = the tables as they are
 *
 * A step takes some of the oldest events, applies their rows to the snapshot's tables, removes them
 * and moves N, in one transaction: at any death either all of it has happened or nothing, and a
 * replay always begins at the snapshot. The newest event stays, whatever its age.
 */
#include "daemon/coordinator/store/internal.h"
#include "proto/base/clock.h"
#include "proto/base/fault.h"
#include <stdio.h>

#define COMPACT_EVENTS_MAX                                                                         \
    500 /* of a step: some 10 ms, so that a commit behind it waits no longer */

int compact_prepare(struct store *s, struct lh_err *reterr)
{
    struct {
        const char *sql;
        sqlite3_stmt **stmt;
    } const all[] = {
        {"SELECT seq, time_ms FROM event ORDER BY seq LIMIT 1", &s->oldest},
        {"SELECT max(seq) FROM event", &s->newest},
        {"SELECT seq, time_ms, rows FROM event ORDER BY seq LIMIT ?1", &s->fold},
        {"DELETE FROM event WHERE seq <= ?1", &s->forget},
        {"UPDATE snapshot SET seq = ?1, time_ms = ?2", &s->folded},
    };

    for (size_t i = 0; i < LH_ARRAY_LEN(all); i++)
        if (sqlite3_prepare_v3(s->db, all[i].sql, -1, SQLITE_PREPARE_PERSISTENT, all[i].stmt,
                               NULL) != SQLITE_OK)
            return schema_error(s->db, reterr, "prepare a statement of the database");
    return schema_writer_init(&s->snapshot, s->db, SCHEMA_SNAPSHOT, reterr);
}

void compact_finalize(struct store *s)
{
    sqlite3_stmt *all[] = {s->oldest, s->newest, s->fold, s->forget, s->folded};

    for (size_t i = 0; i < LH_ARRAY_LEN(all); i++)
        (void)sqlite3_finalize(all[i]);
    schema_writer_release(&s->snapshot);
}

struct bounds {
    int64_t before_ms; /* events before this time may go */
    int64_t below_seq; /* and those with a number below this one */
    int64_t newest;    /* this one never */
};

static bool may_go(const struct bounds *b, int64_t seq, int64_t time_ms)
{
    return seq < b->newest && (time_ms < b->before_ms || seq < b->below_seq);
}

/* False when nothing is to be folded. */
static bool find_bounds(struct store *s, struct bounds *ret)
{
    uint64_t keep_ms, max;
    bool damaged, any = false;

    (void)pthread_mutex_lock(&s->lock);
    keep_ms = s->events_keep_ms;
    max = s->events_max;
    damaged = s->damaged;
    (void)pthread_mutex_unlock(&s->lock);
    if (damaged || (keep_ms == 0 && max == 0))
        return false;
    *ret = (struct bounds){.before_ms = keep_ms ? (int64_t)(lh_now_ms() - keep_ms) : 0};
    if (sqlite3_step(s->newest) == SQLITE_ROW)
        ret->newest = sqlite3_column_int64(s->newest, 0);
    (void)sqlite3_reset(s->newest);
    if (max > 0)
        ret->below_seq = ret->newest - (int64_t)max + 1;
    if (sqlite3_step(s->oldest) == SQLITE_ROW)
        any = may_go(ret, sqlite3_column_int64(s->oldest, 0), sqlite3_column_int64(s->oldest, 1));
    (void)sqlite3_reset(s->oldest);
    return any;
}

/* Applies what may go to the snapshot; *ret_last is the last of them. */
static int fold(struct store *s, const struct bounds *b, int64_t *ret_last)
{
    struct lh_err err = {.code = 0};
    int rc = SQLITE_OK, step = SQLITE_DONE;

    (void)sqlite3_bind_int(s->fold, 1, COMPACT_EVENTS_MAX);
    while (rc == SQLITE_OK && (step = sqlite3_step(s->fold)) == SQLITE_ROW) {
        int64_t seq = sqlite3_column_int64(s->fold, 0);

        if (!may_go(b, seq, sqlite3_column_int64(s->fold, 1)))
            break;
        if (replay_event(&s->snapshot, (const char *)sqlite3_column_text(s->fold, 2), seq, &err) <
            0) {
            rc = sqlite3_extended_errcode(s->db);
            if ((rc & 0xff) == SQLITE_OK || (rc & 0xff) == SQLITE_ROW)
                rc = SQLITE_CORRUPT; /* it is no text of rows */
        }
        *ret_last = seq;
    }
    if (rc == SQLITE_OK && step != SQLITE_ROW && step != SQLITE_DONE)
        rc = sqlite3_extended_errcode(s->db);
    (void)sqlite3_reset(s->fold);
    return rc;
}

int compact_step(struct store *s)
{
    struct bounds b;
    int64_t last = 0;
    int rc;

    if (!find_bounds(s, &b))
        return SQLITE_OK;
    rc = writer_run(s, s->begin);
    if (rc == SQLITE_OK)
        rc = fold(s, &b, &last);
    if (rc == SQLITE_OK) {
        (void)sqlite3_bind_int64(s->forget, 1, last);
        rc = writer_run(s, s->forget);
    }
    if (rc == SQLITE_OK) {
        (void)sqlite3_bind_int64(s->folded, 1, last);
        (void)sqlite3_bind_int64(s->folded, 2, (sqlite3_int64)lh_now_ms());
        rc = writer_run(s, s->folded);
    }
    lh_fault("store.compact");
    if (rc == SQLITE_OK)
        rc = writer_run(s, s->commit);
    if (rc != SQLITE_OK) {
        (void)snprintf(s->problem, sizeof(s->problem), "compaction: %s (SQLite %d)",
                       sqlite3_errmsg(s->db), rc);
        if (!sqlite3_get_autocommit(s->db))
            (void)writer_run(s, s->rollback);
        return rc;
    }
    lh_fault("store.compacted");
    (void)pthread_mutex_lock(&s->lock);
    s->stats.snapshot_seq = (uint64_t)last;
    (void)pthread_mutex_unlock(&s->lock);
    return SQLITE_OK;
}
