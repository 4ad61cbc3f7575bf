/* test_api.c - the API's routes over real sockets, on the real core (api_app.h): lists and cursors,
 * waits, the stream's hand-over from log to live, logs, conditional requests, and what is refused
 * how.
 */
#include "proto/base/clock.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "tests/unit/api_app.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define JSON_TYPE "Content-Type: application/json\r\n"
#define CHECK_JOB                                                                                  \
    "{\"kind\": \"check\", \"name\": \"%s\", \"labels\": {\"team\": \"%s\"}, \"check\": "          \
    "{\"seconds\": 1}}"

struct reply {
    int status;
    char *text; /* the whole answer */
    const char *body;
    json_t *json; /* of the body; NULL when it is none */
};

static char dir[] = "/tmp/longhaul-api-XXXXXX";
static struct app *app;

static int set_up(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof(dir), "/tmp/longhaul-api-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    app = api_app_start(dir);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    api_app_stop(app);
    return lh_remove_tree(dir, NULL);
}

/* ---- a client ------------------------------------------------------------------------------- */

static int dial(void)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)api_app_port(app))};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (const struct sockaddr *)&in, sizeof(in)), 0);
    return fd;
}

static void send_request(int fd, const char *method, const char *target, const char *headers,
                         const char *body)
{
    char text[16384];
    int n = snprintf(
        text, sizeof(text),
        "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%sContent-Length: %zu\r\n\r\n%s",
        method, target, headers, strlen(body), body);

    assert_true(n > 0 && (size_t)n < sizeof(text));
    assert_int_equal(send(fd, text, (size_t)n, MSG_NOSIGNAL), n);
}

static char *read_for(int fd, int ms)
{
    size_t cap = (size_t)1 << 21, len = 0;
    char *text = calloc(1, cap + 1);
    uint64_t end = lh_mono_ms() + (uint64_t)ms;

    while (len < cap) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        uint64_t now = lh_mono_ms();
        ssize_t n;

        if (now >= end || poll(&p, 1, (int)(end - now)) <= 0)
            break;
        n = recv(fd, text + len, cap - len, 0);
        if (n <= 0)
            break;
        len += (size_t)n;
    }
    return text;
}

static struct reply receive(int fd, int ms)
{
    struct reply r = {.text = read_for(fd, ms)};
    const char *blank;

    (void)close(fd);
    blank = strstr(r.text, "\r\n\r\n");
    assert_non_null(blank);
    assert_int_equal(strncmp(r.text, "HTTP/1.1 ", 9), 0);
    r.status = atoi(r.text + 9);
    r.body = blank + 4;
    (void)!lh_json_parse(r.body, strlen(r.body), 64, &r.json, NULL);
    return r;
}

static struct reply ask(const char *method, const char *target, const char *headers,
                        const char *body)
{
    int fd = dial();

    send_request(fd, method, target, headers, body);
    return receive(fd, 3000);
}

static void done(struct reply *r)
{
    json_decref(r->json);
    free(r->text);
}

/* Expects a status and, of a problem, its code. */
static void expect(const char *method, const char *target, const char *headers, const char *body,
                   int status, const char *code)
{
    struct reply r = ask(method, target, headers, body);

    if (r.status != status || (code && strcmp(lh_json_str(r.json, "code", ""), code) != 0))
        fail_msg("%s %s: %d in place of %d %s\n%s", method, target, r.status, status,
                 code ? code : "", r.text);
    if (code)
        assert_non_null(strstr(r.text, "Content-Type: application/problem+json\r\n"));
    done(&r);
}

static void submit(const char *name, const char *team)
{
    char body[512];

    (void)snprintf(body, sizeof(body), CHECK_JOB, name, team);
    expect("POST", "/v1/jobs", JSON_TYPE, body, 201, NULL);
}

