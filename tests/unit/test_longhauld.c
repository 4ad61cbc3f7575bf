/* test_longhauld.c - the program itself over its sockets: start and stop, exit codes, the node
 * protocol from a scripted node, and deaths at its fault points.
 *
 * argv[1] is the program. Each test has a state directory and a free port of its own.
 */
#include "proto/base/buf.h"
#include "proto/base/clock.h"
#include "tests/unit/daemon_rig.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- tests ----------------------------------------------------------------------------------- */

static void the_address_stands_there_while_it_is_ready(void **state)
{
    struct daemon d;
    json_t *o;

    (void)state;
    daemon_init(&d);
    daemon_start(&d);
    o = call(&d, "GET", "/readyz", NULL, "");
    expect(&d, 200, o, NULL);
    json_decref(o);
    o = call(&d, "GET", "/v1/status", NULL, "");
    assert_int_equal(lh_json_i64(o, "epoch", 0), 1);
    assert_string_equal(lh_json_str(o, "mode", ""), "normal");
    json_decref(o);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    assert_false(lh_path_exists(in_dir(d.dir, "address")));
    daemon_release(&d);
}

static void expect_exit(int code, const char *text, const char *const *args)
{
    char *dir = scratch_new(), *log;
    char path[1100];
    pid_t pid = run_program(dir, NULL, args);
    uint64_t until = lh_mono_ms() + START_MS;
    int status;

    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (lh_mono_ms() > until) {
            (void)kill(pid, SIGKILL);
            fail_msg("it runs with what it should refuse: %s", args[0]);
        }
        (void)usleep(5000);
    }
    (void)snprintf(path, sizeof(path), "%s.log", dir);
    assert_int_equal(lh_read_file(path, 1 << 20, &log, &(size_t){0}, NULL), 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != code || !strstr(log, text))
        fail_msg("exit %d instead of %d, or not '%s' in: %s", WEXITSTATUS(status), code, text, log);
    free(log);
    (void)unlink(path);
    scratch_free(dir);
}

static void what_it_cannot_start_with_has_an_exit_code_and_a_way_out(void **state)
{
    char *dir = scratch_new(), yaml[1024], fresh[1024];
    struct daemon d;
    char address[32], pid[32];

    (void)state;
#define ARGS(...) (const char *const[]){__VA_ARGS__, NULL}
    expect_exit(64, "--state", ARGS("--listen", "127.0.0.1:0"));
    expect_exit(64, "did you mean --listen", ARGS("--lisen", "x"));
    expect_exit(64, "timers.suspect_ms", ARGS("--state", dir, "--set", "timers.suspect_ms=1"));
    expect_exit(64, "1 to 256", ARGS("--state", dir, "--slots", "0"));
    put_file(dir, "c.yaml", "listen: 127.0.0.1:0\ntimers:\n  suspekt_ms: 3\n");
    (void)snprintf(yaml, sizeof(yaml), "%s/c.yaml", dir);
    expect_exit(78, "line 3: unknown key 'suspekt_ms'; did you mean 'suspect_ms'",
                ARGS("--state", dir, "--config", yaml));
    put_file(dir, "c.yaml", "listen: [\n");
    expect_exit(78, "c.yaml", ARGS("--state", dir, "--config", yaml));
    expect_exit(78, "127.0.0.1",
                ARGS("--state", dir, "--listen", "0.0.0.0:0")); /* plain HTTP for everyone */
    expect_exit(73, "--state", ARGS("--state", "/proc/nowhere"));
    (void)snprintf(fresh, sizeof(fresh), "%s/fresh",
                   dir); /* one that holds jobs would start, read-only */
    expect_exit(73, "reserve", ARGS("--state", fresh, "--set", "limits.reserve_mib=1000000"));
    daemon_init(&d);
    daemon_start(&d);
    (void)snprintf(address, sizeof(address), "127.0.0.1:%d", d.port);
    (void)snprintf(pid, sizeof(pid), "process %d", (int)d.pid);
    expect_exit(69, address, ARGS("--state", dir, "--listen", address));
    (void)snprintf(fresh, sizeof(fresh), "%s/none", dir);
    expect_exit(69, address, ARGS("--state", fresh, "--listen", address));
    assert_false(lh_path_exists(fresh)); /* nothing was made for a start that was none */
    expect_exit(75, pid, ARGS("--state", d.dir, "--listen", address)); /* who holds it goes first */
    expect_exit(75, pid, ARGS("--state", d.dir, "--listen", "127.0.0.1:0"));
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    daemon_release(&d);
    scratch_free(dir);
}

