/* schema.c - the tables. The database itself guards what must never be: STRICT types, CHECKs on
 * states, and UNIQUE indexes for a slot in two live claims and a job with two live attempts.
 *
 * Everything but cluster, event, idem_key and the snapshot follows from the snapshot and the event
 * log (store_replay_check). The snapshot's tables have the columns of the others in the same order,
 * and no guards: what is folded into them has passed those. A migration is one more entry of
 * `steps`; user_version counts them.
 */
#include "daemon/coordinator/store/schema.h"
#include <assert.h>
#include <errno.h>
#include <string.h>

static const char *const steps[STORE_SCHEMA_VERSION] = {
    "CREATE TABLE cluster ("
    "  one INTEGER PRIMARY KEY CHECK (one = 1),"
    "  id TEXT NOT NULL, epoch INTEGER NOT NULL, created_ms INTEGER NOT NULL) STRICT;"

    "CREATE TABLE job ("
    "  id TEXT PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 31),"
    "  number INTEGER NOT NULL UNIQUE CHECK (number > 0),"
    "  revision INTEGER NOT NULL CHECK (revision > 0),"
    "  name TEXT NOT NULL, kind TEXT NOT NULL, principal TEXT NOT NULL,"
    "  spec TEXT NOT NULL CHECK (json_valid(spec)),"
    "  deps TEXT NOT NULL CHECK (json_valid(deps)),"
    "  state TEXT NOT NULL CHECK (state IN "
    "('held','blocked','queued','starting','running','stopping',"
    "    'succeeded','failed','cancelled','timed_out')),"
    "  reason TEXT NOT NULL, detail TEXT NOT NULL,"
    "  submitted_ms INTEGER NOT NULL, started_ms INTEGER NOT NULL, ended_ms INTEGER NOT NULL,"
    "  not_before_ms INTEGER NOT NULL, cancel INTEGER NOT NULL CHECK (cancel IN (0, 1)),"
    "  plan TEXT CHECK (plan IS NULL OR json_valid(plan)),"
    "  result TEXT CHECK (result IS NULL OR json_valid(result)),"
    "  error TEXT CHECK (error IS NULL OR json_valid(error)),"
    "  CHECK (ended_ms > 0 OR state NOT IN ('succeeded','failed','cancelled','timed_out'))) STRICT;"

    "CREATE TABLE attempt ("
    "  job TEXT NOT NULL REFERENCES job (id), number INTEGER NOT NULL CHECK (number > 0),"
    "  state TEXT NOT NULL CHECK (state IN "
    "('allocated','prepared','launching','running','stopping',"
    "    'exited','cleaned','lost')),"
    "  outcome TEXT NOT NULL, class TEXT NOT NULL, stop_reason TEXT NOT NULL,"
    "  allocated_ms INTEGER NOT NULL, started_ms INTEGER NOT NULL, ended_ms INTEGER NOT NULL,"
    "  exit TEXT CHECK (exit IS NULL OR json_valid(exit)),"
    "  failure TEXT CHECK (failure IS NULL OR json_valid(failure)),"
    "  orted TEXT CHECK (orted IS NULL OR json_valid(orted)),"
    "  PRIMARY KEY (job, number)) STRICT, WITHOUT ROWID;"
    "CREATE UNIQUE INDEX attempt_live ON attempt (job) WHERE state NOT IN ('cleaned', 'lost');"

    "CREATE TABLE claim ("
    "  job TEXT NOT NULL, attempt INTEGER NOT NULL, node TEXT NOT NULL REFERENCES node (name),"
    "  slot INTEGER NOT NULL CHECK (slot >= 0), position INTEGER NOT NULL,"
    "  prepared INTEGER NOT NULL CHECK (prepared IN (0, 1)), cleaned INTEGER NOT NULL CHECK "
    "(cleaned IN (0, 1)),"
    "  PRIMARY KEY (job, attempt, node, slot),"
    "  FOREIGN KEY (job, attempt) REFERENCES attempt (job, number)) STRICT, WITHOUT ROWID;"
    "CREATE UNIQUE INDEX claim_live ON claim (node, slot) WHERE cleaned = 0;"

    "CREATE TABLE node ("
    "  name TEXT PRIMARY KEY, agent_id TEXT NOT NULL, boot_id TEXT NOT NULL, version TEXT NOT NULL,"
    "  hostname TEXT NOT NULL, address TEXT NOT NULL, device TEXT NOT NULL,"
    "  state TEXT NOT NULL CHECK (state IN ('up','suspect','down','drained')), reason TEXT NOT "
    "NULL,"
    "  slots INTEGER NOT NULL, cores INTEGER NOT NULL, memory_bytes INTEGER NOT NULL,"
    "  registered_ms INTEGER NOT NULL) STRICT;"

    "CREATE TABLE checkpoint ("
    "  job TEXT NOT NULL REFERENCES job (id), attempt INTEGER NOT NULL, step INTEGER NOT NULL,"
    "  output TEXT NOT NULL,"
    "  state TEXT NOT NULL CHECK (state IN ('written','uploading','done','failed')),"
    "  uri TEXT NOT NULL, manifest_sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, time_ms INTEGER "
    "NOT NULL,"
    "  error TEXT NOT NULL, PRIMARY KEY (job, attempt, step, output)) STRICT, WITHOUT ROWID;"

    "CREATE TABLE idem_key ("
    "  principal TEXT NOT NULL, key TEXT NOT NULL, fingerprint TEXT NOT NULL,"
    "  jobs TEXT NOT NULL CHECK (json_valid(jobs)), time_ms INTEGER NOT NULL,"
    "  PRIMARY KEY (principal, key)) STRICT, WITHOUT ROWID;"
    "CREATE INDEX idem_key_time ON idem_key (time_ms);"

    "CREATE TABLE event ("
    "  seq INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, type TEXT NOT NULL, job TEXT, attempt "
    "INTEGER,"
    "  data TEXT NOT NULL CHECK (json_valid(data)), rows TEXT NOT NULL CHECK (json_valid(rows))) "
    "STRICT;"
    "CREATE INDEX event_job ON event (job, seq) WHERE job IS NOT NULL;"
    "CREATE TRIGGER event_is_a_log BEFORE UPDATE ON event BEGIN"
    "  SELECT RAISE(ABORT, 'events are never changed'); END;",

    "CREATE TABLE snapshot ("
    "  one INTEGER PRIMARY KEY CHECK (one = 1),"
    "  seq INTEGER NOT NULL, time_ms INTEGER NOT NULL) STRICT;"
    "INSERT INTO snapshot VALUES (1, 0, 0);"

    "CREATE TABLE snapshot_job ("
    "  id TEXT PRIMARY KEY, number INTEGER, revision INTEGER, name TEXT, kind TEXT, principal TEXT,"
    "  spec TEXT, deps TEXT, state TEXT, reason TEXT, detail TEXT, submitted_ms INTEGER,"
    "  started_ms INTEGER, ended_ms INTEGER, not_before_ms INTEGER, cancel INTEGER, plan TEXT,"
    "  result TEXT, error TEXT) STRICT;"
    "CREATE TABLE snapshot_attempt ("
    "  job TEXT, number INTEGER, state TEXT, outcome TEXT, class TEXT, stop_reason TEXT,"
    "  allocated_ms INTEGER, started_ms INTEGER, ended_ms INTEGER, exit TEXT, failure TEXT,"
    "  orted TEXT, PRIMARY KEY (job, number)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE snapshot_claim ("
    "  job TEXT, attempt INTEGER, node TEXT, slot INTEGER, position INTEGER, prepared INTEGER,"
    "  cleaned INTEGER, PRIMARY KEY (job, attempt, node, slot)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE snapshot_node ("
    "  name TEXT PRIMARY KEY, agent_id TEXT, boot_id TEXT, version TEXT, hostname TEXT,"
    "  address TEXT, device TEXT, state TEXT, reason TEXT, slots INTEGER, cores INTEGER,"
    "  memory_bytes INTEGER, registered_ms INTEGER) STRICT;"
    "CREATE TABLE snapshot_checkpoint ("
    "  job TEXT, attempt INTEGER, step INTEGER, output TEXT, state TEXT, uri TEXT,"
    "  manifest_sha256 TEXT, bytes INTEGER, time_ms INTEGER, error TEXT,"
    "  PRIMARY KEY (job, attempt, step, output)) STRICT, WITHOUT ROWID;"

    "CREATE INDEX job_name ON job (name, number) WHERE name <> '';"
    "CREATE INDEX job_ended ON job (ended_ms) WHERE ended_ms > 0;",
};