/* Plays a node: it registers, and says what reports say. */
static void node_registers(void)
{
    expect("POST", "/v1/node/register", "",
           "{\"protocol\": 1, \"name\": \"n1\", \"agent_id\": \"a\", \"epoch\": 1, \"boot_id\": "
           "\"b\", \"version\": \"1\", "
           "\"hostname\": \"h\", \"address\": \"127.0.0.1\", \"device\": \"cpu\", \"slots\": 2, "
           "\"cores\": 2, "
           "\"memory_bytes\": 1000, \"attempts\": []}",
           200, NULL);
}

static void node_reports(const char *report)
{
    char body[1024];

    (void)snprintf(body, sizeof(body), "{\"name\": \"n1\", \"reports\": [%s]}", report);
    expect("POST", "/v1/node/reports", "", body, 200, NULL);
}

/* The id of the job with that name. */
static const char *id_of(const char *name, char id[static 64])
{
    char target[256];
    struct reply r;

    (void)snprintf(target, sizeof(target), "/v1/jobs?name=%s", name);
    r = ask("GET", target, "", "");
    (void)snprintf(id, 64, "%s",
                   lh_json_str(json_array_get(json_object_get(r.json, "jobs"), 0), "id", ""));
    done(&r);
    assert_true(id[0]);
    return id;
}

static void run_to_running(const char *id)
{
    char report[256];
    static const char *const types[] = {"prepared", "launched", "running"};

    (void)snprintf(
        report, sizeof(report),
        "{\"id\": \"p\", \"type\": \"preflight\", \"job\": \"%s\", \"ok\": true, \"plan\": {}}",
        id);
    node_reports(report);
    for (size_t i = 0; i < 3; i++) {
        (void)snprintf(report, sizeof(report),
                       "{\"id\": \"r%zu\", \"type\": \"%s\", \"job\": \"%s\", \"attempt\": 1}", i,
                       types[i], id);
        node_reports(report);
    }
}

static void expect_state(const char *id, const char *state)
{
    char target[128];
    struct reply r;

    (void)snprintf(target, sizeof(target), "/v1/jobs/%s", id);
    r = ask("GET", target, "", "");
    assert_string_equal(lh_json_str(r.json, "state", ""), state);
    done(&r);
}

static void write_journal(const char *id, const char *file, const char *text)
{
    char path[600];

    (void)snprintf(path, sizeof(path), "%s/jobs/%s/1", dir, id);
    assert_int_equal(lh_mkdir_p(path, NULL), 0);
    (void)snprintf(path, sizeof(path), "%s/jobs/%s/1/%s", dir, id, file);
    assert_int_equal(lh_append_file(path, text, strlen(text), NULL), 0);
}

/* ---- submitting ----------------------------------------------------------------------------- */

static void a_submitted_job_is_answered_with_location_etag_and_defaults(void **state)
{
    struct reply r = ask("POST", "/v1/jobs", JSON_TYPE, "{\"kind\": \"check\"}");
    char location[128];

    (void)state;
    assert_int_equal(r.status, 201);
    (void)snprintf(location, sizeof(location), "Location: /v1/jobs/%s\r\n",
                   lh_json_str(r.json, "id", "?"));
    assert_non_null(strstr(r.text, location));
    assert_non_null(strstr(r.text, "ETag: \"1\"\r\n"));
    assert_int_equal(
        lh_json_i64(json_object_get(json_object_get(r.json, "spec"), "resources"), "slots", 0), 1);
    done(&r);
}

