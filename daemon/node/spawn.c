/* spawn.c - see spawn.h. fork and exec by hand: libuv's processes belong to its loop, these to a
 * worker thread. */
#include "daemon/node/spawn.h"
#include "proto/base/clock.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define OUT_MAX (4u << 20)
#define POLL_MS 100

extern char **environ;

static bool is_secret(const char *entry)
{
    static const char *const prefixes[] = {"AWS_", "NOTIFY_SOCKET=", "WATCHDOG_", "LISTEN_",
                                           "LONGHAUL_TOKEN"};

    for (size_t i = 0; i < LH_ARRAY_LEN(prefixes); i++)
        if (strncmp(entry, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    return false;
}

static bool is_set(const char *entry, const char *const *set_env)
{
    size_t n = strcspn(entry, "=") + 1;

    for (size_t i = 0; set_env && set_env[i]; i++)
        if (strncmp(entry, set_env[i], n) == 0)
            return true;
    return false;
}

char **spawn_environment(const char *const *set_env)
{
    size_t n = 0, k = 0;
    char **env;

    for (char **e = environ; *e; e++)
        n++;
    for (size_t i = 0; set_env && set_env[i]; i++)
        n++;
    env = calloc(n + 1, sizeof(*env));
    for (char **e = environ; env && *e; e++)
        if (!is_secret(*e) && !is_set(*e, set_env))
            env[k++] = strdup(*e);
    for (size_t i = 0; env && set_env && set_env[i]; i++)
        env[k++] = strdup(set_env[i]);
    return env;
}

void spawn_environment_free(char **env)
{
    for (char **e = env; e && *e; e++)
        free(*e);
    free(env);
}

/* After fork in a process with threads: only what is safe in a signal handler. */
static void child(const struct spawn_request *q, char **env, int out, int err, pid_t parent)
{
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int oom = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    sigset_t none;

    (void)!write(oom, "0", 1); /* the daemon may be spared by the kernel; what it runs is not */
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(126);
    (void)setpgid(0, 0);
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)signal(SIGPIPE, SIG_DFL);
    (void)dup2(null, STDIN_FILENO);
    (void)dup2(out, STDOUT_FILENO);
    (void)dup2(err, STDERR_FILENO);
    (void)execvpe(q->argv[0], q->argv, env);
    _exit(127);
}

/* What take_ functions found in a pipe. */
enum taken { TAKEN_SOME, TAKEN_ALL_THERE_IS, TAKEN_END };

static enum taken read_chunk(int fd, char *chunk, size_t cap, size_t *ret_n)
{
    ssize_t n = read(fd, chunk, cap);

    *ret_n = n > 0 ? (size_t)n : 0;
    if (n > 0 || (n < 0 && errno == EINTR))
        return TAKEN_SOME;
    return n < 0 && errno == EAGAIN ? TAKEN_ALL_THERE_IS : TAKEN_END;
}

static enum taken take_out(int fd, struct spawn_result *r)
{
    char chunk[4096];
    size_t n;
    enum taken taken = read_chunk(fd, chunk, sizeof(chunk), &n);

    (void)!lh_buf_append(&r->out, chunk, n); /* beyond the maximum: more than anybody asked for */
    return taken;
}

static enum taken take_err(int fd, struct spawn_result *r)
{
    char chunk[4096], *end = r->err;
    size_t n, have = strlen(end), keep, cap = sizeof(r->err);
    enum taken taken = read_chunk(fd, chunk, sizeof(chunk), &n);

    for (size_t i = 0; i < n; i++)
        if (chunk[i] == '\0')
            chunk[i] = ' ';
    if (n >= cap) {
        (void)snprintf(end, cap, "%.*s", (int)cap - 1, chunk + (n - cap + 1));
    } else {
        keep = LH_MIN(have, cap - 1 - n);
        memmove(end, end + (have - keep), keep);
        memcpy(end + keep, chunk, n);
        end[keep + n] = '\0';
    }
    return taken;
}

/* Everything that is in a pipe by now; false at its end. */
static bool drain(int fd, enum taken (*take)(int, struct spawn_result *), struct spawn_result *r)
{
    enum taken taken;

    do
        taken = take(fd, r);
    while (taken == TAKEN_SOME);
    return taken != TAKEN_END;
}

static int follow(const struct spawn_request *q, pid_t pid, int out, int err,
                  struct spawn_result *r)
{
    uint64_t until = lh_mono_ms() + q->timeout_ms;
    bool out_open = true, err_open = true;
    int status, rc = 0;

    for (;;) {
        struct pollfd fds[2] = {{out_open ? out : -1, POLLIN, 0}, {err_open ? err : -1, POLLIN, 0}};
        pid_t done;

        (void)poll(fds, 2, POLL_MS);
        done = waitpid(pid, &status, WNOHANG);
        /* In this order: what a program wrote before its end is in the pipes when it has ended. */
        out_open = out_open && drain(out, take_out, r);
        err_open = err_open && drain(err, take_err, r);
        if (done == pid)
            break;
        if (q->cancel && *q->cancel)
            rc = -ECANCELED;
        else if (lh_mono_ms() >= until)
            rc = -ETIMEDOUT;
        if (rc < 0)
            (void)kill(-pid, SIGKILL);
    }
    r->exit = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    r->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    return rc;
}

int spawn_run(const struct spawn_request *q, struct spawn_result *ret_result, struct lh_err *reterr)
{
    int out[2] = {-1, -1}, err[2] = {-1, -1}, rc = 0;
    char **env = spawn_environment(q->set_env);
    struct spawn_result r = {0};
    pid_t self = getpid(), pid = -1;

    lh_buf_init(&r.out, OUT_MAX);
    if (!env)
        rc = lh_err_set(reterr, -ENOMEM, "run '%s'", q->argv[0]);
    else if (pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0 || (pid = fork()) < 0)
        rc = lh_err_set(reterr, -errno, "run '%s'", q->argv[0]);
    if (pid == 0)
        child(q, env, out[1], err[1], self);
    if (out[1] >= 0)
        (void)close(out[1]);
    if (err[1] >= 0)
        (void)close(err[1]);
    if (rc == 0) {
        (void)setpgid(pid, pid);
        (void)fcntl(out[0], F_SETFL, O_NONBLOCK);
        (void)fcntl(err[0], F_SETFL, O_NONBLOCK);
        rc = follow(q, pid, out[0], err[0], &r);
        if (rc < 0)
            rc = lh_err_set(reterr, rc, "'%s' was ended", q->argv[0]);
        else if (r.exit == 127 && r.out.len == 0)
            rc = lh_err_set(reterr, -ENOENT, "cannot run '%s'", q->argv[0]);
    }
    if (out[0] >= 0)
        (void)close(out[0]);
    if (err[0] >= 0)
        (void)close(err[0]);
    spawn_environment_free(env);
    if (rc < 0) {
        lh_buf_release(&r.out);
        return rc;
    }
    *ret_result = r;
    return 0;
}