static const char *const job_columns[] = {
    "id",         "number",   "revision",      "name",   "kind",   "principal",
    "spec",       "deps",     "state",         "reason", "detail", "submitted_ms",
    "started_ms", "ended_ms", "not_before_ms", "cancel", "error",  NULL};
static const char *const job_update_columns[] = {
    "id",       "revision",      "state",  "reason", "detail", "started_ms",
    "ended_ms", "not_before_ms", "cancel", "error",  NULL};
static const char *const job_plan_columns[] = {"id", "plan", NULL};
static const char *const job_result_columns[] = {"id", "result", NULL};
static const char *const attempt_columns[] = {
    "job",        "number",   "state", "outcome", "class", "stop_reason", "allocated_ms",
    "started_ms", "ended_ms", "exit",  "failure", "orted", NULL};
static const char *const claim_columns[] = {"job",      "attempt",  "node",    "slot",
                                            "position", "prepared", "cleaned", NULL};
static const char *const checkpoint_columns[] = {
    "job",   "attempt", "step",  "output", "state", "uri", "manifest_sha256",
    "bytes", "time_ms", "error", NULL};
static const char *const node_columns[] = {
    "name",  "agent_id", "boot_id", "version", "hostname",     "address",       "device",
    "state", "reason",   "slots",   "cores",   "memory_bytes", "registered_ms", NULL};

