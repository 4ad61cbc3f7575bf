/* daemon_rig.c - see daemon_rig.h. */
#include "tests/unit/daemon_rig.h"
#include "proto/base/buf.h"
#include "proto/base/clock.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

const char *daemon_program;

/* ---- the program ----------------------------------------------------------------------------- */

static void be_systemd(const struct systemd *s)
{
    char pid[16];

    if (s->notify) {
        (void)setenv("NOTIFY_SOCKET", s->notify, 1);
        (void)setenv("WATCHDOG_USEC", "600000", 1);
    }
    if (s->listen_fd < 0)
        return;
    (void)dup2(s->listen_fd, 3);
    (void)fcntl(3, F_SETFD, 0); /* dup2 onto itself keeps close-on-exec */
    (void)snprintf(pid, sizeof(pid), "%d", (int)getpid());
    (void)setenv("LISTEN_PID", pid, 1);
    (void)setenv("LISTEN_FDS", "1", 1);
}

/* Starts longhauld; args end with NULL. Standard error goes to DIR.log. */
pid_t run_under(const char *dir, const char *fault, const char *const *args,
                const struct systemd *systemd)
{
    const char *argv[32] = {daemon_program};
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
        if (systemd)
            be_systemd(systemd);
        (void)execv(daemon_program, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    return pid;
}

pid_t run_program(const char *dir, const char *fault, const char *const *args)
{
    return run_under(dir, fault, args, NULL);
}

void daemon_start_with(struct daemon *d, const char *fault, const char *setting)
{
    const char *args[] = {"--state",
                          d->dir,
                          "--listen",
                          "127.0.0.1:0",
                          "--set",
                          "timers.heartbeat_ms=300",
                          "--set",
                          "timers.tick_ms=50",
                          setting ? "--set" : NULL,
                          setting,
                          NULL};
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

void daemon_start(struct daemon *d)
{
    daemon_start_with(d, NULL, NULL);
}

void daemon_init(struct daemon *d)
{
    memset(d, 0, sizeof(*d));
    d->dir = scratch_new();
}

/* Waits for its end and returns the exit code, or 128 + signal. */
int reap(pid_t pid)
{
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int daemon_stop(struct daemon *d, int signum)
{
    assert_int_equal(kill(d->pid, signum), 0);
    return reap(d->pid);
}

void daemon_release(struct daemon *d)
{
    char log[1100];

    (void)snprintf(log, sizeof(log), "%s.log", d->dir);
    (void)unlink(log);
    scratch_free(d->dir);
}

/* ---- a small HTTP client --------------------------------------------------------------------- */

static int dial(const struct daemon *d)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)d->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
        (void)close(fd);
        return -1;
    }
    return fd;
}

int send_request(const struct daemon *d, const char *method, const char *path, const char *header,
                 const char *body)
{
    int fd = dial(d), n;
    char *text = NULL;

    if (fd < 0)
        return -1;
    n = asprintf(&text,
                 "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: "
                 "application/json\r\n%sContent-Length: %zu\r\n\r\n%s",
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
json_t *receive(struct daemon *d, int fd)
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

char *double_quotes(const char *text)
{
    char *copy = strdup(text);

    for (char *c = copy; *c; c++)
        if (*c == '\'')
            *c = '"';
    return copy;
}

json_t *call(struct daemon *d, const char *method, const char *path, const char *header,
             const char *body)
{
    char *text = double_quotes(body);
    json_t *answer = receive(d, send_request(d, method, path, header, text));

    free(text);
    return answer;
}

void expect(struct daemon *d, int status, json_t *answer, const char *code)
{
    if (d->status != status)
        fail_msg("status %d, not %d: %s %s", d->status, status, lh_json_str(answer, "code", ""),
                 lh_json_str(answer, "detail", ""));
    if (code)
        assert_string_equal(lh_json_str(answer, "code", ""), code);
}

/* ---- a scripted node ------------------------------------------------------------------------- */

json_t *node_call(struct fake *f, const char *what, const char *more)
{
    char path[64], body[2000];

    (void)snprintf(path, sizeof(path), "/v1/node/%s", what);
    (void)snprintf(body, sizeof(body), "{'name':'n1','agent_id':'a1','epoch':%llu%s}",
                   (unsigned long long)f->epoch, more);
    return call(f->d, "POST", path, NULL, body);
}

void node_register_with(struct fake *f, const char *attempts)
{
    char more[600];
    json_t *o;

    (void)snprintf(more, sizeof(more),
                   ",'protocol':1,'boot_id':'b','version':'0','hostname':'h','address':'127.0.0.1',"
                   "'device':'cpu',"
                   "'slots':2,'cores':2,'memory_bytes':1000,'attempts':%s",
                   attempts);
    o = node_call(f, "register", more);
    expect(f->d, 200, o, NULL);
    f->epoch = (uint64_t)lh_json_i64(o, "epoch", 0);
    f->ack = 0;
    json_decref(o);
}

/* Polls until a command of that type comes, acknowledges it, and returns it. */
json_t *node_command(struct fake *f, const char *type)
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
        json_array_foreach (commands, i, c) {
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

void node_report(struct fake *f, const char *report)
{
    char more[900];
    json_t *o;

    (void)snprintf(more, sizeof(more), ",'reports':[%s]", report);
    o = node_call(f, "reports", more);
    expect(f->d, 200, o, NULL);
    assert_int_equal(json_array_size(json_object_get(o, "done")), 1);
    json_decref(o);
}

void submit(struct daemon *d, const char *spec, char id[64])
{
    json_t *o = call(d, "POST", "/v1/jobs", NULL, spec);

    expect(d, 201, o, NULL);
    (void)snprintf(id, 64, "%s", lh_json_str(o, "id", "?"));
    json_decref(o);
}

void expect_job(struct daemon *d, const char *id, const char *state)
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
void run_job(struct fake *f, const char *spec, char id[64])
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