/* JOB-10. */
static void bad_bodies_are_refused_with_the_place_and_nothing_is_stored(void **state)
{
    char deep[400] = "";
    struct reply r;

    (void)state;
    memset(deep, '[', 200);
    expect("POST", "/v1/jobs", "", "{\"kind\": \"check\"}", 415, "unsupported_media_type");
    expect("POST", "/v1/jobs", "Content-Type: application/jsonx\r\n", "{}", 415,
           "unsupported_media_type");
    expect("POST", "/v1/jobs", JSON_TYPE, "", 400, "bad_json");
    expect("POST", "/v1/jobs", JSON_TYPE, deep, 400, "bad_json");
    expect("POST", "/v1/jobs", JSON_TYPE, "{\"kind\": \"check\", \"kind\": \"check\"}", 400,
           "bad_json");
    expect("POST", "/v1/jobs", JSON_TYPE, "{\"name\": \"\xff\"}", 400, "bad_json");
    expect("POST", "/v1/jobs", JSON_TYPE "Idempotency-Key: a b\r\n", "{\"kind\": \"check\"}", 400,
           "bad_idempotency_key");
    expect("POST", "/v1/jobs?dry_run=maybe", JSON_TYPE, "{\"kind\": \"check\"}", 400,
           "bad_parameter");
    expect("POST", "/v1/jobs", JSON_TYPE "Accept: text/html\r\n", "{\"kind\": \"check\"}", 406,
           "not_acceptable");
    r = ask("POST", "/v1/jobs", JSON_TYPE, "{\n \"kind\": check}");
    assert_non_null(strstr(lh_json_str(r.json, "detail", ""), "line 2"));
    done(&r);
    r = ask("POST", "/v1/jobs", JSON_TYPE, "{\"kind\": \"chekc\", \"nmae\": \"x\"}");
    assert_int_equal(r.status, 422);
    assert_string_equal(lh_json_str(r.json, "type", ""), "urn:longhaul:problem:bad_job");
    assert_int_equal(json_array_size(json_object_get(r.json, "errors")), 2);
    done(&r);
    r = ask("GET", "/v1/jobs", "", "");
    assert_int_equal(json_array_size(json_object_get(r.json, "jobs")), 0);
    done(&r);
}

static void a_repeated_key_answers_with_the_first_job(void **state)
{
    struct reply a =
        ask("POST", "/v1/jobs", JSON_TYPE "Idempotency-Key: k1\r\n", "{\"kind\": \"check\"}");
    struct reply b =
        ask("POST", "/v1/jobs", JSON_TYPE "Idempotency-Key: k1\r\n", "{\"kind\": \"check\"}");

    (void)state;
    assert_null(strstr(a.text, "Idempotency-Replayed"));
    assert_non_null(strstr(b.text, "Idempotency-Replayed: true\r\n"));
    assert_string_equal(lh_json_str(a.json, "id", "a"), lh_json_str(b.json, "id", "b"));
    done(&a);
    done(&b);
    expect("POST", "/v1/jobs", JSON_TYPE "Idempotency-Key: k1\r\n",
           "{\"kind\": \"check\", \"name\": \"x\"}", 422, "idempotency_key_reused");
}

static void a_pipeline_is_answered_as_a_list_and_a_dry_run_stores_nothing(void **state)
{
    const char *two = "[{\"kind\": \"check\", \"name\": \"p1\"}, {\"kind\": \"check\", \"after\": "
                      "[{\"job\": \"p1\"}]}]";
    struct reply r = ask("POST", "/v1/jobs?dry_run=1", JSON_TYPE, two);

    (void)state;
    assert_int_equal(r.status, 200);
    assert_int_equal(json_array_size(json_object_get(r.json, "jobs")), 2);
    done(&r);
    r = ask("POST", "/v1/jobs?dry_run=1", JSON_TYPE, "{\"kind\": \"check\"}");
    assert_true(json_is_false(json_object_get(r.json, "fits")));
    done(&r);
    r = ask("GET", "/v1/jobs", "", "");
    assert_int_equal(json_array_size(json_object_get(r.json, "jobs")), 0);
    done(&r);
    r = ask("POST", "/v1/jobs", JSON_TYPE, two);
    assert_int_equal(r.status, 201);
    assert_int_equal(json_array_size(json_object_get(r.json, "jobs")), 2);
    done(&r);
}

/* ---- lists ---------------------------------------------------------------------------------- */

