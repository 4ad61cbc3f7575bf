/* test_retention.c - what the program keeps and for how long: the event log begins with a snapshot,
 * jobs that ended are read from the database (STATE-13, STATE-14). argv[1] is the program.
 */
#include "daemon/coordinator/store/store.h"
#include "proto/base/clock.h"
#include "tests/unit/daemon_rig.h"
#include <signal.h>
#include <unistd.h>

#define KEPT 10
#define ACCEPT_JSON "Accept: application/json\r\n"

static void expect_replay(const struct daemon *d)
{
    struct lh_err err = {.code = 0};

    if (store_replay_check(d->dir, &err) < 0)
        fail_msg("%s", err.text);
}

static int64_t oldest_seq(struct daemon *d)
{
    json_t *o = call(d, "GET", "/v1/status", NULL, "");
    int64_t seq = lh_json_i64(json_object_get(o, "database"), "oldest_seq", -1);

    json_decref(o);
    return seq;
}

static int64_t last_seq(struct daemon *d)
{
    json_t *o = call(d, "GET", "/v1/status", NULL, "");
    int64_t seq = lh_json_i64(o, "last_seq", -1);

    json_decref(o);
    return seq;
}

static void wait_compacted(struct daemon *d)
{
    uint64_t until = lh_mono_ms() + START_MS;

    while (last_seq(d) - oldest_seq(d) >= KEPT) {
        assert_true(lh_mono_ms() < until);
        (void)usleep(50000);
    }
}

/* Cancelled jobs: three events each, and nothing that has to run. */
static void submit_and_cancel(struct daemon *d, unsigned n, char ids[][64])
{
    for (unsigned i = 0; i < n; i++) {
        char path[128];

        submit(d, CHECK_JOB, ids[i]);
        (void)snprintf(path, sizeof(path), "/v1/jobs/%.63s/cancel", ids[i]);
        json_decref(call(d, "POST", path, NULL, ""));
        assert_int_equal(d->status, 200);
    }
}

static void the_log_begins_with_a_snapshot_and_older_events_are_gone(void **state)
{
    struct daemon d;
    char ids[20][64], path[128], number[32];
    json_t *o, *events;
    int64_t oldest, last;

    (void)state;
    daemon_init(&d);
    daemon_start_with(&d, NULL, "retention.events_max=10");
    submit_and_cancel(&d, 20, ids);
    wait_compacted(&d);
    oldest = oldest_seq(&d);
    last = last_seq(&d);
    assert_true(oldest > 1 && last - oldest < KEPT);

    o = call(&d, "GET", "/v1/events?after=1", ACCEPT_JSON, "");
    expect(&d, 410, o, "events_gone");
    (void)snprintf(number, sizeof(number), "X-Longhaul-Oldest: %lld", (long long)oldest);
    assert_non_null(strstr(d.headers, number));
    json_decref(o);
    json_decref(
        call(&d, "GET", "/v1/events", "Last-Event-ID: 1\r\nAccept: text/event-stream\r\n", ""));
    assert_int_equal(d.status, 410);

    /* Without a number: from the oldest there is; and whoever was there goes on. */
    o = call(&d, "GET", "/v1/events", ACCEPT_JSON, "");
    expect(&d, 200, o, NULL);
    events = json_object_get(o, "events");
    assert_int_equal(lh_json_i64(json_array_get(events, 0), "seq", 0), oldest);
    assert_int_equal(json_array_size(events), (size_t)(last - oldest + 1));
    json_decref(o);
    (void)snprintf(path, sizeof(path), "/v1/events?after=%lld", (long long)oldest - 1);
    o = call(&d, "GET", path, ACCEPT_JSON, "");
    expect(&d, 200, o, NULL);
    json_decref(o);
    (void)snprintf(path, sizeof(path), "/v1/jobs/%.63s/events", ids[0]);
    o = call(&d, "GET", path, NULL, "");
    expect(&d, 200, o, NULL);
    assert_int_equal(json_array_size(json_object_get(o, "events")), 0);
    json_decref(o);

    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    expect_replay(&d);
    daemon_start(&d);
    assert_int_equal(last_seq(&d), last); /* numbers go on, they do not start anew */
    for (unsigned i = 0; i < LH_ARRAY_LEN(ids); i++)
        expect_job(&d, ids[i], "cancelled");
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    daemon_release(&d);
}

static void death_at_any_point_of_a_compaction_loses_nothing_acknowledged(void **state)
{
    static const char *const faults[] = {"store.compact:1", "store.compact:2", "store.compacted:1",
                                         "store.compacted:2"};

    (void)state;
    for (size_t i = 0; i < LH_ARRAY_LEN(faults); i++) {
        struct daemon d;
        char ids[200][64];
        unsigned n = 0;
        json_t *o;

        daemon_init(&d);
        daemon_start_with(&d, faults[i], "retention.events_max=10");
        for (uint64_t until = lh_mono_ms() + START_MS; n < LH_ARRAY_LEN(ids);) {
            assert_true(lh_mono_ms() < until);
            o = call(&d, "POST", "/v1/jobs", NULL, CHECK_JOB);
            if (d.status == 0) {
                json_decref(o);
                break;
            }
            expect(&d, 201, o, NULL);
            (void)snprintf(ids[n++], sizeof(ids[0]), "%s", lh_json_str(o, "id", ""));
            json_decref(o);
            (void)usleep(20000);
        }
        assert_true(n > KEPT / 2 && n < LH_ARRAY_LEN(ids));
        assert_int_equal(reap(d.pid), 128 + SIGKILL);
        expect_replay(&d);
        daemon_start_with(&d, NULL, "retention.events_max=10");
        for (unsigned k = 0; k < n; k++)
            expect_job(&d, ids[k], "blocked");
        wait_compacted(&d);
        assert_int_equal(daemon_stop(&d, SIGTERM), 0);
        expect_replay(&d);
        daemon_release(&d);
    }
}

