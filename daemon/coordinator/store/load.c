/* load.c - rows on their way back: all that the core needs at start, and single jobs that it has
 * let go. */
#include "daemon/coordinator/store/internal.h"
#include "proto/base/clock.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define ENDED "('succeeded','failed','cancelled','timed_out')"

/* ---- at start -------------------------------------------------------------------------------- */

/* Which jobs the core is given: those that have not ended, those that they come after, those with
 * something left to clean or to upload, and of the others those that ended last. The core looks
 * closer and lets go of more. */
static int choose_jobs(struct store *s, struct lh_err *reterr)
{
    static const char sql[] =
        "INSERT OR IGNORE INTO temp.loaded SELECT id FROM job WHERE state NOT IN " ENDED
        " UNION SELECT id FROM job WHERE ended_ms > 0 AND ended_ms >= max(?1, coalesce("
        "   (SELECT ended_ms FROM job WHERE ended_ms > 0 ORDER BY ended_ms DESC LIMIT 1 OFFSET ?2),"
        "   0))"
        " UNION SELECT json_extract(d.value, '$.job') FROM job, json_each(job.deps) d"
        "   WHERE job.state NOT IN " ENDED " UNION SELECT job FROM claim WHERE cleaned = 0"
        " UNION SELECT job FROM checkpoint WHERE state IN ('written', 'uploading')";
    uint64_t keep_ms = s->config.jobs_keep_ms, max = s->config.jobs_max;
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_exec(s->db, "CREATE TEMP TABLE loaded (id TEXT PRIMARY KEY) WITHOUT ROWID",
                          NULL, NULL, NULL);

    if (rc == SQLITE_OK)
        rc = sqlite3_prepare_v2(s->db, sql, -1, &stmt, NULL);
    if (rc == SQLITE_OK) {
        (void)sqlite3_bind_int64(stmt, 1, keep_ms ? (sqlite3_int64)(lh_now_ms() - keep_ms) : 0);
        (void)sqlite3_bind_int64(stmt, 2, max ? (sqlite3_int64)max : INT64_MAX);
        rc = sqlite3_step(stmt);
    }
    if (rc != SQLITE_DONE)
        rc = schema_error(s->db, reterr, "load the database");
    (void)sqlite3_finalize(stmt);
    return rc == SQLITE_DONE ? 0 : rc;
}

static int give_rows(sqlite3 *db, const char *sql, const char *job, const char *table,
                     store_row_fn *fn, void *arg, struct lh_err *reterr)
{
    sqlite3_stmt *stmt = NULL;
    int rc = 0, step = SQLITE_DONE;

    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) != SQLITE_OK)
        return schema_error(db, reterr, "load the database");
    if (job)
        (void)sqlite3_bind_text(stmt, 1, job, -1, SQLITE_STATIC);
    while (rc == 0 && (step = sqlite3_step(stmt)) == SQLITE_ROW) {
        json_t *row = schema_row_json(stmt);

        rc = fn(arg, table, row, reterr);
        json_decref(row);
    }
    if (rc == 0 && step != SQLITE_DONE)
        rc = schema_error(db, reterr, "load the database");
    (void)sqlite3_finalize(stmt);
    return rc;
}

/* The column of a table that holds the job's id, or NULL. */
static const char *job_column(const char *table)
{
    return strcmp(table, "node") == 0 ? NULL : strcmp(table, "job") == 0 ? "id" : "job";
}

static int load_newest(struct store *s, struct store_newest *ret, struct lh_err *reterr)
{
    sqlite3_stmt *stmt = NULL;
    int rc = 0;

    if (sqlite3_prepare_v2(s->db,
                           "SELECT coalesce((SELECT max(seq) FROM event), 0),"
                           " (SELECT seq FROM snapshot),"
                           " coalesce((SELECT max(number) FROM job), 0)",
                           -1, &stmt, NULL) != SQLITE_OK ||
        sqlite3_step(stmt) != SQLITE_ROW) {
        rc = schema_error(s->db, reterr, "load the database");
    } else {
        s->stats.snapshot_seq = (uint64_t)sqlite3_column_int64(stmt, 1);
        ret->seq = LH_MAX((uint64_t)sqlite3_column_int64(stmt, 0), s->stats.snapshot_seq);
        ret->number = (uint64_t)sqlite3_column_int64(stmt, 2);
    }
    (void)sqlite3_finalize(stmt);
    return rc;
}