static void pages_cover_every_job_once_newest_first(void **state)
{
    char name[32], target[128] = "/v1/jobs?limit=3";
    int64_t before = INT64_MAX;
    unsigned seen = 0;

    (void)state;
    for (int i = 0; i < 8; i++) {
        (void)snprintf(name, sizeof(name), "job%d", i);
        submit(name, "a");
    }
    for (int page = 0; target[0]; page++) {
        struct reply r = ask("GET", target, "", "");
        const char *cursor = lh_json_str(r.json, "next_cursor", "");
        const json_t *job;
        size_t i;

        assert_int_equal(r.status, 200);
        json_array_foreach(json_object_get(r.json, "jobs"), i, job)
        {
            assert_true(lh_json_i64(job, "number", 0) < before);
            before = lh_json_i64(job, "number", 0);
            seen++;
        }
        target[0] = 0;
        if (cursor[0]) {
            char link[128];

            (void)snprintf(target, sizeof(target), "/v1/jobs?limit=3&cursor=%s", cursor);
            (void)snprintf(link, sizeof(link), "Link: <%s>; rel=\"next\"", target);
            assert_non_null(strstr(r.text, link));
            submit("meanwhile", "a"); /* newer jobs do not shift the pages */
        }
        done(&r);
        assert_true(page < 5);
    }
    assert_int_equal(seen, 8);
}

static unsigned count(const char *target)
{
    struct reply r = ask("GET", target, "", "");
    unsigned n = (unsigned)json_array_size(json_object_get(r.json, "jobs"));

    assert_int_equal(r.status, 200);
    done(&r);
    return n;
}

static void filters_combine_and_bad_ones_are_refused(void **state)
{
    (void)state;
    submit("one", "red");
    submit("two", "blue");
    submit("three", "blue");
    expect("POST", "/v1/jobs/two/cancel", "", "", 200, NULL);
    assert_int_equal(count("/v1/jobs"), 3);
    assert_int_equal(count("/v1/jobs?state=cancelled"), 1);
    assert_int_equal(count("/v1/jobs?state=pending,cancelled"), 3);
    assert_int_equal(count("/v1/jobs?state=finished&state=running"), 1);
    assert_int_equal(count("/v1/jobs?label.team=blue"), 2);
    assert_int_equal(count("/v1/jobs?label.team=blue&state=pending"), 1);
    assert_int_equal(count("/v1/jobs?name=one&label.team=blue"), 0);
    assert_int_equal(count("/v1/jobs?kind=train"), 0);
    expect("GET", "/v1/jobs?state=runing", "", "", 400, "bad_parameter");
    expect("GET", "/v1/jobs?kind=x", "", "", 400, "bad_parameter");
    expect("GET", "/v1/jobs?limit=0", "", "", 400, "bad_parameter");
    expect("GET", "/v1/jobs?limit=501", "", "", 400, "bad_parameter");
    expect("GET", "/v1/jobs?limit=1x", "", "", 400, "bad_parameter");
    expect("GET", "/v1/jobs?cursor=7", "", "", 400, "bad_parameter");
    expect("GET", "/v1/jobs?lmit=1", "", "", 400, "bad_parameter");
    expect("POST", "/v1/jobs?dryrun=1", "", "{}", 400, "bad_parameter");
    expect("GET", "/v1/nodes?x", "", "", 400, "bad_parameter");
    expect("GET", "/livez?probe=1", "", "", 200, NULL);
}

/* ---- one job -------------------------------------------------------------------------------- */

static void conditions_compare_revisions(void **state)
{
    (void)state;
    submit("one", "a");
    expect("GET", "/v1/jobs/one", "If-None-Match: \"1\"\r\n", "", 304, NULL);
    expect("GET", "/v1/jobs/one", "If-None-Match: \"2\"\r\n", "", 200, NULL);
    expect("GET", "/v1/jobs/one", "If-None-Match: 1\r\n", "", 400, "bad_etag");
    expect("POST", "/v1/jobs/one/hold", "If-Match: \"7\"\r\n", "", 412, "revision_mismatch");
    expect("POST", "/v1/jobs/one/hold", "If-Match: \"1\"\r\n", "", 200, NULL);
    expect("POST", "/v1/jobs/one/hold", "If-Match: \"1\"\r\n", "", 412, "revision_mismatch");
    expect("POST", "/v1/jobs/one/release", "If-Match: *\r\n", "", 200, NULL);
    expect("POST", "/v1/jobs/one/cancel", "", "{}", 400, "bad_body");
    expect("POST", "/v1/jobs/one/cancel", "", "", 200, NULL);
    expect("POST", "/v1/jobs/one/cancel", "", "", 200, NULL);
    expect("POST", "/v1/jobs/one/release", "", "", 409, "job_final");
    expect("POST", "/v1/jobs/none/release", "", "", 404, "no_such_job");
}

