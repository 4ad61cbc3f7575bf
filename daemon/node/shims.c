/* shims.c - see shims.h.
 *
 * A socket's path is limited to 108 bytes: the directory is opened and the socket named through
 * /proc/self/fd.
 */
#include "daemon/node/shims.h"
#include "daemon/node/spawn.h"
#include "proto/base/buf.h"
#include "proto/base/clock.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define ANSWER_MAX (64u << 10)
#define ENVIRON_MAX (256u << 10)

/* After fork in a process with threads: only what is safe in a signal handler. */
static void grandchild(char *const *argv, char **env, int log, const char *procs)
{
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC), cgroup = open(procs, O_WRONLY | O_CLOEXEC);
    sigset_t none;

    (void)!write(cgroup, "0", 1);
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)dup2(null, STDIN_FILENO);
    (void)dup2(log, STDOUT_FILENO);
    (void)dup2(log, STDERR_FILENO);
    (void)execve(argv[0], argv, env);
    _exit(127);
}

int shims_start(const struct node *n, const char *dir, const char *cgroup, struct lh_err *reterr)
{
    char *argv[] = {(char *)(uintptr_t)n->config.shim, (char *)(uintptr_t)dir, NULL},
         path[NODE_PATH_MAX];
    char procs[NODE_PATH_MAX];
    char **env = spawn_environment(NULL);
    int log, rc = 0, status;
    pid_t pid;

    (void)snprintf(path, sizeof(path), "%s/shim.log", dir);
    (void)snprintf(procs, sizeof(procs), "%s%s", cgroup, cgroup[0] ? "/cgroup.procs" : "");
    log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (!env || log < 0) {
        rc = lh_err_set(reterr, env ? -errno : -ENOMEM, "start a shim in '%s'", dir);
    } else if (access(n->config.shim, X_OK) < 0) {
        rc = lh_err_set(reterr, -errno, "cannot run '%s'", n->config.shim);
    } else if ((pid = fork()) < 0) {
        rc = lh_err_set(reterr, -errno, "start a shim in '%s'", dir);
    } else if (pid == 0) {
        (void)setsid();
        pid = fork();
        if (pid == 0)
            grandchild(argv, env, log, procs);
        _exit(pid < 0);
    } else if (waitpid(pid, &status, 0) == pid && status != 0) {
        rc = lh_err_set(reterr, -EAGAIN, "start a shim in '%s'", dir);
    }
    if (log >= 0)
        (void)close(log);
    spawn_environment_free(env);
    return rc;
}

bool shims_alive(const char *dir)
{
    LH_CLEANUP(lh_json_decrefp) json_t *o = NULL;
    char path[NODE_PATH_MAX], boot_id[37];
    uint64_t ticks;

    (void)snprintf(path, sizeof(path), "%s/shim.json", dir);
    if (lh_json_load(path, 4096, &o, NULL) < 0)
        return false;
    lh_boot_id(boot_id);
    ticks = lh_pid_start_ticks((int)lh_json_i64(o, "pid", 0));
    return strcmp(boot_id, lh_json_str(o, "boot_id", "")) == 0 && ticks != 0 &&
           ticks == (uint64_t)lh_json_i64(o, "start_ticks", 0);
}

/* ---- talking ---------------------------------------------------------------------------- */

struct ask {
    uv_pipe_t pipe;
    uv_timer_t timer;
    uv_connect_t connect;
    uv_write_t write;
    char *request;
    char chunk[4096];
    struct lh_buf in;
    unsigned handles_open;
    bool done;
    shims_done_fn *callback;
    void *arg;
};

static void ask_on_closed(uv_handle_t *h)
{
    struct ask *a = h->data;

    assert(a->handles_open > 0);
    if (--a->handles_open > 0)
        return;
    lh_buf_release(&a->in);
    free(a->request);
    free(a);
}

static void ask_finish(struct ask *a, const json_t *answer, const struct lh_err *err)
{
    if (a->done)
        return;
    a->done = true;
    uv_close((uv_handle_t *)&a->pipe, ask_on_closed);
    uv_close((uv_handle_t *)&a->timer, ask_on_closed);
    if (a->callback)
        a->callback(a->arg, answer, err);
}

static void ask_fail(struct ask *a, int code, const char *what)
{
    struct lh_err err;

    (void)lh_err_set(&err, code, "shim: %s", what);
    ask_finish(a, NULL, &err);
}

static void ask_on_timeout(uv_timer_t *t)
{
    ask_fail(t->data, -ETIMEDOUT, "no answer");
}