static void a_node_is_led_through_an_attempt(void **state)
{
    struct daemon d;
    struct fake f = {.d = &d};
    char id[64], report[300];
    json_t *o;

    (void)state;
    daemon_init(&d);
    daemon_start(&d);
    o = node_call(&f, "poll", ",'ack':0,'wait_s':0");
    expect(&d, 409, o, "not_registered");
    json_decref(o);
    node_register_with(&f, "[]");
    run_job(&f, CHECK_JOB, id);
    (void)snprintf(
        report, sizeof(report),
        "{'id':'x','type':'exited','job':'%s','attempt':1,'outcome':'ok','class':'','exit':0,"
        "'result':{'errors':0}}",
        id);
    node_report(&f, report);
    (void)snprintf(report, sizeof(report), "{'id':'y','type':'cleaned','job':'%s','attempt':1}",
                   id);
    node_report(&f, report);
    json_decref(node_command(&f, "forget"));
    expect_job(&d, id, "succeeded");
    node_report(&f, report); /* again: done, and nothing happens */
    expect_job(&d, id, "succeeded");
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    daemon_release(&d);
}

static void commands_are_repeated_until_they_are_acknowledged(void **state)
{
    struct daemon d;
    struct fake f = {.d = &d};
    char id[64];

    (void)state;
    daemon_init(&d);
    daemon_start(&d);
    node_register_with(&f, "[]");
    submit(&d, CHECK_JOB, id);
    for (int i = 0; i < 3; i++) {
        json_t *c = node_command(&f, "preflight");

        assert_string_equal(lh_json_str(c, "job", ""), id);
        json_decref(c);
        if (i < 2)
            f.ack = 0; /* the answer was lost */
    }
    {
        json_t *o = node_call(&f, "poll", ",'ack':1,'wait_s':0");

        assert_int_equal(json_array_size(json_object_get(o, "commands")), 0);
        json_decref(o);
    }
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    daemon_release(&d);
}

static void a_poll_waits_for_a_command_but_not_longer_than_a_heartbeat(void **state)
{
    struct daemon d;
    struct fake f = {.d = &d};
    uint64_t begin, took;
    char id[64], *body;
    json_t *o;
    int fd;

    (void)state;
    daemon_init(&d);
    daemon_start(&d);
    node_register_with(&f, "[]");
    begin = lh_mono_ms();
    o = node_call(&f, "poll", ",'ack':0,'wait_s':30");
    took = lh_mono_ms() - begin;
    expect(&d, 200, o, NULL);
    assert_true(took >= 250 && took < 5000);
    json_decref(o);
    body = double_quotes("{'name':'n1','agent_id':'a1','epoch':1,'ack':0,'wait_s':30}");
    fd = send_request(&d, "POST", "/v1/node/poll", NULL, body);
    free(body);
    (void)usleep(20000);
    submit(&d, CHECK_JOB, id);
    o = receive(&d, fd);
    assert_int_equal(json_array_size(json_object_get(o, "commands")), 1);
    json_decref(o);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    daemon_release(&d);
}

