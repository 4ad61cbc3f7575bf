/* schema.h - the tables of longhauld.db, and how a change row becomes a statement. Shared within store/. */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <jansson.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#define STORE_APPLICATION_ID 0x6c68646c /* "lhdl" */
#define STORE_SCHEMA_VERSION 2
#define STORE_ROW_TABLES 8

#define SCHEMA_SNAPSHOT "snapshot_" /* prefix of the tables as they were when the log begins */

/* One statement for each kind of row that the core makes; parameters are the columns in their order. */
struct schema_row {
    const char *name; /* as in change_row.table */
    const char *sql;  /* %s: the prefix of the table */
    const char *const *columns;
};
extern const struct schema_row schema_rows[STORE_ROW_TABLES];

struct schema_table {
    const char *name;
    const char *order; /* ORDER BY of a load and of a comparison */
};
extern const struct schema_table schema_tables[5]; /* node, job, attempt, claim, checkpoint */

/* Prepared statements of schema_rows on one connection, for the tables (prefix "") or those of the snapshot. */
struct schema_writer {
    sqlite3 *db;
    sqlite3_stmt *rows[STORE_ROW_TABLES];
};
LH_MUST_CHECK int schema_writer_init(struct schema_writer *w, sqlite3 *db, const char *prefix, struct lh_err *reterr);
void schema_writer_release(struct schema_writer *w);

/* 0 or an SQLite result code. */
LH_MUST_CHECK int schema_apply(struct schema_writer *w, const char *table, const json_t *row);

/* Creates or migrates, and checks application_id and version. tables_only: no pragmas (for a replay in memory). */
LH_MUST_CHECK int schema_create(sqlite3 *db, bool tables_only, struct lh_err *reterr);

/* The current row of a statement as a flat object. */
json_t *schema_row_json(sqlite3_stmt *stmt);

/* Sets reterr from the connection's last error and returns a code of ours. */
int schema_error(sqlite3 *db, struct lh_err *reterr, const char *what);
