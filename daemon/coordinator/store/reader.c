/* reader.c - reads that may take long, on threads of libuv's pool with a connection that cannot
 * write. */
#include "daemon/coordinator/store/internal.h"
#include "proto/base/clock.h"
#include "proto/base/json.h"
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct read {
    uv_work_t work;
    struct store *store;
    uint64_t after_seq;
    unsigned limit;
    char job[CHANGE_ID_MAX];
    json_t *events;
    uint64_t gone;
    char problem[256];
    store_events_fn *events_done;
    store_checked_fn *check_done;
    void *arg;
};

static json_t *event_json(sqlite3_stmt *stmt)
{
    json_t *row = schema_row_json(stmt), *e = json_object(), *data = NULL;
    const char *text = lh_json_str(row, "data", "{}");
    char time[LH_RFC3339_MAX];

    if (lh_json_parse(text, strlen(text), 80, &data, NULL) < 0)
        data = json_object();
    (void)json_object_set(e, "seq", json_object_get(row, "seq"));
    (void)json_object_set_new(
        e, "time", json_string(lh_rfc3339((uint64_t)lh_json_i64(row, "time_ms", 0), time)));
    (void)json_object_set(e, "type", json_object_get(row, "type"));
    (void)json_object_set(e, "job", json_object_get(row, "job"));
    (void)json_object_set(e, "attempt", json_object_get(row, "attempt"));
    (void)json_object_set_new(e, "data", data);
    json_decref(row);
    return e;
}

static void read_events(uv_work_t *work)
{
    struct read *r = work->data;
    struct store *s = r->store;
    sqlite3_stmt *stmt = NULL;
    const char *sql =
        r->job[0]
            ? "SELECT seq, time_ms, type, job, attempt, data FROM event WHERE job = ?3 AND seq > ?1"
              " ORDER BY seq LIMIT ?2"
            : "SELECT seq, time_ms, type, job, attempt, data FROM event WHERE seq > ?1"
              " ORDER BY seq LIMIT ?2";

    (void)pthread_mutex_lock(&s->reader_lock);
    (void)sqlite3_exec(s->reader, "BEGIN", NULL, NULL, NULL); /* page and snapshot of one moment */
    if (sqlite3_prepare_v2(s->reader, sql, -1, &stmt, NULL) == SQLITE_OK) {
        (void)sqlite3_bind_int64(stmt, 1, (sqlite3_int64)r->after_seq);
        (void)sqlite3_bind_int(stmt, 2, (int)r->limit);
        if (r->job[0])
            (void)sqlite3_bind_text(stmt, 3, r->job, -1, SQLITE_STATIC);
        while (sqlite3_step(stmt) == SQLITE_ROW)
            (void)json_array_append_new(r->events, event_json(stmt));
    }
    (void)sqlite3_finalize(stmt);
    stmt = NULL;
    if (sqlite3_prepare_v2(s->reader, "SELECT seq FROM snapshot", -1, &stmt, NULL) == SQLITE_OK &&
        sqlite3_step(stmt) == SQLITE_ROW && (uint64_t)sqlite3_column_int64(stmt, 0) > r->after_seq)
        r->gone = (uint64_t)sqlite3_column_int64(stmt, 0) + 1;
    (void)sqlite3_finalize(stmt);
    (void)sqlite3_exec(s->reader, "COMMIT", NULL, NULL, NULL);
    (void)pthread_mutex_unlock(&s->reader_lock);
}

static void on_events(uv_work_t *work, int status)
{
    struct read *r = work->data;

    (void)status;
    r->store->reads--;
    r->events_done(r->arg, r->events, r->gone);
    free(r);
}

static struct read *read_new(struct store *s, void *arg)
{
    struct read *r = calloc(1, sizeof(*r));

    if (!r)
        abort();
    r->work.data = r;
    r->store = s;
    r->arg = arg;
    s->reads++;
    return r;
}

void store_events(struct store *s, uint64_t after_seq, unsigned limit, const char *job,
                  store_events_fn *done, void *arg)
{
    struct read *r = read_new(s, arg);

    r->after_seq = after_seq;
    r->limit = limit;
    r->events = json_array();
    r->events_done = done;
    (void)snprintf(r->job, sizeof(r->job), "%s", job ? job : "");
    if (uv_queue_work(s->wake.loop, &r->work, read_events, on_events) < 0)
        abort(); /* only for a bad argument */
}

static void set_checking(struct store *s, sqlite3 *db)
{
    (void)pthread_mutex_lock(&s->reader_lock);
    s->checking = db;
    (void)pthread_mutex_unlock(&s->reader_lock);
}

static void read_check(uv_work_t *work)
{
    struct read *r = work->data;
    struct store *s = r->store;
    sqlite3_stmt *stmt = NULL;
    sqlite3 *db = NULL;
    const char *text = "the database cannot be read";
    const struct sched_param normal = {0};

    /* A service with real-time priority is there to answer soon; seconds of reading at it would
     * hold up ranks. */
    (void)pthread_setschedparam(pthread_self(), SCHED_OTHER, &normal);
    /* A connection of its own: the check takes seconds on a large database, and lists must not
     * wait. */
    if (connection_open(s->path, false, &db, NULL) == 0) {
        set_checking(s, db);
        if (sqlite3_prepare_v2(db, "PRAGMA quick_check(1)", -1, &stmt, NULL) == SQLITE_OK &&
            sqlite3_step(stmt) == SQLITE_ROW)
            text = (const char *)sqlite3_column_text(stmt, 0);
        else if (sqlite3_errcode(db) == SQLITE_INTERRUPT) /* the store closes */
            text = "ok";
    }
    if (strcmp(text, "ok") != 0)
        (void)snprintf(r->problem, sizeof(r->problem), "%s", text);
    (void)sqlite3_finalize(stmt);
    set_checking(s, NULL);
    (void)sqlite3_close(db);
}

static void on_checked(uv_work_t *work, int status)
{
    struct read *r = work->data;

    (void)status;
    r->store->reads--;
    if (r->problem[0]) {
        (void)pthread_mutex_lock(&r->store->lock);
        r->store->damaged = true;
        (void)pthread_mutex_unlock(&r->store->lock);
    }
    r->check_done(r->arg, r->problem[0] ? r->problem : NULL);
    free(r);
}

void store_check(struct store *s, store_checked_fn *done, void *arg)
{
    struct read *r = read_new(s, arg);

    r->check_done = done;
    if (uv_queue_work(s->wake.loop, &r->work, read_check, on_checked) < 0)
        abort();
}