static void malformed_requests_of_nodes_are_refused(void **state)
{
    static const struct {
        const char *what, *body;
        int status;
    } cases[] = {
        {"register", "{", 400},
        {"register", "[]", 422},
        {"register", "{'name':'../x','agent_id':'a','epoch':0}", 422},
        {"register", "{'name':'n','agent_id':'a'}", 422},
        {"register", "{'name':'n','agent_id':'a','epoch':0,'protocol':9}", 422},
        {"register",
         "{'name':'n','agent_id':'a','epoch':0,'protocol':1,'boot_id':'b','device':'cpu','slots':0,"
         "'attempts':[]}",
         422},
        {"register",
         "{'name':'n','agent_id':'a','epoch':0,'protocol':1,'boot_id':'b','device':'tpu','slots':1,"
         "'attempts':[]}",
         422},
        {"register",
         "{'name':'n','agent_id':'a','epoch':0,'protocol':1,'boot_id':'b','device':'cpu','slots':1,"
         "'attempts':3}",
         422},
        {"nothing", "{'name':'n','agent_id':'a','epoch':0}", 404},
        {"reports", "{'name':'n1','agent_id':'a1','epoch':1,'reports':{}}", 422},
        {"reports",
         "{'name':'n1','agent_id':'a1','epoch':1,'reports':[7,{},{'type':5},{'type':'exited','job':"
         "'jx','attempt':-4}]}",
         200},
    };
    struct daemon d;
    struct fake f = {.d = &d};

    (void)state;
    daemon_init(&d);
    daemon_start(&d);
    node_register_with(&f, "[]");
    for (size_t i = 0; i < LH_ARRAY_LEN(cases); i++) {
        char path[64];
        json_t *o;

        (void)snprintf(path, sizeof(path), "/v1/node/%s", cases[i].what);
        o = call(&d, "POST", path, NULL, cases[i].body);
        if (d.status != cases[i].status)
            fail_msg("%d, not %d: %s", d.status, cases[i].status, cases[i].body);
        json_decref(o);
    }
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    daemon_release(&d);
}

static void a_coordinator_that_a_node_has_seen_a_later_epoch_of_dispatches_nothing(void **state)
{
    struct daemon d;
    struct fake f = {.d = &d};
    char more[128];
    json_t *o;

    (void)state;
    daemon_init(&d);
    daemon_start(&d);
    node_register_with(&f, "[]");
    f.epoch = 7;
    o = node_call(&f, "poll", ",'ack':0,'wait_s':0");
    expect(&d, 409, o, "stale_epoch");
    json_decref(o);
    o = call(&d, "GET", "/readyz", NULL,
             ""); /* it may be a node of another cluster: that alone proves nothing */
    expect(&d, 200, o, NULL);
    json_decref(o);
    o = call(&d, "GET", "/v1/status", NULL, "");
    (void)snprintf(more, sizeof(more), ",'ack':0,'wait_s':0,'cluster':'%s'",
                   lh_json_str(o, "cluster", ""));
    json_decref(o);
    o = node_call(&f, "poll", more);
    expect(&d, 409, o, "stale_epoch");
    json_decref(o);
    o = call(&d, "GET", "/readyz", NULL, "");
    expect(&d, 503, o, NULL);
    json_decref(o);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    daemon_release(&d);
}

static json_t *put(struct daemon *d, const char *id, const char *file, int offset, const char *body)
{
    char path[200];
    json_t *o;
    int fd;

    (void)snprintf(path, sizeof(path),
                   "/v1/node/files/%s/1/%s?offset=%d&name=n1&agent_id=a1&epoch=1", id, file,
                   offset);
    fd = send_request(d, "PUT", path, NULL, body);
    o = receive(d, fd);
    return o;
}