const struct schema_row schema_rows[STORE_ROW_TABLES] = {
    {"job",
     "INSERT INTO %sjob (id, number, revision, name, kind, principal, spec, deps, state, reason, "
     "detail, submitted_ms,"
     " started_ms, ended_ms, not_before_ms, cancel, error) VALUES "
     "(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,"
     "?15,?16,?17)",
     job_columns},
    {"job_update",
     "UPDATE %sjob SET revision=?2, state=?3, reason=?4, detail=?5, started_ms=?6, ended_ms=?7, "
     "not_before_ms=?8,"
     " cancel=?9, error=?10 WHERE id=?1",
     job_update_columns},
    {"job_plan", "UPDATE %sjob SET plan=?2 WHERE id=?1", job_plan_columns},
    {"job_result", "UPDATE %sjob SET result=?2 WHERE id=?1", job_result_columns},
    {"attempt",
     "INSERT INTO %sattempt (job, number, state, outcome, class, stop_reason, allocated_ms, "
     "started_ms, ended_ms, exit,"
     " failure, orted) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12) ON CONFLICT (job, number) "
     "DO UPDATE SET"
     " state=?3, outcome=?4, class=?5, stop_reason=?6, started_ms=?8, ended_ms=?9, exit=?10, "
     "failure=?11, orted=?12",
     attempt_columns},
    {"claim",
     "INSERT INTO %sclaim (job, attempt, node, slot, position, prepared, cleaned) VALUES "
     "(?1,?2,?3,?4,?5,?6,?7)"
     " ON CONFLICT (job, attempt, node, slot) DO UPDATE SET prepared=?6, cleaned=?7",
     claim_columns},
    {"checkpoint",
     "INSERT INTO %scheckpoint (job, attempt, step, output, state, uri, manifest_sha256, bytes, "
     "time_ms, error)"
     " VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10) ON CONFLICT (job, attempt, step, output) DO UPDATE "
     "SET state=?5,"
     " uri=?6, manifest_sha256=?7, bytes=?8, time_ms=?9, error=?10",
     checkpoint_columns},
    {"node",
     "INSERT INTO %snode (name, agent_id, boot_id, version, hostname, address, device, state, "
     "reason, slots, cores,"
     " memory_bytes, registered_ms) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13) ON "
     "CONFLICT (name)"
     " DO UPDATE SET agent_id=?2, boot_id=?3, version=?4, hostname=?5, address=?6, device=?7, "
     "state=?8, reason=?9,"
     " slots=?10, cores=?11, memory_bytes=?12, registered_ms=?13",
     node_columns},
};

const struct schema_table schema_tables[5] = {
    {"node", "name"},
    {"job", "number"},
    {"attempt", "job, number"},
    {"claim", "job, attempt, position, slot"},
    {"checkpoint", "job, time_ms, attempt, step, output"},
};

int schema_error(sqlite3 *db, struct lh_err *reterr, const char *what)
{
    int rc = db ? sqlite3_extended_errcode(db) : SQLITE_NOMEM, code = LH_ESTATE;

    switch (rc & 0xff) {
    case SQLITE_FULL:
        code = -ENOSPC;
        break;
    case SQLITE_READONLY:
    case SQLITE_PERM:
        code = -EROFS;
        break;
    case SQLITE_CANTOPEN:
        code = -EACCES;
        break;
    case SQLITE_NOMEM:
        code = -ENOMEM;
        break;
    case SQLITE_IOERR:
        code = -EIO;
        break;
    default:
        break;
    }
    return lh_err_set(reterr, code, "%s: %s (SQLite %d)", what,
                      db ? sqlite3_errmsg(db) : "out of memory", rc);
}

int schema_writer_init(struct schema_writer *w, sqlite3 *db, const char *prefix,
                       struct lh_err *reterr)
{
    memset(w, 0, sizeof(*w));
    w->db = db;
    for (int i = 0; i < STORE_ROW_TABLES; i++) {
        char *sql = sqlite3_mprintf(schema_rows[i].sql, prefix);
        int rc = sql ? sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &w->rows[i], NULL)
                     : SQLITE_NOMEM;