static void a_wait_ends_with_a_change_the_time_or_the_jobs_end(void **state)
{
    uint64_t start;
    struct reply r;
    int fd;

    (void)state;
    submit("one", "a");
    fd = dial();
    send_request(fd, "GET", "/v1/jobs/one?wait=20&after_rev=1", "", "");
    (void)usleep(200000);
    expect("POST", "/v1/jobs/one/hold", "", "", 200, NULL);
    r = receive(fd, 2000);
    assert_string_equal(lh_json_str(r.json, "state", ""), "held");
    done(&r);
    start = lh_mono_ms();
    r = ask("GET", "/v1/jobs/one?wait=1", "", "");
    assert_int_equal(r.status, 200);
    assert_in_range(lh_mono_ms() - start, 900, 2500);
    done(&r);
    start = lh_mono_ms();
    expect("GET", "/v1/jobs/one?wait=30&after_rev=1", "", "", 200, NULL); /* it has moved already */
    expect("POST", "/v1/jobs/one/cancel", "", "", 200, NULL);
    expect("GET", "/v1/jobs/one?wait=30", "", "", 200, NULL); /* it has ended */
    assert_true(lh_mono_ms() - start < 1000);
    expect("GET", "/v1/jobs/one?wait=61", "", "", 400, "bad_parameter");
    /* A client that leaves takes its wait along: api_app_stop would find it. */
    submit("two", "a");
    fd = dial();
    send_request(fd, "GET", "/v1/jobs/two?wait=60", "", "");
    (void)usleep(200000);
    (void)close(fd);
    (void)usleep(600000);
}

static void a_running_job_shows_its_progress_logs_numbers_and_attempt(void **state)
{
    char id[64], target[128];
    struct reply r;
    const json_t *p;

    (void)state;
    node_registers();
    submit("one", "a");
    id_of("one", id);
    expect("GET", "/v1/jobs/one/logs", "", "", 404, "no_attempt");
    run_to_running(id);
    expect_state(id, "running");
    write_journal(id, "events.jsonl",
                  "{\"type\":\"start\",\"time\":\"t\",\"rank\":0}\n"
                  "{\"type\":\"phase\",\"time\":\"2026-01-01T00:00:00.000Z\",\"rank\":0,\"name\":"
                  "\"train\",\"done\":3,\"of\":8,\"unit\":\"steps\"}\n"
                  "{\"type\":\"step\",\"time\":\"2026-01-01T00:00:01.000Z\",\"rank\":0,\"step\":3,"
                  "\"of\":8,\"loss\":2.5,\"step_s\":2.0}\n"
                  "{\"type\":\"step\",\"step\":4");
    (void)snprintf(target, sizeof(target), "/v1/jobs/%s", id);
    r = ask("GET", target, "", "");
    p = json_object_get(r.json, "progress");
    assert_string_equal(lh_json_str(p, "phase", ""), "train");
    assert_int_equal(lh_json_i64(p, "phase_of", 0), 8);
    assert_int_equal(lh_json_i64(p, "step", 0), 3); /* the cut line is no report yet */
    assert_true(lh_json_num(p, "eta_s", 0) == 10.0);
    assert_string_equal(lh_json_str(r.json, "reason", "x"), "");
    done(&r);
    r = ask("GET", "/v1/jobs/one/metrics", "", "");
    assert_non_null(strstr(r.text, "Content-Type: application/x-ndjson"));
    assert_non_null(strstr(r.body, "\"loss\":2.5"));
    assert_null(strstr(r.body, "phase"));
    done(&r);
    r = ask("GET", "/v1/jobs/one/metrics?types=start,phase&limit=1", "", "");
    assert_string_equal(r.body, "{\"type\":\"start\",\"time\":\"t\",\"rank\":0}\n");
    done(&r);
    r = ask("GET", "/v1/jobs/one/attempts", "", "");
    p = json_array_get(json_object_get(r.json, "attempts"), 0);
    assert_string_equal(lh_json_str(p, "state", ""), "running");
    assert_string_equal(lh_json_str(json_array_get(json_object_get(p, "gang"), 0), "node", ""),
                        "n1");
    done(&r);
}