static void files_of_attempts_grow_by_offset(void **state)
{
    static const char *const bad[] = {"../x",     "x.log",      ".log", "events.json",
                                      "1.log.gz", "123456.log", ""};
    struct daemon d;
    struct fake f = {.d = &d};
    char id[64], name[128], *text;
    json_t *o;

    (void)state;
    daemon_init(&d);
    daemon_start(&d);
    node_register_with(&f, "[]");
    run_job(&f, CHECK_JOB, id);
    o = put(&d, id, "0.log", 0, "hello ");
    expect(&d, 200, o, NULL);
    assert_int_equal(lh_json_i64(o, "size", -1), 6);
    json_decref(o);
    o = put(&d, id, "0.log", 0, "hello "); /* the answer was lost, it comes again */
    expect(&d, 409, o, NULL);
    assert_int_equal(lh_json_i64(o, "size", -1), 6);
    json_decref(o);
    o = put(&d, id, "0.log", 6, "world");
    expect(&d, 200, o, NULL);
    json_decref(o);
    (void)snprintf(name, sizeof(name), "jobs/%s/1/0.log", id);
    text = get_file(d.dir, name);
    assert_string_equal(text, "hello world");
    free(text);
    for (size_t i = 0; i < LH_ARRAY_LEN(bad); i++) {
        o = put(&d, id, bad[i], 0, "x");
        assert_int_equal(d.status, 404);
        json_decref(o);
    }
    o = put(&d, "jnobody", "0.log", 0, "x");
    assert_int_equal(d.status, 404);
    json_decref(o);
    (void)snprintf(name, sizeof(name), "/v1/node/files/%s/1/0.log?offset=0&name=n1&agent_id=old",
                   id);
    o = receive(&d, send_request(&d, "PUT", name, NULL, "x"));
    expect(&d, 409, o, "not_registered");
    json_decref(o);
    f.epoch = 0; /* another node, of no gang */
    o = call(&d, "POST", "/v1/node/register", NULL,
             "{'name':'n2','agent_id':'a2','epoch':0,'protocol':1,'boot_id':'b','device':'cpu',"
             "'slots':1,'attempts':[]}");
    expect(&d, 200, o, NULL);
    json_decref(o);
    (void)snprintf(name, sizeof(name), "/v1/node/files/%s/1/0.log?offset=11&name=n2&agent_id=a2",
                   id);
    o = receive(&d, send_request(&d, "PUT", name, NULL, "x"));
    expect(&d, 404, o, NULL);
    json_decref(o);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    daemon_release(&d);
}

/* Reads the stream until `until` has come or two seconds have passed; free the text. */
static char *read_stream(int fd, const char *until)
{
    struct lh_buf in;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    uint64_t end = lh_mono_ms() + 4000;
    char piece[4096];

    lh_buf_init(&in, 1 << 20);
    assert_int_equal(lh_buf_append(&in, "", 0), 0);
    while (lh_mono_ms() < end && !(in.data && strstr(in.data, until))) {
        ssize_t n;

        if (poll(&p, 1, 100) <= 0)
            continue;
        n = read(fd, piece, sizeof(piece));
        if (n <= 0)
            break;
        assert_int_equal(lh_buf_append(&in, piece, (size_t)n), 0);
    }
    return in.data ? in.data : strdup("");
}

static unsigned count_of(const char *text, const char *word)
{
    unsigned n = 0;

    for (const char *at = text; (at = strstr(at, word)); at++)
        n++;
    return n;
}

static void journal_lines_become_progress_once_a_second(void **state)
{
    struct daemon d;
    struct fake f = {.d = &d};
    char id[64], line[200], name[128], *text;
    int fd, offset = 0;

    (void)state;
    daemon_init(&d);
    daemon_start(&d);
    node_register_with(&f, "[]");
    run_job(&f, CHECK_JOB, id);
    fd = send_request(&d, "GET", "/v1/events", NULL, "");
    (void)usleep(100000);
    for (int i = 1; i <= 20; i++) { /* a burst, cut in the middle of lines */
        (void)snprintf(
            line, sizeof(line),
            "{\"type\":\"step\",\"time\":\"t\",\"rank\":0,\"step\":%d,\"loss\":1.5}\n{\"type\":",
            i);
        if (i > 1) {
            (void)snprintf(line, sizeof(line),
                           "\"step\",\"time\":\"t\",\"rank\":0,\"step\":%d,\"loss\":1.5}\n%s", i,
                           i < 20 ? "{\"type\":" : "");
        }
        json_decref(put(&d, id, "events.jsonl", offset, line));
        assert_int_equal(d.status, 200);
        offset += (int)strlen(line);
    }
    text = read_stream(fd, "\"step\":20,");
    assert_non_null(strstr(text, "\"step\":1,"));
    assert_non_null(strstr(text, "\"step\":20,")); /* the last one always comes */
    assert_true(count_of(text, "event: job.progress") <= 4);
    free(text);
    (void)close(fd);
    (void)snprintf(name, sizeof(name), "jobs/%s/metrics.jsonl", id);
    text = get_file(d.dir, name);
    assert_int_equal(count_of(text, "\n"), 20);
    assert_int_equal(count_of(text, "\"attempt\":1"), 20);
    free(text);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    daemon_release(&d);
}

