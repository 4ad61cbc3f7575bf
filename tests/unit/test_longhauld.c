/* test_longhauld.c - the program itself over its sockets: start and stop, exit codes, the node protocol from a
 * scripted node, and deaths at its fault points.
 *
 * argv[1] is the program. Each test has a state directory and a free port of its own.
 */
#include "proto/base/buf.h"
#include "proto/base/clock.h"
#include "tests/unit/unit.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK_JOB "{'kind':'check','name':'c'}"
#define START_MS 15000

static const char *program;

struct daemon {
    char *dir;
    pid_t pid;
    int port;
    int status; /* of the last request */
    char headers[4096];
};

/* ---- the program ----------------------------------------------------------------------------------------------- */

/* Starts longhauld; args end with NULL. Standard error goes to DIR.log. */
static pid_t run_program(const char *dir, const char *fault, const char *const *args)
{
    const char *argv[32] = {program};
    unsigned n = 1;
    char log[1100];
    pid_t pid;

    while (args[n - 1]) {
        assert_true(n < 31);
        argv[n] = args[n - 1];
        n++;
    }
    (void)snprintf(log, sizeof(log), "%s.log", dir);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves no daemon behind */
        (void)dup2(fd, 1);
        (void)dup2(fd, 2);
        if (fault)
            (void)setenv("LONGHAUL_FAULT", fault, 1);
        (void)execv(program, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    return pid;
}

static void daemon_start_with(struct daemon *d, const char *fault, const char *setting)
{
    const char *args[] = {"--state", d->dir, "--listen", "127.0.0.1:0", "--set", "timers.heartbeat_ms=300", "--set",
                          "timers.tick_ms=50", setting ? "--set" : NULL, setting, NULL};
    uint64_t until = lh_mono_ms() + START_MS;
    char *text = NULL;

    (void)unlink(in_dir(d->dir, "address"));
    d->pid = run_program(d->dir, fault, args);
    while (!lh_path_exists(in_dir(d->dir, "address"))) {
        assert_true(lh_mono_ms() < until);
        (void)usleep(10000);
    }
    text = get_file(d->dir, "address");
    assert_int_equal(sscanf(text, "http://127.0.0.1:%d", &d->port), 1);
    free(text);
}

static void daemon_start(struct daemon *d)
{
    daemon_start_with(d, NULL, NULL);
}

static void daemon_init(struct daemon *d)
{
    memset(d, 0, sizeof(*d));
    d->dir = scratch_new();
}

/* Waits for its end and returns the exit code, or 128 + signal. */
static int reap(pid_t pid)
{
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int daemon_stop(struct daemon *d, int signum)
{
    assert_int_equal(kill(d->pid, signum), 0);
    return reap(d->pid);
}

static void daemon_release(struct daemon *d)
{
    char log[1100];

    (void)snprintf(log, sizeof(log), "%s.log", d->dir);
    (void)unlink(log);
    scratch_free(d->dir);
}

/* ---- a small HTTP client --------------------------------------------------------------------------------------- */

static int dial(const struct daemon *d)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)d->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
        (void)close(fd);
        return -1;
    }
    return fd;
}

static int send_request(const struct daemon *d, const char *method, const char *path, const char *header,
                        const char *body)
{
    int fd = dial(d), n;
    char *text = NULL;

    if (fd < 0)
        return -1;
    n = asprintf(&text, "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n%sContent-Length: %zu\r\n\r\n%s",
                 method, path, header ? header : "", strlen(body), body);
    assert_true(n > 0);
    if (write(fd, text, (size_t)n) != n) {
        free(text);
        (void)close(fd);
        return -1;
    }
    free(text);
    return fd;
}

/* The answer's JSON (or NULL), its status in d->status: 0 when the connection ended without one. */
static json_t *receive(struct daemon *d, int fd)
{
    struct lh_buf in;
    char piece[8192], *body;
    ssize_t n;
    json_t *value = NULL;

    d->status = 0;
    if (fd < 0)
        return NULL;
    lh_buf_init(&in, 1 << 24);
    while ((n = read(fd, piece, sizeof(piece))) > 0)
        assert_int_equal(lh_buf_append(&in, piece, (size_t)n), 0);
    (void)close(fd);
    if (in.len > 12 && (body = strstr(in.data, "\r\n\r\n"))) {
        d->status = atoi(in.data + 9);
        body += 4;
        (void)snprintf(d->headers, sizeof(d->headers), "%.*s", (int)(body - in.data), in.data);
        (void)!lh_json_parse(body, in.len - (size_t)(body - in.data), 64, &value, NULL);
    }
    lh_buf_release(&in);
    return value;
}

static char *double_quotes(const char *text)
{
    char *copy = strdup(text);

    for (char *c = copy; *c; c++)
        if (*c == '\'')
            *c = '"';
    return copy;
}

static json_t *call(struct daemon *d, const char *method, const char *path, const char *header, const char *body)
{
    char *text = double_quotes(body);
    json_t *answer = receive(d, send_request(d, method, path, header, text));

    free(text);
    return answer;
}