static void logs_are_read_by_offset_and_followed(void **state)
{
    char id[64];
    struct reply r;
    int fd;

    (void)state;
    node_registers();
    submit("one", "a");
    run_to_running(id_of("one", id));
    r = ask("GET", "/v1/jobs/one/logs", "", ""); /* nothing was shipped yet */
    assert_int_equal(r.status, 200);
    assert_string_equal(r.body, "");
    done(&r);
    write_journal(id, "0.log", "hello world\n");
    r = ask("GET", "/v1/jobs/one/logs?offset=6&limit=3", "", "");
    assert_string_equal(r.body, "wor");
    assert_non_null(strstr(r.text, "X-Longhaul-Offset: 9\r\n"));
    assert_non_null(strstr(r.text, "X-Longhaul-End: false\r\n"));
    assert_non_null(strstr(r.text, "Content-Type: text/plain; charset=utf-8\r\n"));
    done(&r);
    fd = dial();
    send_request(fd, "GET", "/v1/jobs/one/logs?offset=12&follow=1&wait=10", "", "");
    (void)usleep(400000);
    write_journal(id, "0.log", "more\n");
    r = receive(fd, 2000);
    assert_string_equal(r.body, "more\n");
    done(&r);
    r = ask("GET", "/v1/jobs/one/logs?offset=17&follow=1&wait=1", "", "");
    assert_int_equal(r.status, 200);
    assert_string_equal(r.body, "");
    done(&r);
    expect("GET", "/v1/jobs/one/logs?offset=18", "", "", 416, "offset_too_large");
    expect("GET", "/v1/jobs/one/logs?rank=1", "", "", 404, "no_rank");
    expect("GET", "/v1/jobs/one/logs?rank=../../x", "", "", 400, "bad_parameter");
    expect("GET", "/v1/jobs/one/logs?attempt=2", "", "", 404, "no_attempt");
    expect("GET", "/v1/jobs/one/logs?rank=launch", "", "", 200, NULL);
    expect("GET", "/v1/jobs/one/logs", "Accept: application/json\r\n", "", 406, "not_acceptable");
}

/* ---- events --------------------------------------------------------------------------------- */

/* How often text holds word. */
static unsigned occurrences(const char *text, const char *word)
{
    unsigned n = 0;

    while ((text = strstr(text, word))) {
        n++;
        text += strlen(word);
    }
    return n;
}

static void a_stream_goes_from_the_log_to_live_without_loss_or_repeat(void **state)
{
    unsigned long long last = 0;
    char *text, *at;
    unsigned n = 0;
    int fd = dial();

    (void)state;
    for (int i = 0; i < 20; i++)
        submit("early", "a");
    send_request(fd, "GET", "/v1/events", "Last-Event-ID: 0\r\n", "");
    for (int i = 0; i < 20; i++)
        submit("late", "a"); /* some while the log is read, some after */
    text = read_for(fd, 700);
    (void)close(fd);
    assert_non_null(strstr(text, "Content-Type: text/event-stream"));
    for (at = text; (at = strstr(at, "\nid: ")); n++) {
        unsigned long long seq = strtoull(at + 5, &at, 10);

        assert_int_equal(seq, last + 1);
        last = seq;
    }
    assert_int_equal(n, 40);
    assert_int_equal(occurrences(text, "event: job.submitted\n"), 40);
    free(text);
    (void)usleep(600000); /* the feed is closed when the client has gone: api_app_stop looks */
}