int store_load(struct store *s, store_row_fn *row, void *arg, struct store_newest *ret_newest,
               struct lh_err *reterr)
{
    int rc = choose_jobs(s, reterr);

    assert(!s->started);
    for (size_t i = 0; i < LH_ARRAY_LEN(schema_tables) && rc == 0; i++) {
        const struct schema_table *t = &schema_tables[i];
        const char *column = job_column(t->name);
        char sql[200];

        if (column)
            (void)sqlite3_snprintf(sizeof(sql), sql,
                                   "SELECT * FROM %s WHERE %s IN (SELECT id FROM temp.loaded)"
                                   " ORDER BY %s",
                                   t->name, column, t->order);
        else
            (void)sqlite3_snprintf(sizeof(sql), sql, "SELECT * FROM %s ORDER BY %s", t->name,
                                   t->order);
        rc = give_rows(s->db, sql, NULL, t->name, row, arg, reterr);
    }
    if (rc == 0)
        rc = give_rows(s->db, "SELECT * FROM idem_key ORDER BY time_ms", NULL, "idem_key", row, arg,
                       reterr);
    if (rc == 0)
        rc = load_newest(s, ret_newest, reterr);
    (void)sqlite3_exec(s->db, "DROP TABLE IF EXISTS temp.loaded", NULL, NULL, NULL);
    return rc;
}

/* ---- one job --------------------------------------------------------------------------------- */

/* The id of the first row that matches; false: there is none. */
static bool find_id(struct store *s, const char *sql, const char *text, int64_t number,
                    char ret_id[static CHANGE_ID_MAX])
{
    sqlite3_stmt *stmt = NULL;
    bool found = false;

    if (sqlite3_prepare_v2(s->finder, sql, -1, &stmt, NULL) == SQLITE_OK) {
        if (text)
            (void)sqlite3_bind_text(stmt, 1, text, -1, SQLITE_STATIC);
        else
            (void)sqlite3_bind_int64(stmt, 1, number);
        found = sqlite3_step(stmt) == SQLITE_ROW;
        if (found)
            (void)sqlite3_snprintf(CHANGE_ID_MAX, ret_id, "%s",
                                   (const char *)sqlite3_column_text(stmt, 0));
    }
    (void)sqlite3_finalize(stmt);
    return found;
}

bool store_find_job(struct store *s, const char *what, char ret_id[static CHANGE_ID_MAX])
{
    int64_t number;

    if (!what[0])
        return false;
    if (find_id(s, "SELECT id FROM job WHERE id = ?1", what, 0, ret_id))
        return true;
    if (lh_parse_i64(what, 1, INT64_MAX, &number) &&
        find_id(s, "SELECT id FROM job WHERE number = ?1", NULL, number, ret_id))
        return true;
    return find_id(s,
                   "SELECT id FROM job WHERE name = ?1 AND name <> '' ORDER BY number DESC LIMIT 1",
                   what, 0, ret_id);
}

bool store_job_below(struct store *s, uint64_t number, char ret_id[static CHANGE_ID_MAX])
{
    return find_id(s, "SELECT id FROM job WHERE number < ?1 ORDER BY number DESC LIMIT 1", NULL,
                   (int64_t)LH_MIN(number, (uint64_t)INT64_MAX), ret_id);
}

int store_load_job(struct store *s, const char *id, store_row_fn *row, void *arg,
                   struct lh_err *reterr)
{
    int rc = 0;

    for (size_t i = 0; i < LH_ARRAY_LEN(schema_tables) && rc == 0; i++) {
        const struct schema_table *t = &schema_tables[i];
        char sql[200];

        if (!job_column(t->name))
            continue;
        (void)sqlite3_snprintf(sizeof(sql), sql, "SELECT * FROM %s WHERE %s = ?1 ORDER BY %s",
                               t->name, job_column(t->name), t->order);
        rc = give_rows(s->finder, sql, id, t->name, row, arg, reterr);
    }
    return rc;
}