static void a_running_attempt_is_adopted_after_kill_9(void **state)
{
    struct daemon d;
    struct fake f = {.d = &d};
    char id[64], held[200], report[200];
    json_t *o;

    (void)state;
    daemon_init(&d);
    daemon_start(&d);
    node_register_with(&f, "[]");
    run_job(&f, CHECK_JOB, id);
    assert_int_equal(daemon_stop(&d, SIGKILL), 128 + SIGKILL);
    daemon_start(&d);
    o = node_call(&f, "poll", ",'ack':0,'wait_s':0");
    expect(&d, 409, o, "not_registered");
    json_decref(o);
    (void)snprintf(held, sizeof(held), "[{'job':'%s','attempt':1,'role':'head','state':'running'}]",
                   id);
    node_register_with(&f, held);
    assert_int_equal(f.epoch, 2);
    expect_job(&d, id, "running");
    o = node_call(&f, "poll", ",'ack':0,'wait_s':0");
    assert_int_equal(json_array_size(json_object_get(o, "commands")), 0);
    json_decref(o);
    (void)snprintf(report, sizeof(report),
                   "{'id':1,'type':'exited','job':'%s','attempt':1,'outcome':'ok','exit':0}", id);
    node_report(&f, report);
    (void)snprintf(report, sizeof(report), "{'id':2,'type':'cleaned','job':'%s','attempt':1}", id);
    node_report(&f, report);
    expect_job(&d, id, "succeeded");
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    daemon_release(&d);
}

/* The client repeats its request with the same key after each death: one job, at any instant. */
static void death_at_any_point_of_a_submit_leaves_one_job_for_one_key(void **state)
{
    static const char *const points[] = {"app.decided", "store.commit", "store.committed",
                                         "app.committed"};
    struct daemon d;

    (void)state;
    for (size_t i = 0; i < LH_ARRAY_LEN(points); i++) {
        char fault[64], first[64];
        json_t *o;

        daemon_init(&d);
        (void)snprintf(fault, sizeof(fault), "%s:1", points[i]);
        daemon_start_with(&d, fault, NULL);
        o = call(&d, "POST", "/v1/jobs", "Idempotency-Key: k1\r\n", CHECK_JOB);
        json_decref(o);
        assert_int_equal(d.status, 0); /* it died before it could answer */
        assert_int_equal(reap(d.pid), 128 + SIGKILL);
        daemon_start(&d);
        o = call(&d, "POST", "/v1/jobs", "Idempotency-Key: k1\r\n", CHECK_JOB);
        expect(&d, 201, o, NULL);
        (void)snprintf(first, sizeof(first), "%s", lh_json_str(o, "id", ""));
        /* Committed before the death or not: that decides whether this one is a replay. */
        assert_int_equal(strstr(d.headers, "Idempotency-Replayed: true") != NULL, i >= 2);
        json_decref(o);
        o = call(&d, "GET", "/v1/jobs", NULL, "");
        assert_int_equal(json_array_size(json_object_get(o, "jobs")), 1);
        assert_string_equal(lh_json_str(json_array_get(json_object_get(o, "jobs"), 0), "id", ""),
                            first);
        json_decref(o);
        assert_int_equal(daemon_stop(&d, SIGTERM), 0);
        daemon_release(&d);
    }
}

