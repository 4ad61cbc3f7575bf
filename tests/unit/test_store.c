/* test_store.c - the store on real disks: what is acknowledged is there after a kill -9, the event
 * log rebuilds the tables, a full disk loses nothing and recovers, and what must not be in the
 * database is refused by it.
 */
#include "daemon/coordinator/store/store.h"
#include "proto/base/clock.h"
#include "tests/unit/core_rig.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

struct opened {
    uv_loop_t loop;
    struct store *store;
    unsigned done;
    unsigned order_errors;
};
struct put {
    struct opened *o;
    unsigned index;
};

static void open_store(struct opened *o, const char *dir)
{
    struct store_config config = {.dir = dir, .idem_keep_ms = 86400000};
    struct lh_err err;

    memset(o, 0, sizeof(*o));
    assert_int_equal(uv_loop_init(&o->loop), 0);
    if (store_open(&config, &o->store, &err) < 0 || store_start(o->store, &o->loop, &err) < 0)
        fail_msg("%s", err.text);
}

static void close_store(struct opened *o)
{
    store_close(o->store);
    (void)uv_run(&o->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&o->loop), 0);
}

static void on_done(void *arg)
{
    struct put *p = arg;

    if (p->index != p->o->done)
        p->o->order_errors++;
    p->o->done++;
    free(p);
}

static struct put *put_set(struct opened *o, struct change_set *set, unsigned index)
{
    struct put *p = malloc(sizeof(*p));

    p->o = o;
    p->index = index;
    store_put(o->store, set, on_done, p);
    return p;
}

static void wait_done(struct opened *o, unsigned n)
{
    while (o->done < n)
        (void)uv_run(&o->loop, UV_RUN_ONCE);
}

static json_t *node_row(unsigned i, const char *name)
{
    char plain[32];

    (void)snprintf(plain, sizeof(plain), "n%u", i);
    return json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:i,s:i,s:i,s:i}", "name",
                     name ? name : plain, "agent_id", "a", "boot_id", "b", "version", "v",
                     "hostname", "h", "address", "1", "device", "cpu", "state", "up", "reason", "",
                     "slots", (int)i, "cores", 1, "memory_bytes", 1, "registered_ms", 1);
}

/* A set of one event that writes one node row. */
static struct change_set node_set(uint64_t seq, unsigned i)
{
    struct change_set set = {.n_events = 0};

    change_row_add(change_event_add(&set, seq, 1, "node.registered", NULL, 0, NULL), "node",
                   node_row(i, NULL));
    return set;
}

struct counted {
    unsigned rows;
    json_t *tables; /* name: number of rows */
    json_t *idem;
};

static int count_row(void *arg, const char *table, const json_t *row, struct lh_err *reterr)
{
    struct counted *c = arg;

    (void)reterr;
    c->rows++;
    (void)json_object_set_new(c->tables, table, json_integer(lh_json_i64(c->tables, table, 0) + 1));
    if (strcmp(table, "idem_key") == 0)
        (void)json_object_set(c->idem, lh_json_str(row, "key", ""), (json_t *)(uintptr_t)row);
    return 0;
}

/* Rows of all tables after a new start; *ret_seq is the newest event. */
static struct counted count_rows(const char *dir, uint64_t *ret_seq)
{
    struct store_config config = {.dir = dir};
    struct counted c = {.tables = json_object(), .idem = json_object()};
    struct store *s = NULL;
    struct store_newest newest;
    struct lh_err err;

    if (store_open(&config, &s, &err) < 0 || store_load(s, count_row, &c, &newest, &err) < 0)
        fail_msg("%s", err.text);
    *ret_seq = newest.seq;
    store_close(s);
    return c;
}

static void counted_release(struct counted *c)
{
    json_decref(c->tables);
    json_decref(c->idem);
}