static void ask_on_alloc(uv_handle_t *h, size_t hint, uv_buf_t *buf)
{
    struct ask *a = h->data;

    (void)hint;
    *buf = uv_buf_init(a->chunk, sizeof(a->chunk));
}

static void ask_on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    LH_CLEANUP(lh_json_decrefp) json_t *answer = NULL;
    struct ask *a = s->data;
    struct lh_err err;

    if (n < 0) {
        ask_fail(a, (int)n, "the line was closed");
        return;
    }
    if (n > 0 && lh_buf_append(&a->in, buf->base, (size_t)n) < 0) {
        ask_fail(a, -E2BIG, "answer");
        return;
    }
    if (a->in.len == 0 || a->in.data[a->in.len - 1] != '\n')
        return;
    if (lh_json_parse(a->in.data, a->in.len, 16, &answer, &err) < 0)
        ask_finish(a, NULL, &err);
    else
        ask_finish(a, answer, NULL);
}

static void ask_on_written(uv_write_t *w, int status)
{
    if (status < 0 && status != UV_ECANCELED)
        ask_fail(w->data, status, "write");
}

static void ask_on_connected(uv_connect_t *c, int status)
{
    struct ask *a = c->data;
    uv_buf_t buf = uv_buf_init(a->request, (unsigned)strlen(a->request));

    if (status == UV_ECANCELED)
        return;
    if (status < 0) {
        ask_fail(a, status, "connect");
        return;
    }
    a->write.data = a;
    if (uv_write(&a->write, (uv_stream_t *)&a->pipe, &buf, 1, ask_on_written) < 0 ||
        uv_read_start((uv_stream_t *)&a->pipe, ask_on_alloc, ask_on_read) < 0)
        ask_fail(a, -EIO, "write");
}

static char *request_line(json_t *request)
{
    char *text = NULL, *line = NULL;

    if (request && json_object_set_new(request, "v", json_integer(1)) == 0)
        text = lh_json_text(request, 0);
    if (text && (line = realloc(text, strlen(text) + 2)))
        memcpy(line + strlen(line), "\n", 2);
    else
        free(text);
    json_decref(request);
    return line;
}

void shims_ask(uv_loop_t *loop, const char *dir, json_t *request, unsigned timeout_ms,
               shims_done_fn *done, void *arg)
{
    struct ask *a = calloc(1, sizeof(*a));
    char *line = request_line(request), path[64];
    int fd;

    if (!a || !line) { /* out of memory: whoever asked asks again */
        free(a);
        free(line);
        return;
    }
    a->request = line;
    a->callback = done;
    a->arg = arg;
    a->handles_open = 2;
    lh_buf_init(&a->in, ANSWER_MAX);
    (void)uv_pipe_init(loop, &a->pipe, 0);
    (void)uv_timer_init(loop, &a->timer);
    a->pipe.data = a->timer.data = a->connect.data = a;
    (void)uv_timer_start(&a->timer, ask_on_timeout, timeout_ms, 0);
    fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d/control.sock", fd);
    uv_pipe_connect(&a->connect, &a->pipe, path,
                    ask_on_connected); /* connects now, calls back later */
    if (fd >= 0)
        (void)close(fd);
}

/* ---- orphans ---------------------------------------------------------------------------- */

static bool carries(int pid, const char *entry)
{
    char path[64], *data = malloc(ENVIRON_MAX);
    bool found = false;
    ssize_t n;
    int fd;

    (void)snprintf(path, sizeof(path), "/proc/%d/environ", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    n = fd < 0 || !data ? -1 : read(fd, data, ENVIRON_MAX - 1);
    if (fd >= 0)
        (void)close(fd);
    if (n > 0) {
        data[n] = '\0';
        for (char *p = data; !found && p < data + n; p += strlen(p) + 1)
            found = strcmp(p, entry) == 0;
    }
    free(data);
    return found;
}

unsigned shims_kill_orphans(const char *dir)
{
    char entry[NODE_PATH_MAX + 32];
    DIR *d = opendir("/proc");
    unsigned n = 0;
    struct dirent *e;

    (void)snprintf(entry, sizeof(entry), "LONGHAUL_ATTEMPT_DIR=%s", dir);
    while (d && (e = readdir(d))) {
        int pid = atoi(e->d_name), fd;

        if (pid <= 1 || pid == getpid() || !carries(pid, entry))
            continue;
        fd = (int)syscall(SYS_pidfd_open, pid, 0);
        if (fd >= 0 && carries(pid, entry)) /* still the one that was read */
            (void)syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
        if (fd >= 0)
            (void)close(fd);
        n++;
    }
    if (d)
        (void)closedir(d);
    return n;
}