static void a_node_that_falls_silent_is_suspect_then_down(void **state)
{
    struct daemon d;
    struct fake f = {.d = &d};
    uint64_t until = lh_mono_ms() + 10000;
    bool suspect = false, down = false;

    (void)state;
    daemon_init(&d);
    put_file(d.dir, "c.yaml",
             "timers: {suspect_ms: 500, down_ms: 1500, heartbeat_ms: 200, tick_ms: 50}\n");
    {
        const char *args[] = {
            "--state", d.dir, "--listen", "127.0.0.1:0", "--config", in_dir(d.dir, "c.yaml"), NULL};
        char *text;

        d.pid = run_program(d.dir, NULL, args);
        while (!lh_path_exists(in_dir(d.dir, "address")))
            (void)usleep(10000);
        text = get_file(d.dir, "address");
        assert_int_equal(sscanf(text, "http://127.0.0.1:%d", &d.port), 1);
        free(text);
    }
    node_register_with(&f, "[]");
    while (!down && lh_mono_ms() < until) {
        json_t *o = call(&d, "GET", "/v1/nodes", NULL, "");
        const char *s = lh_json_str(json_array_get(json_object_get(o, "nodes"), 0), "state", "");

        suspect = suspect || strcmp(s, "suspect") == 0;
        down = strcmp(s, "down") == 0;
        json_decref(o);
        (void)usleep(50000);
    }
    assert_true(suspect && down);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    daemon_release(&d);
}