static void expect(struct daemon *d, int status, json_t *answer, const char *code)
{
    if (d->status != status)
        fail_msg("status %d, not %d: %s %s", d->status, status, lh_json_str(answer, "code", ""),
                 lh_json_str(answer, "detail", ""));
    if (code)
        assert_string_equal(lh_json_str(answer, "code", ""), code);
}

/* ---- a scripted node ------------------------------------------------------------------------------------------- */

struct fake {
    struct daemon *d;
    uint64_t ack, epoch;
};

static json_t *node_call(struct fake *f, const char *what, const char *more)
{
    char path[64], body[2000];

    (void)snprintf(path, sizeof(path), "/v1/node/%s", what);
    (void)snprintf(body, sizeof(body), "{'name':'n1','agent_id':'a1','epoch':%llu%s}", (unsigned long long)f->epoch, more);
    return call(f->d, "POST", path, NULL, body);
}

static void node_register_with(struct fake *f, const char *attempts)
{
    char more[600];
    json_t *o;

    (void)snprintf(more, sizeof(more),
                   ",'protocol':1,'boot_id':'b','version':'0','hostname':'h','address':'127.0.0.1','device':'cpu',"
                   "'slots':2,'cores':2,'memory_bytes':1000,'attempts':%s",
                   attempts);
    o = node_call(f, "register", more);
    expect(f->d, 200, o, NULL);
    f->epoch = (uint64_t)lh_json_i64(o, "epoch", 0);
    f->ack = 0;
    json_decref(o);
}

/* Polls until a command of that type comes, acknowledges it, and returns it. */
static json_t *node_command(struct fake *f, const char *type)
{
    uint64_t until = lh_mono_ms() + 10000;
    char more[64];

    while (lh_mono_ms() < until) {
        json_t *o, *c, *commands;
        size_t i;

        (void)snprintf(more, sizeof(more), ",'ack':%llu,'wait_s':1", (unsigned long long)f->ack);
        o = node_call(f, "poll", more);
        expect(f->d, 200, o, NULL);
        commands = json_object_get(o, "commands");
        json_array_foreach(commands, i, c) {
            f->ack = (uint64_t)lh_json_i64(c, "seq", 0);
            if (strcmp(lh_json_str(c, "type", ""), type) == 0) {
                c = json_incref(c);
                json_decref(o);
                return c;
            }
        }
        json_decref(o);
    }
    fail_msg("no command %s came", type);
    return NULL;
}

static void node_report(struct fake *f, const char *report)
{
    char more[900];
    json_t *o;

    (void)snprintf(more, sizeof(more), ",'reports':[%s]", report);
    o = node_call(f, "reports", more);
    expect(f->d, 200, o, NULL);
    assert_int_equal(json_array_size(json_object_get(o, "done")), 1);
    json_decref(o);
}

static void submit(struct daemon *d, const char *spec, char id[64])
{
    json_t *o = call(d, "POST", "/v1/jobs", NULL, spec);

    expect(d, 201, o, NULL);
    (void)snprintf(id, 64, "%s", lh_json_str(o, "id", "?"));
    json_decref(o);
}

static void expect_job(struct daemon *d, const char *id, const char *state)
{
    char path[128];
    json_t *o;

    (void)snprintf(path, sizeof(path), "/v1/jobs/%s", id);
    o = call(d, "GET", path, NULL, "");
    expect(d, 200, o, NULL);
    assert_string_equal(lh_json_str(o, "state", ""), state);
    json_decref(o);
}

/* Brings a fresh job to the state running. */
static void run_job(struct fake *f, const char *spec, char id[64])
{
    static const char *const steps[][2] = {{"preflight", "'type':'preflight','ok':true,'plan':{}"},
                                           {"prepare", "'type':'prepared','attempt':1"},
                                           {"launch", "'type':'running','attempt':1"}};
    char report[300];

    submit(f->d, spec, id);
    for (size_t i = 0; i < LH_ARRAY_LEN(steps); i++) {
        json_decref(node_command(f, steps[i][0]));
        (void)snprintf(report, sizeof(report), "{'id':'%zu','job':'%s',%s}", i, id, steps[i][1]);
        node_report(f, report);
    }
    expect_job(f->d, id, "running");
}