        sqlite3_free(sql);
        if (rc != SQLITE_OK) {
            rc = schema_error(db, reterr, "prepare a statement of the database");
            schema_writer_release(w);
            return rc;
        }
    }
    return 0;
}

void schema_writer_release(struct schema_writer *w)
{
    for (int i = 0; i < STORE_ROW_TABLES; i++)
        (void)sqlite3_finalize(w->rows[i]);
    memset(w, 0, sizeof(*w));
}

static int bind(sqlite3_stmt *stmt, int at, const json_t *value)
{
    switch (value ? json_typeof(value) : JSON_NULL) {
    case JSON_STRING:
        return sqlite3_bind_text(stmt, at, json_string_value(value), (int)json_string_length(value),
                                 SQLITE_STATIC);
    case JSON_INTEGER:
        return sqlite3_bind_int64(stmt, at, json_integer_value(value));
    case JSON_NULL:
        return sqlite3_bind_null(stmt, at);
    default:
        return SQLITE_MISMATCH;
    }
}

int schema_apply(struct schema_writer *w, const char *table, const json_t *row)
{
    sqlite3_stmt *stmt;
    int rc = SQLITE_OK, i = 0;

    while (i < STORE_ROW_TABLES && strcmp(schema_rows[i].name, table) != 0)
        i++;
    assert(i < STORE_ROW_TABLES);
    stmt = w->rows[i];
    for (int k = 0; schema_rows[i].columns[k] && rc == SQLITE_OK; k++)
        rc = bind(stmt, k + 1, json_object_get(row, schema_rows[i].columns[k]));
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt) == SQLITE_DONE ? SQLITE_OK : sqlite3_extended_errcode(w->db);
    (void)sqlite3_reset(stmt);
    (void)sqlite3_clear_bindings(stmt);
    return rc;
}

static int pragma_int(sqlite3 *db, const char *sql, int64_t *ret_value)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);

    if (rc == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW)
        *ret_value = sqlite3_column_int64(stmt, 0);
    else
        rc = sqlite3_errcode(db);
    (void)sqlite3_finalize(stmt);
    return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

int schema_create(sqlite3 *db, bool tables_only, struct lh_err *reterr)
{
    int64_t version = 0, id = 0;
    char sql[128];

    if (!tables_only && (pragma_int(db, "PRAGMA application_id", &id) != SQLITE_OK ||
                         pragma_int(db, "PRAGMA user_version", &version) != SQLITE_OK))
        return schema_error(db, reterr, "read the database");
    if (version > STORE_SCHEMA_VERSION)
        return lh_err_set(reterr, LH_ESTATE,
                          "the database was written by a newer longhauld (schema %lld, this one "
                          "knows %d); start that "
                          "version, or restore a backup",
                          (long long)version, STORE_SCHEMA_VERSION);
    if ((id != 0 || version != 0) && id != STORE_APPLICATION_ID)
        return lh_err_set(reterr, LH_ESTATE,
                          "longhauld.db is a database of another program (application id %lld)",
                          (long long)id);
    if (version == STORE_SCHEMA_VERSION)
        return 0;
    if (sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK)
        return schema_error(db, reterr, "begin the making of tables");
    for (int64_t v = version; v < STORE_SCHEMA_VERSION; v++)
        if (sqlite3_exec(db, steps[v], NULL, NULL, NULL) != SQLITE_OK)
            goto failed;
    (void)sqlite3_snprintf(sizeof(sql), sql, "PRAGMA application_id=%d; PRAGMA user_version=%d;",
                           STORE_APPLICATION_ID, STORE_SCHEMA_VERSION);
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
        goto failed;
    return 0;
failed:
    (void)schema_error(db, reterr, "make the tables of the database");
    (void)sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return reterr ? reterr->code : LH_ESTATE;
}

json_t *schema_row_json(sqlite3_stmt *stmt)
{
    json_t *row = json_object();

    for (int i = 0; i < sqlite3_column_count(stmt); i++) {
        json_t *v = NULL;

        switch (sqlite3_column_type(stmt, i)) {
        case SQLITE_INTEGER:
            v = json_integer(sqlite3_column_int64(stmt, i));
            break;
        case SQLITE_TEXT:
            v = json_stringn((const char *)sqlite3_column_text(stmt, i),
                             (size_t)sqlite3_column_bytes(stmt, i));
            break;
        default:
            v = json_null();
            break;
        }
        (void)json_object_set_new(row, sqlite3_column_name(stmt, i), v ? v : json_null());
    }
    return row;
}