static void a_disk_at_its_reserve_takes_no_new_work_until_there_is_room(void **state)
{
    static const char zeros[65536];
    struct daemon d;
    struct fake f = {.d = &d};
    char id[64];
    json_t *o;
    int fd;

    (void)state;
    daemon_init(&d);
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("tmpfs", d.dir, "tmpfs", 0, "size=24m") < 0) {
        print_message("skipped: no right to mount a small file system\n");
        daemon_release(&d);
        skip();
    }
    daemon_start_with(&d, NULL, "limits.reserve_mib=4");
    node_register_with(&f, "[]");
    run_job(&f, CHECK_JOB, id);
    fd = open(in_dir(d.dir, "filler"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    for (int i = 0; i < 22 * 16; i++)
        (void)!write(fd, zeros, sizeof(zeros));
    (void)close(fd);
    (void)usleep(1200000); /* the free space is looked at once a second */
    o = call(&d, "POST", "/v1/jobs", NULL, CHECK_JOB);
    expect(&d, 507, o, "disk_reserve");
    json_decref(o);
    o = put(&d, id, "0.log", 0, "x");
    expect(&d, 507, o, NULL);
    json_decref(o);
    o = call(&d, "GET", "/v1/status", NULL, "");
    assert_string_equal(lh_json_str(o, "mode", ""), "read_only");
    json_decref(o);
    o = call(&d, "GET", "/readyz", NULL, "");
    expect(&d, 503, o, NULL);
    json_decref(o);
    {
        char report[200]; /* the running job goes on, into the reserve */

        (void)snprintf(report, sizeof(report),
                       "{'id':1,'type':'exited','job':'%s','attempt':1,'outcome':'ok','exit':0}",
                       id);
        node_report(&f, report);
        (void)snprintf(report, sizeof(report), "{'id':2,'type':'cleaned','job':'%s','attempt':1}",
                       id);
        node_report(&f, report);
        expect_job(&d, id, "succeeded");
    }
    assert_int_equal(unlink(in_dir(d.dir, "filler")), 0);
    (void)usleep(1200000);
    submit(&d, CHECK_JOB, id);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    assert_int_equal(umount(d.dir), 0);
    daemon_release(&d);
}

/* Reads notices for so long and counts those that have the word. */
static unsigned notices(int fd, const char *word, uint64_t ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    uint64_t end = lh_mono_ms() + ms;
    char text[512];
    unsigned n = 0;

    while (lh_mono_ms() < end) {
        ssize_t got = poll(&p, 1, 50) > 0 ? recv(fd, text, sizeof(text) - 1, MSG_DONTWAIT) : -1;

        if (got <= 0)
            continue;
        text[got] = '\0';
        n += strstr(text, word) != NULL;
    }
    return n;
}

static int notice_socket(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    (void)snprintf(at.sun_path, sizeof(at.sun_path), "%s", path);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    return fd;
}

static void the_watchdog_is_fed_only_while_the_writer_moves(void **state)
{
    struct daemon d;
    struct systemd systemd = {.listen_fd = -1};
    char path[108], *text;
    json_t *o;
    int fd;

    (void)state;
    daemon_init(&d);
    (void)snprintf(path, sizeof(path), "%.80s/notify", d.dir);
    systemd.notify = path;
    fd = notice_socket(path);
    {
        const char *args[] = {"--state",           d.dir, "--listen", "127.0.0.1:0", "--set",
                              "timers.tick_ms=50", NULL};

        d.pid = run_under(d.dir, "store.commit:1:sleep2200", args, &systemd);
    }
    assert_int_equal(notices(fd, "READY=1", 1000), 1);
    assert_true(notices(fd, "WATCHDOG=1", 1500) >= 1); /* an idle writer moves once a second */
    text = get_file(d.dir, "address");
    assert_int_equal(sscanf(text, "http://127.0.0.1:%d", &d.port), 1);
    free(text);
    text = double_quotes(CHECK_JOB);
    (void)close(
        send_request(&d, "POST", "/v1/jobs", NULL, text)); /* its commit hangs for two seconds */
    free(text);
    (void)notices(fd, "", 300);
    assert_int_equal(notices(fd, "WATCHDOG=1", 1400), 0);
    o = call(&d, "GET", "/livez", NULL, ""); /* the loop itself is alive */
    expect(&d, 200, o, NULL);
    json_decref(o);
    assert_true(notices(fd, "WATCHDOG=1", 2000) >= 1);
    assert_int_equal(kill(d.pid, SIGTERM), 0);
    assert_int_equal(notices(fd, "STOPPING=1", 500), 1);
    assert_int_equal(reap(d.pid), 0);
    (void)close(fd);
    daemon_release(&d);
}

static void a_socket_from_systemd_is_taken(void **state)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    struct daemon d;
    struct systemd systemd = {.listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    const char *args[] = {"--state", NULL, NULL};
    json_t *o;

    (void)state;
    daemon_init(&d);
    args[1] = d.dir;
    assert_int_equal(bind(systemd.listen_fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(systemd.listen_fd, 16), 0);
    assert_int_equal(getsockname(systemd.listen_fd, (struct sockaddr *)&at, &len), 0);
    d.port = ntohs(at.sin_port);
    d.pid = run_under(d.dir, NULL, args, &systemd);
    o = call(&d, "GET", "/readyz", NULL, ""); /* waits in the socket's queue until it is up */
    expect(&d, 200, o, NULL);
    json_decref(o);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    (void)close(systemd.listen_fd);
    daemon_release(&d);
}

static void a_socket_may_lie_in_the_state_directory_that_is_made(void **state)
{
    char *dir = scratch_new(), fresh[1024], socket[1100], log[1100];
    const char *args[] = {"--state", fresh, "--listen", socket, NULL};
    uint64_t until = lh_mono_ms() + START_MS;
    pid_t pid;

    (void)state;
    (void)snprintf(fresh, sizeof(fresh), "%.900s/fresh", dir);
    (void)snprintf(socket, sizeof(socket), "unix:%s/sock", fresh);
    pid = run_program(dir, NULL, args);
    while (!lh_path_exists(in_dir(dir, "fresh/address"))) {
        assert_true(lh_mono_ms() < until);
        (void)usleep(10000);
    }
    assert_int_equal(kill(pid, SIGTERM), 0);
    assert_int_equal(reap(pid), 0);
    (void)snprintf(log, sizeof(log), "%s.log", dir);
    (void)unlink(log);
    scratch_free(dir);
}

static void a_reload_keeps_what_flags_have_set(void **state)
{
    struct daemon d;
    char *text;

    (void)state;
    daemon_init(&d);
    put_file(d.dir, "c.yaml", "limits: {queue_max: 5}\n");
    {
        const char *args[] = {"--state",  d.dir,
                              "--listen", "127.0.0.1:0",
                              "--config", in_dir(d.dir, "c.yaml"),
                              "--set",    "limits.queue_max=1",
                              NULL};

        d.pid = run_program(d.dir, NULL, args);
        while (!lh_path_exists(in_dir(d.dir, "address")))
            (void)usleep(10000);
        text = get_file(d.dir, "address");
        assert_int_equal(sscanf(text, "http://127.0.0.1:%d", &d.port), 1);
        free(text);
    }
    put_file(d.dir, "c.yaml", "limits: {queue_max: 7}\n");
    assert_int_equal(kill(d.pid, SIGHUP), 0);
    (void)usleep(300000);
    json_decref(call(&d, "POST", "/v1/jobs", NULL, CHECK_JOB));
    assert_int_equal(d.status, 201);
    json_decref(call(&d, "POST", "/v1/jobs", NULL, CHECK_JOB));
    assert_int_equal(d.status, 429);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    daemon_release(&d);
}

static void a_broken_configuration_is_not_reloaded(void **state)
{
    struct daemon d;
    char *text;
    json_t *o;

    (void)state;
    daemon_init(&d);
    put_file(d.dir, "c.yaml", "timers: {tick_ms: 50}\nlimits: {queue_max: 5}\n");
    {
        const char *args[] = {
            "--state", d.dir, "--listen", "127.0.0.1:0", "--config", in_dir(d.dir, "c.yaml"), NULL};

        d.pid = run_program(d.dir, NULL, args);
        while (!lh_path_exists(in_dir(d.dir, "address")))
            (void)usleep(10000);
        text = get_file(d.dir, "address");
        assert_int_equal(sscanf(text, "http://127.0.0.1:%d", &d.port), 1);
        free(text);
    }
    put_file(d.dir, "c.yaml", "limits: {queue_max: none}\n");
    assert_int_equal(kill(d.pid, SIGHUP), 0);
    (void)usleep(300000);
    o = call(&d, "GET", "/v1/status", NULL, "");
    assert_non_null(strstr(
        lh_json_str(json_array_get(json_object_get(o, "warnings"), 0), "text", ""), "queue_max"));
    json_decref(o);
    put_file(d.dir, "c.yaml", "limits: {queue_max: 1}\n");
    assert_int_equal(kill(d.pid, SIGHUP), 0);
    (void)usleep(300000);
    json_decref(call(&d, "POST", "/v1/jobs", NULL, CHECK_JOB));
    assert_int_equal(d.status, 201);
    json_decref(call(&d, "POST", "/v1/jobs", NULL, CHECK_JOB));
    assert_int_equal(d.status, 429);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    daemon_release(&d);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(the_address_stands_there_while_it_is_ready),
        TEST(what_it_cannot_start_with_has_an_exit_code_and_a_way_out),
        TEST(a_node_is_led_through_an_attempt),
        TEST(commands_are_repeated_until_they_are_acknowledged),
        TEST(a_poll_waits_for_a_command_but_not_longer_than_a_heartbeat),
        TEST(malformed_requests_of_nodes_are_refused),
        TEST(a_coordinator_that_a_node_has_seen_a_later_epoch_of_dispatches_nothing),
        TEST(files_of_attempts_grow_by_offset),
        TEST(journal_lines_become_progress_once_a_second),
        TEST(a_running_attempt_is_adopted_after_kill_9),
        TEST(death_at_any_point_of_a_submit_leaves_one_job_for_one_key),
        TEST(a_node_that_falls_silent_is_suspect_then_down),
        TEST(the_watchdog_is_fed_only_while_the_writer_moves),
        TEST(a_socket_from_systemd_is_taken),
        TEST(a_socket_may_lie_in_the_state_directory_that_is_made),
        TEST(a_reload_keeps_what_flags_have_set),
        TEST(a_broken_configuration_is_not_reloaded),
        TEST(a_disk_at_its_reserve_takes_no_new_work_until_there_is_room), /* last: it leaves the
                                                                              mount namespace */
    };

    if (argc != 2) {
        (void)fprintf(stderr, "usage: %s LONGHAULD\n", argv[0]);
        return 64;
    }
    daemon_program = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