static void sql(const char *dir, const char *text)
{
    sqlite3 *db = NULL;

    assert_int_equal(sqlite3_open(in_dir(dir, "longhauld.db"), &db), SQLITE_OK);
    if (sqlite3_exec(db, text, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s: %s", text, sqlite3_errmsg(db));
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void the_cluster_stays_and_the_epoch_grows_with_each_start(void **state)
{
    char *dir = scratch_new(), cluster[64] = "";
    struct opened o;

    (void)state;
    for (uint64_t epoch = 1; epoch <= 3; epoch++) {
        open_store(&o, dir);
        assert_int_equal(store_epoch(o.store), epoch);
        if (epoch == 1)
            (void)snprintf(cluster, sizeof(cluster), "%s", store_cluster(o.store));
        assert_string_equal(store_cluster(o.store), cluster);
        assert_int_equal(strlen(cluster), 32);
        close_store(&o);
    }
    scratch_free(dir);
}

static void a_second_store_is_refused_and_told_who_holds_it(void **state)
{
    char *dir = scratch_new(), pid[64];
    struct store_config config = {.dir = dir};
    struct store *second = NULL;
    struct lh_err err;
    struct opened o;

    (void)state;
    open_store(&o, dir);
    assert_int_equal(store_open(&config, &second, &err), -EBUSY);
    (void)snprintf(pid, sizeof(pid), "process %d", (int)getpid());
    assert_non_null(strstr(err.text, pid));
    close_store(&o);
    scratch_free(dir);
}

static void what_is_queued_together_is_committed_together_and_answered_in_order(void **state)
{
    char *dir = scratch_new();
    struct store_stats stats;
    struct counted c;
    struct opened o;
    uint64_t seq;

    (void)state;
    open_store(&o, dir);
    for (unsigned i = 0; i < 2000; i++) {
        struct change_set set = node_set(i + 1, i);

        (void)put_set(&o, &set, i);
        assert_int_equal(set.n_events, 0); /* moved */
    }
    wait_done(&o, 2000);
    assert_int_equal(o.order_errors, 0);
    store_stats(o.store, &stats);
    assert_int_equal(stats.sets, 2000);
    assert_int_equal(stats.events, 2000);
    assert_true(stats.commits < 1000);
    close_store(&o);
    c = count_rows(dir, &seq);
    assert_int_equal(lh_json_i64(c.tables, "node", 0), 2000);
    assert_int_equal(seq, 2000);
    counted_release(&c);
    scratch_free(dir);
}

/* The child acknowledges on a pipe what the store has called done; nothing of that may be missing
 * afterwards. */
static void child_writes(const char *dir, int fd)
{
    struct store_config config = {.dir = dir};
    struct opened o;
    struct lh_err err;
    struct counted c = {.tables = json_object(), .idem = json_object()};
    struct store_newest newest;
    uint64_t seq;

    memset(&o, 0, sizeof(o));
    (void)uv_loop_init(&o.loop);
    if (store_open(&config, &o.store, &err) < 0 ||
        store_load(o.store, count_row, &c, &newest, &err) < 0 ||
        store_start(o.store, &o.loop, &err) < 0)
        _exit(3);
    seq = newest.seq;
    for (unsigned put = 0, told = 0;;) {
        for (; put < o.done + 40; put++) {
            struct change_set set = node_set(seq + put + 1, (unsigned)(seq + put));

            (void)put_set(&o, &set, put);
        }
        (void)uv_run(&o.loop, UV_RUN_ONCE);
        for (; told < o.done; told++) {
            uint64_t acked = seq + told + 1;

            if (write(fd, &acked, sizeof(acked)) != sizeof(acked))
                _exit(4);
        }
    }
}

static void kill_9_of_the_writer_loses_nothing_that_was_acknowledged(void **state)
{
    char *dir = scratch_new();
    uint64_t acked = 0, seq = 0;
    struct lh_err err;

    (void)state;
    for (int round = 0; round < 12; round++) {
        uint64_t value, before = acked;
        struct counted c;
        int fds[2], status;
        pid_t pid;

        assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
            child_writes(dir, fds[1]);
        (void)close(fds[1]);
        while (acked < before + 20 + (uint64_t)round * 37 &&
               read(fds[0], &value, sizeof(value)) == sizeof(value))
            acked = value;
        assert_int_equal(kill(pid, SIGKILL), 0);
        while (read(fds[0], &value, sizeof(value)) == sizeof(value))
            acked = value;
        (void)close(fds[0]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status)); /* it was killed, it did not fail */
        c = count_rows(dir, &seq);
        assert_true(seq >= acked);
        assert_int_equal(lh_json_i64(c.tables, "node", 0), seq);
        acked = seq;
        counted_release(&c);
    }
    if (store_replay_check(dir, &err) < 0)
        fail_msg("%s", err.text);
    assert_true(acked > 12 * 20);
    scratch_free(dir);
}

/* ---- a core behind the store ----------------------------------------------------------------- */

struct behind {
    struct rig rig;
    struct opened o;
    unsigned puts;
};

static void keep(struct behind *b)
{
    (void)put_set(&b->o, &b->rig.fx.changes, b->puts++);
}

/* Runs one job through an attempt that fails and one that succeeds, and leaves another queued. */
static void some_history(struct behind *b)
{
    struct rig *r = &b->rig;

    rig_register(r, "n1", 2, "a1", "[]"), keep(b);
    rig_submit_key(r, "ja", "{'kind':'check','name':'first','resources':{'slots':2}}", "key-1",
                   "f"),
        keep(b);
    rig_preflight(r, "n1", "ja"), keep(b);
    rig_report(r, "n1", "{'type':'prepared','job':'ja','attempt':1}"), keep(b);
    rig_report(r, "n1", "{'type':'running','job':'ja','attempt':1}"), keep(b);
    rig_report(r, "n1",
               "{'type':'checkpoint','job':'ja','attempt':1,'step':2,'bytes':5,'path':'/p'}"),
        keep(b);
    rig_report(r, "n1",
               "{'type':'upload','job':'ja','attempt':1,'step':2,'state':'done','uri':'s3://x'}"),
        keep(b);
    rig_exit(r, "ja", "failed", "infra", 75), keep(b);
    rig_report(r, "n1", "{'type':'cleaned','job':'ja','attempt':1}"), keep(b);
    rig_submit(r, "jb", "{'kind':'check','after':[{'job':'first'}]}"), keep(b);
    rig_action(r, "jb", "hold"), keep(b);
    while (rig_job(r, "ja")->state == LH_JOB_QUEUED) {
        struct core_event tick = {.type = CORE_EV_TICK};

        r->now_ms += 500;
        rig_step(r, &tick), keep(b);
    }
    rig_report(r, "n1", "{'type':'prepared','job':'ja','attempt':2}"), keep(b);
    rig_report(r, "n1", "{'type':'running','job':'ja','attempt':2}"), keep(b);
}

/* STATE-6. */
static void the_event_log_rebuilds_the_tables(void **state)
{
    struct behind *b = calloc(1, sizeof(*b));
    char *dir = scratch_new();
    struct lh_err err;

    (void)state;
    rig_init(&b->rig);
    open_store(&b->o, dir);
    some_history(b);
    wait_done(&b->o, b->puts);
    close_store(&b->o);
    if (store_replay_check(dir, &err) < 0)
        fail_msg("%s", err.text);
    sql(dir, "UPDATE job SET detail = 'someone was here' WHERE name = 'first'");
    assert_int_equal(store_replay_check(dir, &err), LH_ESTATE);
    assert_non_null(strstr(err.text, "job"));
    rig_release(&b->rig);
    scratch_free(dir);
    free(b);
}

static int load_row(void *arg, const char *table, const json_t *row, struct lh_err *reterr)
{
    return core_load(arg, table, row, reterr);
}

static void a_core_loaded_from_the_store_goes_on_where_it_was(void **state)
{
    struct behind *b = calloc(1, sizeof(*b));
    char *dir = scratch_new();
    struct store_config config = {.dir = dir};
    struct store *s = NULL;
    const struct core_job *j;
    struct store_newest newest;
    struct lh_err err;

    (void)state;
    rig_init(&b->rig);
    open_store(&b->o, dir);
    some_history(b);
    wait_done(&b->o, b->puts);
    close_store(&b->o);
    core_free(b->rig.core);
    b->rig.core = core_new(&b->rig.config, b->rig.now_ms, 1700000000000u + b->rig.now_ms);
    if (store_open(&config, &s, &err) < 0 ||
        store_load(s, load_row, b->rig.core, &newest, &err) < 0)
        fail_msg("%s", err.text);
    core_loaded(b->rig.core, newest.seq, newest.number);
    store_close(s);
    rig_expect_state(&b->rig, "ja", "running", "");
    rig_expect_state(&b->rig, "jb", "held", "user");
    j = rig_job(&b->rig, "ja");
    assert_int_equal(j->n_attempts, 2);
    assert_int_equal(j->attempts[1].claims[0].slots, 2);
    assert_string_equal(j->checkpoints[0].uri, "s3://x");
    assert_int_equal(core_find_node(b->rig.core, "n1")->slots_used, 2);
    rig_submit_key(&b->rig, "jx", "{'kind':'check','name':'first','resources':{'slots':2}}",
                   "key-1", "f");
    assert_true(b->rig.fx.replayed); /* the key came with its job */
    rig_register(&b->rig, "n1", 2, "a2", "[{'job':'ja','attempt':2,'state':'running'}]");
    rig_exit(&b->rig, "ja", "ok", "", 0);
    rig_clean(&b->rig, "ja");
    rig_expect_state(&b->rig, "ja", "succeeded", "");
    rig_release(&b->rig);
    scratch_free(dir);
    free(b);
}

static void a_database_of_the_first_schema_gets_its_snapshot(void **state)
{
    struct behind *b = calloc(1, sizeof(*b));
    char *dir = scratch_new();
    struct store_newest newest = {.seq = 0};
    struct counted c = {.tables = json_object(), .idem = json_object()};
    struct store_config config = {.dir = dir};
    struct store *s = NULL;
    struct lh_err err;

    (void)state;
    rig_init(&b->rig);
    open_store(&b->o, dir);
    some_history(b);
    wait_done(&b->o, b->puts);
    close_store(&b->o);
    sql(dir, "DROP TABLE snapshot; DROP TABLE snapshot_job; DROP TABLE snapshot_attempt;"
             "DROP TABLE snapshot_claim; DROP TABLE snapshot_node; DROP TABLE snapshot_checkpoint;"
             "DROP INDEX job_name; DROP INDEX job_ended; PRAGMA user_version=1");
    if (store_open(&config, &s, &err) < 0 || store_load(s, count_row, &c, &newest, &err) < 0)
        fail_msg("%s", err.text);
    store_close(s);
    assert_int_equal(newest.seq, core_last_seq(b->rig.core));
    assert_int_equal(lh_json_i64(c.tables, "job", 0), 2);
    if (store_replay_check(dir, &err) < 0)
        fail_msg("%s", err.text);
    counted_release(&c);
    rig_release(&b->rig);
    scratch_free(dir);
    free(b);
}

static void on_page(void *arg, json_t *events, uint64_t gone)
{
    assert_false(gone);
    *(json_t **)arg = events;
}

static void events_are_read_in_pages_and_by_job(void **state)
{
    struct behind *b = calloc(1, sizeof(*b));
    char *dir = scratch_new();

    (void)state;
    rig_init(&b->rig);
    open_store(&b->o, dir);
    some_history(b);
    wait_done(&b->o, b->puts);
    for (int by_job = 0; by_job < 2; by_job++) {
        uint64_t after = 0, n = 0;

        for (;;) {
            json_t *page = NULL, *e;
            size_t i;

            store_events(b->o.store, after, 5, by_job ? "jb" : NULL, on_page, &page);
            while (!page)
                (void)uv_run(&b->o.loop, UV_RUN_ONCE);
            json_array_foreach(page, i, e)
            {
                assert_true((uint64_t)lh_json_i64(e, "seq", 0) > after);
                after = (uint64_t)lh_json_i64(e, "seq", 0);
                if (by_job)
                    assert_string_equal(lh_json_str(e, "job", ""), "jb");
                n++;
            }
            i = json_array_size(page);
            json_decref(page);
            if (i < 5)
                break;
        }
        assert_int_equal(n, by_job ? 2 : core_last_seq(b->rig.core));
    }
    close_store(&b->o);
    rig_release(&b->rig);
    scratch_free(dir);
    free(b);
}

static void the_database_refuses_a_slot_in_two_live_claims(void **state)
{
    struct behind *b = calloc(1, sizeof(*b));
    char *dir = scratch_new();
    struct change_set set = {.n_events = 0};
    struct change_event *e;
    struct put *refused;

    (void)state;
    rig_init(&b->rig);
    open_store(&b->o, dir);
    some_history(b);
    wait_done(&b->o, b->puts);
    e = change_event_add(&set, core_last_seq(b->rig.core) + 1, 1, "claim.prepared", "ja", 1, NULL);
    change_row_add(e, "claim",
                   json_pack("{s:s,s:i,s:s,s:i,s:i,s:i,s:i}", "job", "ja", "attempt", 1, "node",
                             "n1", "slot", 0, "position", 0, "prepared", 0, "cleaned", 0));
    refused = put_set(&b->o, &set, b->puts);
    while (!store_problem(b->o.store))
        (void)uv_run(&b->o.loop, UV_RUN_ONCE);
    assert_non_null(strstr(store_problem(b->o.store), "UNIQUE"));
    assert_int_equal(b->o.done, b->puts); /* never acknowledged */
    free(refused);
    close_store(&b->o);
    rig_release(&b->rig);
    scratch_free(dir);
    free(b);
}

static void events_can_not_be_changed(void **state)
{
    char *dir = scratch_new();
    struct change_set set = node_set(1, 1);
    sqlite3 *db = NULL;
    struct opened o;

    (void)state;
    open_store(&o, dir);
    (void)put_set(&o, &set, 0);
    wait_done(&o, 1);
    close_store(&o);
    assert_int_equal(sqlite3_open(in_dir(dir, "longhauld.db"), &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "UPDATE event SET type = 'x'", NULL, NULL, NULL),
                     SQLITE_CONSTRAINT);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    scratch_free(dir);
}

static void a_newer_schema_and_a_foreign_database_are_refused(void **state)
{
    char *dir = scratch_new();
    struct store_config config = {.dir = dir};
    struct store *s = NULL;
    struct lh_err err;
    struct opened o;

    (void)state;
    open_store(&o, dir);
    close_store(&o);
    sql(dir, "PRAGMA user_version = 99");
    assert_int_equal(store_open(&config, &s, &err), LH_ESTATE);
    assert_non_null(strstr(err.text, "newer"));
    sql(dir, "PRAGMA user_version = 1; PRAGMA application_id = 5");
    assert_int_equal(store_open(&config, &s, &err), LH_ESTATE);
    assert_non_null(strstr(err.text, "another program"));
    put_file(dir, "longhauld.db",
             "this is no database at all, only some text that is long enough to be read as one");
    (void)unlink(in_dir(dir, "longhauld.db-wal"));
    assert_int_equal(store_open(&config, &s, &err), LH_ESTATE);
    scratch_free(dir);
}

static void a_directory_that_cannot_be_made_or_has_no_room_is_an_error(void **state)
{
    char *dir = scratch_new(), path[1024];
    struct store_config config = {.dir = path};
    struct store *s = NULL;
    struct lh_err err;

    (void)state;
    put_file(dir, "file", "x");
    (void)snprintf(path, sizeof(path), "%s/file/state", dir);
    assert_true(store_open(&config, &s, &err) < 0);
    assert_non_null(strstr(err.text, "--state"));
    (void)snprintf(path, sizeof(path), "%s/state", dir);
    config.reserve_bytes = UINT64_MAX;
    assert_int_equal(store_open(&config, &s, &err), -ENOSPC);
    assert_non_null(strstr(err.text, "reserve"));
    scratch_free(dir);
}

static void fill(const char *dir)
{
    static const char zeros[4096];
    int fd = open(in_dir(dir, "filler"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    while (write(fd, zeros, sizeof(zeros)) > 0)
        ;
    (void)close(fd);
}

static void a_full_disk_holds_back_answers_and_recovers_without_a_restart(void **state)
{
    char *dir = scratch_new();
    struct opened o;
    unsigned n = 0;
    struct lh_err err;
    uint64_t until;

    (void)state;
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("tmpfs", dir, "tmpfs", 0, "size=4m") < 0) {
        print_message("skipped: no right to mount a small file system\n");
        scratch_free(dir);
        skip();
    }
    open_store(&o, dir);
    fill(dir);
    for (; n < 400; n++) {
        struct change_set set = node_set(n + 1, n);

        (void)put_set(&o, &set, n);
    }
    until = lh_mono_ms() + 20000;
    while (store_mode(o.store) != STORE_FULL && lh_mono_ms() < until)
        (void)uv_run(&o.loop, UV_RUN_NOWAIT);
    assert_int_equal(store_mode(o.store), STORE_FULL);
    assert_null(store_problem(o.store));
    assert_true(o.done < n);
    assert_int_equal(unlink(in_dir(dir, "filler")), 0);
    wait_done(&o, n);
    assert_int_equal(o.order_errors, 0);
    assert_int_equal(store_mode(o.store), STORE_OK);
    close_store(&o);
    if (store_replay_check(dir, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(umount(dir), 0);
    scratch_free(dir);
}

static void on_checked(void *arg, const char *problem)
{
    *(int *)arg = problem ? 2 : 1;
}

static void damage_is_found_by_the_check_and_stops_writing(void **state)
{
    static char junk[8192];
    char *dir = scratch_new();
    struct opened o;
    int result = 0, fd;

    (void)state;
    open_store(&o, dir);
    for (unsigned i = 0; i < 2000; i++) {
        struct change_set set = node_set(i + 1, i);

        (void)put_set(&o, &set, i);
    }
    wait_done(&o, 2000);
    close_store(&o);
    memset(junk, 0x5a, sizeof(junk));
    fd = open(in_dir(dir, "longhauld.db"), O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, junk, sizeof(junk), 40 * 4096), sizeof(junk));
    (void)close(fd);
    open_store(&o, dir);
    store_check(o.store, on_checked, &result);
    while (result == 0)
        (void)uv_run(&o.loop, UV_RUN_ONCE);
    assert_int_equal(result, 2);
    assert_int_equal(store_mode(o.store), STORE_DAMAGED);
    {
        struct change_set set = node_set(3000, 1);
        struct put *held = put_set(&o, &set, 0);

        (void)usleep(100000);
        (void)uv_run(&o.loop, UV_RUN_NOWAIT);
        assert_int_equal(o.done, 0);
        close_store(&o);
        free(held);
    }
    scratch_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_cluster_stays_and_the_epoch_grows_with_each_start),
        TEST(a_second_store_is_refused_and_told_who_holds_it),
        TEST(what_is_queued_together_is_committed_together_and_answered_in_order),
        TEST(kill_9_of_the_writer_loses_nothing_that_was_acknowledged),
        TEST(the_event_log_rebuilds_the_tables),
        TEST(a_core_loaded_from_the_store_goes_on_where_it_was),
        TEST(a_database_of_the_first_schema_gets_its_snapshot),
        TEST(events_are_read_in_pages_and_by_job),
        TEST(the_database_refuses_a_slot_in_two_live_claims),
        TEST(events_can_not_be_changed),
        TEST(a_newer_schema_and_a_foreign_database_are_refused),
        TEST(a_directory_that_cannot_be_made_or_has_no_room_is_an_error),
        TEST(damage_is_found_by_the_check_and_stops_writing),
        TEST(a_full_disk_holds_back_answers_and_recovers_without_a_restart), /* last: it leaves the
                                                                                mount namespace */
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