/* ids of a list, newest first, page by page; the number of them. */
static unsigned list_all(struct daemon *d, const char *filter, char ids[][64], unsigned max)
{
    char path[256], cursor[64] = "";
    unsigned n = 0, pages = 0;

    do {
        json_t *o, *j;
        size_t i;

        (void)snprintf(path, sizeof(path), "/v1/jobs?limit=3%s%s%s", filter,
                       cursor[0] ? "&cursor=" : "", cursor);
        o = call(d, "GET", path, NULL, "");
        expect(d, 200, o, NULL);
        json_array_foreach(json_object_get(o, "jobs"), i, j)
        {
            assert_true(n < max);
            (void)snprintf(ids[n++], 64, "%s", lh_json_str(j, "id", ""));
        }
        (void)snprintf(cursor, sizeof(cursor), "%s", lh_json_str(o, "next_cursor", ""));
        json_decref(o);
        assert_true(++pages <= max);
    } while (cursor[0]);
    return n;
}

static int64_t n_in_memory(struct daemon *d, const char *state)
{
    json_t *o = call(d, "GET", "/v1/status", NULL, "");
    int64_t n = lh_json_i64(json_object_get(o, "jobs"), state, -1);

    json_decref(o);
    return n;
}

static void wait_for_few_in_memory(struct daemon *d)
{
    uint64_t until = lh_mono_ms() + START_MS;

    while (n_in_memory(d, "cancelled") > 2) {
        assert_true(lh_mono_ms() < until);
        (void)usleep(20000);
    }
}

static void expect_all_shown(struct daemon *d, char ids[][64], unsigned n)
{
    static const char *const parts[] = {"", "/attempts", "/checkpoints", "/events", "/explain"};
    char listed[32][64], path[160];
    json_t *o;

    assert_int_equal(list_all(d, "", listed, 32), n);
    for (unsigned i = 0; i < n; i++)
        assert_string_equal(listed[n - 1 - i], ids[i]);
    assert_int_equal(list_all(d, "&state=cancelled&name=c", listed, 32), n);
    assert_int_equal(list_all(d, "&state=queued", listed, 32), 0);
    for (size_t i = 0; i < LH_ARRAY_LEN(parts); i++) {
        (void)snprintf(path, sizeof(path), "/v1/jobs/%.63s%s", ids[0], parts[i]);
        o = call(d, "GET", path, NULL, "");
        expect(d, 200, o, NULL);
        json_decref(o);
    }
    o = call(d, "GET", "/v1/jobs/1", NULL, ""); /* by number */
    assert_string_equal(lh_json_str(o, "id", ""), ids[0]);
    assert_string_equal(lh_json_str(json_object_get(o, "spec"), "kind", ""), "check");
    json_decref(o);
}

static void jobs_that_left_memory_are_read_from_the_database(void **state)
{
    struct daemon d;
    char ids[12][64], path[128], again[64];
    json_t *o;

    (void)state;
    daemon_init(&d);
    daemon_start_with(&d, NULL, "retention.jobs_max=2");
    o = call(&d, "POST", "/v1/jobs", "Idempotency-Key: k1\r\n", CHECK_JOB);
    expect(&d, 201, o, NULL);
    (void)snprintf(ids[0], sizeof(ids[0]), "%s", lh_json_str(o, "id", ""));
    json_decref(o);
    (void)snprintf(path, sizeof(path), "/v1/jobs/%.63s/cancel", ids[0]);
    json_decref(call(&d, "POST", path, NULL, ""));
    submit_and_cancel(&d, 11, ids + 1);
    wait_for_few_in_memory(&d);
    expect_all_shown(&d, ids, 12);

    /* What is asked of it is answered as ever. */
    o = call(&d, "POST", path, NULL, "");
    expect(&d, 200, o, NULL); /* cancelled it is */
    json_decref(o);
    o = call(&d, "POST", "/v1/jobs", "Idempotency-Key: k1\r\n", CHECK_JOB);
    expect(&d, 201, o, NULL);
    assert_string_equal(lh_json_str(o, "id", ""), ids[0]);
    json_decref(o);

    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    expect_replay(&d);
    daemon_start_with(&d, NULL, "retention.jobs_max=2");
    wait_for_few_in_memory(&d); /* more are read back where jobs ended in the same millisecond */
    expect_all_shown(&d, ids, 12);

    /* A new job may come after one that left; its number is a new one. */
    (void)snprintf(path, sizeof(path), "{'kind':'check','after':[{'job':'%.63s','when':'not_ok'}]}",
                   ids[3]);
    submit(&d, path, again);
    o = call(&d, "GET", "/v1/jobs/13", NULL, "");
    assert_string_equal(lh_json_str(o, "id", ""), again);
    assert_string_equal(lh_json_str(o, "reason", ""), "no_nodes"); /* not `after`: that is met */
    json_decref(o);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    daemon_release(&d);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(the_log_begins_with_a_snapshot_and_older_events_are_gone),
        TEST(jobs_that_left_memory_are_read_from_the_database),
        TEST(death_at_any_point_of_a_compaction_loses_nothing_acknowledged),
    };

    if (argc != 2) {
        (void)fprintf(stderr, "usage: %s LONGHAULD\n", argv[0]);
        return 64;
    }
    daemon_program = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
