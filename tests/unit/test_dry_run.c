/* test_dry_run.c - POST /v1/jobs?dry_run=1 against the program with a scripted node (NODE-19,
 * STATE-12). argv[1] is the program.
 */
#include "proto/base/clock.h"
#include "tests/unit/daemon_rig.h"
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#define DRY "/v1/jobs?dry_run=1"
#define TRAIN                                                                                      \
    "{\"kind\":\"train\",\"name\":\"t\",\"model\":{\"base\":\"file:///m\"},\"data\":{\"train\":"   \
    "[\"file:///d\"]},\"context\":{\"length\":1024}}"

static void begin(struct daemon *d, struct fake *f, const char *setting)
{
    daemon_init(d);
    daemon_start_with(d, NULL, setting);
    *f = (struct fake){.d = d};
    node_register_with(f, "[]");
}

static void end(struct daemon *d)
{
    assert_int_equal(daemon_stop(d, SIGTERM), 0);
    daemon_release(d);
}

/* The next preflight that the node is told of, answered with `what`. */
static void answer_preflight(struct fake *f, const char *what)
{
    json_t *command = node_command(f, "preflight");
    char report[600];

    assert_true(lh_json_bool(command, "dry_run", 0));
    assert_true(lh_json_i64(command, "limit_ms", 0) > 0);
    assert_string_equal(
        lh_json_str(json_object_get(json_object_get(command, "spec"), "model"), "base", ""),
        "file:///m");
    (void)snprintf(report, sizeof(report), "{'id':'r','type':'preflight','job':'%s',%s}",
                   lh_json_str(command, "job", ""), what);
    node_report(f, report);
    json_decref(command);
}

static void a_dry_run_brings_placement_and_the_node_s_plan_and_stores_nothing(void **state)
{
    struct daemon d;
    struct fake f;
    json_t *o, *events;
    int fd;

    (void)state;
    begin(&d, &f, NULL);
    fd = send_request(&d, "POST", DRY, NULL, TRAIN);
    answer_preflight(&f, "'ok':true,'plan':{'bytes_per_rank':1234,'flops_per_step':5.5}");
    o = receive(&d, fd);
    expect(&d, 200, o, NULL);
    assert_true(lh_json_bool(o, "fits", 0));
    assert_string_equal(lh_json_str(json_array_get(json_object_get(o, "placement"), 0), "node", ""),
                        "n1");
    assert_int_equal(lh_json_i64(json_object_get(o, "plan"), "bytes_per_rank", 0), 1234);
    assert_true(json_is_null(json_object_get(o, "problem")));
    assert_null(json_object_get(o, "inputs"));
    json_decref(o);

    o = call(&d, "GET", "/v1/jobs", NULL, "");
    assert_int_equal(json_array_size(json_object_get(o, "jobs")), 0);
    json_decref(o);
    events = call(&d, "GET", "/v1/events?after=0", "Accept: application/json\r\n", "");
    expect(&d, 200, events, NULL);
    assert_int_equal(json_array_size(json_object_get(events, "events")), 1); /* node.registered */
    json_decref(events);
    end(&d);
}

static void a_problem_of_the_node_comes_with_its_pointer(void **state)
{
    struct daemon d;
    struct fake f;
    json_t *o, *jobs, *problem;
    int fd;

    (void)state;
    begin(&d, &f, NULL);
    fd = send_request(&d, "POST", DRY, NULL, "[" TRAIN "," TRAIN "]");
    answer_preflight(&f, "'ok':true,'plan':{}");
    answer_preflight(&f, "'ok':false,'problem':{'code':'bad_input','class':'app','pointer':"
                         "'/data/train/0','detail':'no such file'}");
    o = receive(&d, fd);
    expect(&d, 200, o, NULL);
    jobs = json_object_get(o, "jobs");
    assert_int_equal(json_array_size(jobs), 2);
    assert_true(json_is_object(json_object_get(json_array_get(jobs, 0), "plan")));
    problem = json_object_get(json_array_get(jobs, 1), "problem");
    assert_string_equal(lh_json_str(problem, "pointer", ""), "/data/train/0");
    assert_string_equal(lh_json_str(problem, "node", ""), "n1");
    assert_true(json_is_null(json_object_get(json_array_get(jobs, 1), "plan")));
    json_decref(o);
    end(&d);
}

