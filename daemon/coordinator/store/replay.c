/* replay.c - the proof that snapshot and event log hold everything: rebuild the tables from them,
 * compare. */
#include "daemon/coordinator/store/internal.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int replay_event(struct schema_writer *w, const char *text, int64_t seq, struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *rows = NULL;
    size_t i;
    json_t *pair;
    int rc = lh_json_parse(text, strlen(text), 8, &rows, reterr);

    if (rc < 0)
        return lh_err_prefix(reterr, rc, "event %lld", (long long)seq);
    json_array_foreach(rows, i, pair)
    {
        rc = schema_apply(w, json_string_value(json_array_get(pair, 0)), json_array_get(pair, 1));
        if (rc != SQLITE_OK)
            return lh_err_set(reterr, LH_ESTATE, "event %lld cannot be applied: %s", (long long)seq,
                              sqlite3_errmsg(w->db));
    }
    return 0;
}

/* The tables as they were when the log begins. */
static int copy_snapshot(sqlite3 *from, sqlite3 *to, struct lh_err *reterr)
{
    int rc = 0;

    for (size_t i = 0; i < LH_ARRAY_LEN(schema_tables) && rc == 0; i++) {
        sqlite3_stmt *read = NULL, *write = NULL;
        char sql[200], marks[100] = "?";
        int n = 0, step = SQLITE_DONE;

        (void)sqlite3_snprintf(sizeof(sql), sql, "SELECT * FROM " SCHEMA_SNAPSHOT "%s",
                               schema_tables[i].name);
        if (sqlite3_prepare_v2(from, sql, -1, &read, NULL) == SQLITE_OK)
            n = sqlite3_column_count(read);
        for (int k = 1; k < n; k++)
            (void)strcat(marks, ",?"); /* at most 19 columns */
        (void)sqlite3_snprintf(sizeof(sql), sql, "INSERT INTO %s VALUES (%s)",
                               schema_tables[i].name, marks);
        if (n == 0 || sqlite3_prepare_v2(to, sql, -1, &write, NULL) != SQLITE_OK)
            rc = schema_error(n ? to : from, reterr, "read the snapshot");
        while (rc == 0 && (step = sqlite3_step(read)) == SQLITE_ROW) {
            for (int k = 0; k < n; k++)
                (void)sqlite3_bind_value(write, k + 1, sqlite3_column_value(read, k));
            if (sqlite3_step(write) != SQLITE_DONE)
                rc = schema_error(to, reterr, "the snapshot makes no sense");
            (void)sqlite3_reset(write);
        }
        if (rc == 0 && step != SQLITE_DONE)
            rc = schema_error(from, reterr, "read the snapshot");
        (void)sqlite3_finalize(read);
        (void)sqlite3_finalize(write);
    }
    return rc;
}

static int replay(sqlite3 *from, sqlite3 *to, struct lh_err *reterr)
{
    struct schema_writer w;
    sqlite3_stmt *stmt = NULL;
    int rc = schema_writer_init(&w, to, "", reterr);

    if (rc < 0)
        return rc;
    rc = copy_snapshot(from, to, reterr);
    if (rc == 0 && sqlite3_prepare_v2(from, "SELECT seq, rows FROM event ORDER BY seq", -1, &stmt,
                                      NULL) != SQLITE_OK)
        rc = schema_error(from, reterr, "read the event log");
    while (rc == 0 && sqlite3_step(stmt) == SQLITE_ROW)
        rc = replay_event(&w, (const char *)sqlite3_column_text(stmt, 1),
                          sqlite3_column_int64(stmt, 0), reterr);
    (void)sqlite3_finalize(stmt);
    schema_writer_release(&w);
    return rc;
}

static int compare_rows(const char *table, sqlite3_stmt *a, sqlite3_stmt *b, struct lh_err *reterr)
{
    for (;;) {
        int ra = sqlite3_step(a), rb = sqlite3_step(b);
        LH_CLEANUP(lh_json_decrefp) json_t *x = ra == SQLITE_ROW ? schema_row_json(a) : NULL;
        LH_CLEANUP(lh_json_decrefp) json_t *y = rb == SQLITE_ROW ? schema_row_json(b) : NULL;
        char *tx, *ty;

        if (!x && !y)
            return 0;
        if (json_equal(x, y))
            continue;
        tx = x ? lh_json_text(x, 0) : NULL;
        ty = y ? lh_json_text(y, 0) : NULL;
        (void)lh_err_set(reterr, LH_ESTATE, "table %s differs: stored %.250s, replayed %.250s",
                         table, tx ? tx : "nothing", ty ? ty : "nothing");
        free(tx);
        free(ty);
        return LH_ESTATE;
    }
}

static int compare(sqlite3 *stored, sqlite3 *replayed, struct lh_err *reterr)
{
    int rc = 0;

    for (size_t i = 0; i < LH_ARRAY_LEN(schema_tables) && rc == 0; i++) {
        sqlite3_stmt *a = NULL, *b = NULL;
        char sql[200];

        (void)sqlite3_snprintf(sizeof(sql), sql, "SELECT * FROM %s ORDER BY %s",
                               schema_tables[i].name, schema_tables[i].order);
        if (sqlite3_prepare_v2(stored, sql, -1, &a, NULL) != SQLITE_OK ||
            sqlite3_prepare_v2(replayed, sql, -1, &b, NULL) != SQLITE_OK)
            rc = schema_error(stored, reterr, "compare the tables");
        else
            rc = compare_rows(schema_tables[i].name, a, b, reterr);
        (void)sqlite3_finalize(a);
        (void)sqlite3_finalize(b);
    }
    return rc;
}

int store_replay_check(const char *dir, struct lh_err *reterr)
{
    sqlite3 *stored = NULL, *replayed = NULL;
    char path[4096];
    int rc;

    if (snprintf(path, sizeof(path), "%s/longhauld.db", dir) >= (int)sizeof(path))
        return lh_err_set(reterr, -ENAMETOOLONG, "'%s'", dir);
    if (!lh_path_exists(path))
        return lh_err_set(reterr, -ENOENT, "'%s'", path);
    rc = connection_open(path, false, &stored, reterr);
    if (rc == 0 && sqlite3_open(":memory:", &replayed) != SQLITE_OK)
        rc = schema_error(replayed, reterr, "open a database in memory");
    if (rc == 0)
        rc = schema_create(replayed, true, reterr);
    if (rc == 0)
        rc = replay(stored, replayed, reterr);
    if (rc == 0)
        rc = compare(stored, replayed, reterr);
    (void)sqlite3_close(stored);
    (void)sqlite3_close(replayed);
    return rc;
}