/* ---- tests ----------------------------------------------------------------------------------------------------- */

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
    expect_exit(78, "line 3: unknown key 'suspekt_ms'; did you mean 'suspect_ms'", ARGS("--state", dir, "--config", yaml));
    put_file(dir, "c.yaml", "listen: [\n");
    expect_exit(78, "c.yaml", ARGS("--state", dir, "--config", yaml));
    expect_exit(78, "127.0.0.1", ARGS("--state", dir, "--listen", "0.0.0.0:0")); /* plain HTTP for everyone */
    expect_exit(73, "--state", ARGS("--state", "/proc/nowhere"));
    (void)snprintf(fresh, sizeof(fresh), "%s/fresh", dir); /* one that holds jobs would start, read-only */
    expect_exit(73, "reserve", ARGS("--state", fresh, "--set", "limits.reserve_mib=1000000"));
    daemon_init(&d);
    daemon_start(&d);
    (void)snprintf(address, sizeof(address), "127.0.0.1:%d", d.port);
    (void)snprintf(pid, sizeof(pid), "process %d", (int)d.pid);
    expect_exit(69, address, ARGS("--state", dir, "--listen", address));
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
    (void)snprintf(report, sizeof(report), "{'id':'x','type':'exited','job':'%s','attempt':1,'outcome':'ok','class':'','exit':0,"
                                           "'result':{'errors':0}}",
                   id);
    node_report(&f, report);
    (void)snprintf(report, sizeof(report), "{'id':'y','type':'cleaned','job':'%s','attempt':1}", id);
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
    static const struct { const char *what, *body; int status; } cases[] = {
        {"register", "{", 400},
        {"register", "[]", 422},
        {"register", "{'name':'../x','agent_id':'a','epoch':0}", 422},
        {"register", "{'name':'n','agent_id':'a'}", 422},
        {"register", "{'name':'n','agent_id':'a','epoch':0,'protocol':9}", 422},
        {"register", "{'name':'n','agent_id':'a','epoch':0,'protocol':1,'boot_id':'b','device':'cpu','slots':0,'attempts':[]}", 422},
        {"register", "{'name':'n','agent_id':'a','epoch':0,'protocol':1,'boot_id':'b','device':'tpu','slots':1,'attempts':[]}", 422},
        {"register", "{'name':'n','agent_id':'a','epoch':0,'protocol':1,'boot_id':'b','device':'cpu','slots':1,'attempts':3}", 422},
        {"nothing", "{'name':'n','agent_id':'a','epoch':0}", 404},
        {"reports", "{'name':'n1','agent_id':'a1','epoch':1,'reports':{}}", 422},
        {"reports", "{'name':'n1','agent_id':'a1','epoch':1,'reports':[7,{},{'type':5},{'type':'exited','job':'jx','attempt':-4}]}", 200},
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
    o = call(&d, "GET", "/readyz", NULL, ""); /* it may be a node of another cluster: that alone proves nothing */
    expect(&d, 200, o, NULL);
    json_decref(o);
    o = call(&d, "GET", "/v1/status", NULL, "");
    (void)snprintf(more, sizeof(more), ",'ack':0,'wait_s':0,'cluster':'%s'", lh_json_str(o, "cluster", ""));
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

    (void)snprintf(path, sizeof(path), "/v1/node/files/%s/1/%s?offset=%d", id, file, offset);
    fd = send_request(d, "PUT", path, NULL, body);
    o = receive(d, fd);
    return o;
}

static void files_of_attempts_grow_by_offset(void **state)
{
    static const char *const bad[] = {"../x", "x.log", ".log", "events.json", "1.log.gz", "123456.log", ""};
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
        (void)snprintf(line, sizeof(line), "{\"type\":\"step\",\"time\":\"t\",\"rank\":0,\"step\":%d,\"loss\":1.5}\n{\"type\":", i);
        if (i > 1) {
            (void)snprintf(line, sizeof(line), "\"step\",\"time\":\"t\",\"rank\":0,\"step\":%d,\"loss\":1.5}\n%s", i,
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
    (void)snprintf(held, sizeof(held), "[{'job':'%s','attempt':1,'role':'head','state':'running'}]", id);
    node_register_with(&f, held);
    assert_int_equal(f.epoch, 2);
    expect_job(&d, id, "running");
    o = node_call(&f, "poll", ",'ack':0,'wait_s':0");
    assert_int_equal(json_array_size(json_object_get(o, "commands")), 0);
    json_decref(o);
    (void)snprintf(report, sizeof(report), "{'id':1,'type':'exited','job':'%s','attempt':1,'outcome':'ok','exit':0}", id);
    node_report(&f, report);
    (void)snprintf(report, sizeof(report), "{'id':2,'type':'cleaned','job':'%s','attempt':1}", id);
    node_report(&f, report);
    expect_job(&d, id, "succeeded");
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    daemon_release(&d);
}

/* The client repeats its request with the same key after each death: one job, whatever the instant. */
static void death_at_any_point_of_a_submit_leaves_one_job_for_one_key(void **state)
{
    static const char *const points[] = {"app.decided", "store.commit", "store.committed", "app.committed"};
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
        assert_string_equal(lh_json_str(json_array_get(json_object_get(o, "jobs"), 0), "id", ""), first);
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
    put_file(d.dir, "c.yaml", "timers: {suspect_ms: 500, down_ms: 1500, heartbeat_ms: 200, tick_ms: 50}\n");
    {
        const char *args[] = {"--state", d.dir, "--listen", "127.0.0.1:0", "--config", in_dir(d.dir, "c.yaml"), NULL};
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
    };

    if (argc != 2) {
        (void)fprintf(stderr, "usage: %s LONGHAULD\n", argv[0]);
        return 64;
    }
    program = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