static void a_job_that_fits_nowhere_or_waits_for_another_has_no_plan_but_says_why(void **state)
{
    struct daemon d;
    struct fake f;
    json_t *o, *second;

    (void)state;
    begin(&d, &f, NULL);
    o = call(&d, "POST", DRY, NULL, "{'kind':'check','resources':{'slots':9}}");
    expect(&d, 200, o, NULL);
    assert_string_equal(lh_json_str(o, "reason", ""), "infeasible");
    assert_true(json_is_null(json_object_get(o, "plan")));
    json_decref(o);
    o = call(&d, "POST", DRY, NULL,
             "[{'kind':'check','name':'a','resources':{'slots':9}},{'kind':'eval','model':{'base':"
             "'file:///m','adapter':'job:a/checkpoint'},'context':{'length':64},'eval':{'perplexity':['file:///d']}}]");
    expect(&d, 200, o, NULL);
    second = json_array_get(json_object_get(o, "jobs"), 1);
    assert_non_null(strstr(lh_json_str(second, "detail", ""), "has not ended"));
    json_decref(o);
    end(&d);
}

static void a_node_that_does_not_answer_is_not_waited_for_longer_than_the_setting(void **state)
{
    struct daemon d;
    struct fake f;
    uint64_t begun = lh_mono_ms();
    json_t *o;

    (void)state;
    begin(&d, &f, "timers.dry_run_ms=300");
    o = receive(&d, send_request(&d, "POST", DRY, NULL, TRAIN));
    expect(&d, 504, o, "preflight_timeout");
    assert_non_null(strstr(lh_json_str(o, "detail", ""), "n1"));
    json_decref(o);
    assert_true(lh_mono_ms() - begun < START_MS);
    /* The late word of it is taken and means nothing. */
    answer_preflight(&f, "'ok':true,'plan':{}");
    end(&d);
}

static void dry_runs_beyond_the_limit_are_told_to_come_again(void **state)
{
    struct daemon d;
    struct fake f;
    json_t *o;
    int first;

    (void)state;
    begin(&d, &f, "limits.dry_runs=1");
    first = send_request(&d, "POST", DRY, NULL, TRAIN);
    json_decref(node_command(&f, "preflight")); /* the first one is under way */
    o = receive(&d, send_request(&d, "POST", DRY, NULL, TRAIN));
    expect(&d, 503, o, "busy");
    assert_non_null(strstr(d.headers, "Retry-After"));
    json_decref(o);
    (void)close(first);
    end(&d);
}

/* Preflights told to the node by one poll. */
static unsigned told(struct fake *f)
{
    char more[64];
    json_t *o, *c;
    unsigned n = 0;
    size_t i;

    (void)snprintf(more, sizeof(more), ",'ack':%llu,'wait_s':0", (unsigned long long)f->ack);
    o = node_call(f, "poll", more);
    json_array_foreach(json_object_get(o, "commands"), i, c) n +=
        strcmp(lh_json_str(c, "type", ""), "preflight") == 0;
    json_decref(o);
    return n;
}

static void
a_node_has_two_dry_runs_at_a_time_and_hears_of_them_again_when_it_comes_back(void **state)
{
    struct daemon d;
    struct fake f;
    json_t *o;
    int fd;

    (void)state;
    begin(&d, &f, NULL);
    fd = send_request(&d, "POST", DRY, NULL, "[" TRAIN "," TRAIN "," TRAIN "]");
    for (uint64_t until = lh_mono_ms() + START_MS; told(&f) < 2;)
        assert_true(lh_mono_ms() < until);
    assert_int_equal(told(&f), 2);
    node_register_with(&f, "[]"); /* a new daemon: what it was told is lost */
    assert_int_equal(told(&f), 2);
    for (int i = 0; i < 3; i++)
        answer_preflight(&f, "'ok':true,'plan':{}");
    o = receive(&d, fd);
    expect(&d, 200, o, NULL);
    assert_int_equal(json_array_size(json_object_get(o, "jobs")), 3);
    json_decref(o);
    end(&d);
}

static void a_stop_answers_dry_runs_that_wait(void **state)
{
    struct daemon d;
    struct fake f;
    json_t *o;
    int fd;

    (void)state;
    begin(&d, &f, NULL);
    fd = send_request(&d, "POST", DRY, NULL, TRAIN);
    json_decref(node_command(&f, "preflight"));
    assert_int_equal(kill(d.pid, SIGTERM), 0);
    o = receive(&d, fd);
    expect(&d, 503, o, "stopping");
    json_decref(o);
    assert_int_equal(reap(d.pid), 0);
    daemon_release(&d);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(a_dry_run_brings_placement_and_the_node_s_plan_and_stores_nothing),
        TEST(a_problem_of_the_node_comes_with_its_pointer),
        TEST(a_job_that_fits_nowhere_or_waits_for_another_has_no_plan_but_says_why),
        TEST(a_node_that_does_not_answer_is_not_waited_for_longer_than_the_setting),
        TEST(dry_runs_beyond_the_limit_are_told_to_come_again),
        TEST(a_node_has_two_dry_runs_at_a_time_and_hears_of_them_again_when_it_comes_back),
        TEST(a_stop_answers_dry_runs_that_wait),
    };

    if (argc != 2) {
        (void)fprintf(stderr, "usage: %s LONGHAULD\n", argv[0]);
        return 64;
    }
    daemon_program = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