static void a_stream_of_one_job_goes_live_though_other_jobs_move(void **state)
{
    char *text;
    int fd = dial();

    (void)state;
    submit("mine", "a");
    send_request(fd, "GET", "/v1/events?job=mine&types=job.*", "Last-Event-ID: 0\r\n", "");
    for (int i = 0; i < 10; i++)
        submit("other", "a");
    expect("POST", "/v1/jobs/mine/cancel", "", "", 200, NULL);
    text = read_for(fd, 500);
    (void)close(fd);
    assert_int_equal(occurrences(text, "\nid: "), 2);
    assert_non_null(strstr(text, "cancelled"));
    free(text);
    (void)usleep(600000);
}

static void events_are_listed_by_number_and_type(void **state)
{
    struct reply r;

    (void)state;
    submit("one", "a");
    submit("two", "a");
    expect("POST", "/v1/jobs/one/hold", "", "", 200, NULL);
    r = ask("GET", "/v1/events?after=1&limit=1", "Accept: application/json\r\n", "");
    assert_int_equal(json_array_size(json_object_get(r.json, "events")), 1);
    assert_int_equal(lh_json_i64(json_array_get(json_object_get(r.json, "events"), 0), "seq", 0),
                     2);
    assert_int_equal(lh_json_i64(r.json, "next_after", 0), 2);
    done(&r);
    r = ask("GET", "/v1/jobs/one/events", "", "");
    assert_int_equal(json_array_size(json_object_get(r.json, "events")), 2);
    done(&r);
    r = ask("GET", "/v1/jobs/one/events?types=job.submitted", "", "");
    assert_int_equal(json_array_size(json_object_get(r.json, "events")), 1);
    done(&r);
    expect("GET", "/v1/events", "Last-Event-ID: x\r\n", "", 400, "bad_event_id");
    expect("GET", "/v1/events", "Accept: text/html\r\n", "", 406, "not_acceptable");
    expect("GET", "/v1/events?job=none", "", "", 404, "no_such_job");
}

/* ---- the rest ------------------------------------------------------------------------------- */

static void unknown_paths_and_methods_are_told_apart(void **state)
{
    struct reply r = ask("DELETE", "/v1/jobs", "", "");

    (void)state;
    assert_int_equal(r.status, 405);
    assert_non_null(strstr(r.text, "Allow: GET, HEAD, POST\r\n"));
    done(&r);
    expect("GET", "/v1/jobs/one/cancel", "", "", 405, "method_not_allowed");
    expect("GET", "/v2/jobs", "", "", 404, "not_found");
    expect("GET", "/v1//jobs", "", "", 404, "not_found");
    expect("GET", "/v1/jobs/", "", "", 404, "not_found");
    expect("GET", "/v1/jobs/one", "", "", 404, "no_such_job");
    expect("GET", "/v1/nodes/one", "", "", 404, "no_such_node");
}

static void roles_may_do_what_is_theirs(void **state)
{
    static const struct {
        const char *method, *target;
        int viewer, submitter, node, operator;
    } cases[] = {
        {"GET", "/livez", 200, 200, 200, 200},
        {"GET", "/v1/openapi.json", 200, 200, 200, 200},
        {"GET", "/metrics", 200, 200, 403, 200},
        {"GET", "/v1/jobs", 200, 200, 403, 200},
        {"GET", "/v1/jobs/one/attempts", 200, 200, 403, 200},
        {"POST", "/v1/jobs", 403, 415, 403, 415},
        {"POST", "/v1/jobs/one/hold", 403, 200, 403, 200},
        {"POST", "/v1/node/reports", 403, 403, 200, 200},
    };
    struct reply r;

    (void)state;
    submit("one", "a");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *body = strstr(cases[i].target, "/node/") ? "{}" : "";

        expect(cases[i].method, cases[i].target, "Authorization: Bearer viewer\r\n", body,
               cases[i].viewer, NULL);
        expect(cases[i].method, cases[i].target, "Authorization: Bearer submitter\r\n", body,
               cases[i].submitter, NULL);
        expect(cases[i].method, cases[i].target, "Authorization: Bearer node\r\n", body,
               cases[i].node, NULL);
        expect(cases[i].method, cases[i].target, "Authorization: Bearer operator\r\n", body,
               cases[i].operator, NULL);
    }
    r = ask("GET", "/v1/jobs", "Authorization: Bearer wrong\r\n", "");
    assert_int_equal(r.status, 401);
    assert_non_null(strstr(r.text, "WWW-Authenticate: Bearer\r\n"));
    done(&r);
}

static void probes_metrics_and_documents_answer(void **state)
{
    struct reply r;

    (void)state;
    node_registers();
    submit("one", "a");
    expect("GET", "/livez", "", "", 200, NULL);
    expect("GET", "/readyz", "", "", 200, NULL);
    expect("GET", "/", "", "", 200, NULL);
    expect("GET", "/v1/status", "", "", 200, NULL);
    r = ask("GET", "/metrics", "", "");
    assert_non_null(strstr(r.text, "Content-Type: text/plain; version=0.0.4"));
    assert_non_null(
        strstr(r.body, "\nlonghaul_http_requests_total{route=\"/readyz\",code=\"200\"} 1\n"));
    assert_non_null(strstr(r.body, "\nlonghaul_jobs{state=\"blocked\"} 1\n"));
    done(&r);
    r = ask("GET", "/v1/nodes/n1", "", "");
    assert_string_equal(lh_json_str(r.json, "state", ""), "up");
    assert_true(json_is_string(json_object_get(r.json, "seen_at")));
    done(&r);
    r = ask("GET", "/v1/openapi.json", "", "");
    assert_string_equal(lh_json_str(r.json, "openapi", ""), "3.1.0");
    /* the job's schema is in its place */
    assert_non_null(json_object_get(
        json_object_get(
            json_object_get(json_object_get(json_object_get(r.json, "components"), "schemas"),
                            "JobSpec"),
            "properties"),
        "kind"));
    done(&r);
}

/* STATE-7. */
static void explain_says_why_and_names_what_is_waited_for(void **state)
{
    struct reply r;

    (void)state;
    submit("first", "a");
    expect("POST", "/v1/jobs", JSON_TYPE,
           "{\"kind\": \"check\", \"name\": \"second\", \"after\": [{\"job\": \"first\"}]}", 201,
           NULL);
    r = ask("GET", "/v1/jobs/second/explain", "", "");
    assert_string_equal(
        lh_json_str(json_array_get(json_object_get(r.json, "blocking"), 0), "name", ""), "first");
    assert_true(lh_json_str(r.json, "reason", "")[0]);
    assert_true(lh_json_str(r.json, "detail", "")[0]);
    assert_true(json_is_null(json_object_get(r.json, "position"))); /* it is blocked, not queued */
    done(&r);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_submitted_job_is_answered_with_location_etag_and_defaults),
        TEST(bad_bodies_are_refused_with_the_place_and_nothing_is_stored),
        TEST(a_repeated_key_answers_with_the_first_job),
        TEST(a_pipeline_is_answered_as_a_list_and_a_dry_run_stores_nothing),
        TEST(pages_cover_every_job_once_newest_first),
        TEST(filters_combine_and_bad_ones_are_refused),
        TEST(conditions_compare_revisions),
        TEST(a_wait_ends_with_a_change_the_time_or_the_jobs_end),
        TEST(a_running_job_shows_its_progress_logs_numbers_and_attempt),
        TEST(logs_are_read_by_offset_and_followed),
        TEST(a_stream_goes_from_the_log_to_live_without_loss_or_repeat),
        TEST(a_stream_of_one_job_goes_live_though_other_jobs_move),
        TEST(events_are_listed_by_number_and_type),
        TEST(unknown_paths_and_methods_are_told_apart),
        TEST(roles_may_do_what_is_theirs),
        TEST(probes_metrics_and_documents_answer),
        TEST(explain_says_why_and_names_what_is_waited_for),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
