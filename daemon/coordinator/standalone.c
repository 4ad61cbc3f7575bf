/* standalone.c - --standalone: one longhaul-node of our own, started again when it ends, gone when
 * we are.
 *
 *     RUNNING ──exit──> WAITING ──1 s, doubling to 30 s; 1 s again after a steady minute──> RUNNING
 *
 * The node dies with us by PDEATHSIG, its shims do not: that is how jobs survive a restart.
 */
#include "daemon/coordinator/app_parts.h"
#include "proto/base/clock.h"
#include "proto/base/fs.h"
#include "proto/base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAUSE_MIN_MS 1000
#define PAUSE_MAX_MS 30000
#define STEADY_MS 60000
#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC 4u
#endif

struct standalone {
    struct app *app;
    char program[1200], dir[4200], slots[16];
    const char *argv[16];
    pid_t pid; /* 0: none */
    uint64_t started_ms, next_ms;
    unsigned pause_ms;
    bool stopping;
};

static void child_exec(const struct standalone *s, pid_t parent)
{
    sigset_t none;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) /* died between fork and prctl */
        _exit(0);
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)signal(SIGPIPE, SIG_DFL);
    (void)syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_CLOEXEC);
    (void)execvp(s->program, (char *const *)(uintptr_t)s->argv);
    _exit(127);
}

static int spawn(struct standalone *s)
{
    pid_t parent = getpid(), pid = fork();

    if (pid < 0)
        return -errno;
    if (pid == 0)
        child_exec(s, parent);
    s->pid = pid;
    s->started_ms = lh_mono_ms();
    lh_info("standalone.started", "program=%s pid=%d", s->program, (int)pid);
    return 0;
}

static void pause_then_again(struct standalone *s, const char *why)
{
    if (lh_mono_ms() - s->started_ms >= STEADY_MS)
        s->pause_ms = PAUSE_MIN_MS;
    s->next_ms = lh_mono_ms() + s->pause_ms;
    app_warn(s->app, "standalone.ended", "the local longhaul-node %s; it is started again in %u s",
             why, s->pause_ms / 1000);
    s->pause_ms = LH_MIN(2 * s->pause_ms, (unsigned)PAUSE_MAX_MS);
}

int standalone_start(struct app *a, struct standalone **ret, struct lh_err *reterr)
{
    struct standalone *s = calloc(1, sizeof(*s));
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned n = 0;
    int rc;

    if (!s)
        return lh_err_set(reterr, -ENOMEM, "start the local node");
    s->app = a;
    s->pause_ms = PAUSE_MIN_MS;
    (void)lh_sibling_program("longhaul-node", s->program, sizeof(s->program));
    (void)snprintf(s->dir, sizeof(s->dir), "%s/node", a->config->state);
    (void)snprintf(s->slots, sizeof(s->slots), "%u",
                   a->config->slots ? a->config->slots
                                    : (unsigned)LH_MIN(LH_MAX(cores, 1), CORE_SLOTS_MAX));
    s->argv[n++] = s->program;
    s->argv[n++] = "--coordinator";
    s->argv[n++] = http_server_address(a->http);
    s->argv[n++] = "--name";
    s->argv[n++] = "local";
    s->argv[n++] = "--state";
    s->argv[n++] = s->dir;
    s->argv[n++] = "--slots";
    s->argv[n++] = s->slots;
    if (a->config->node_token_file) {
        s->argv[n++] = "--token-file";
        s->argv[n++] = a->config->node_token_file;
    }
    rc = spawn(s);
    if (rc < 0) {
        rc = lh_err_set(reterr, rc, "start the local node '%s'", s->program);
        free(s);
        return rc;
    }
    *ret = s;
    return 0;
}

void standalone_child(struct standalone *s)
{
    char why[64];
    int status;

    if (s->pid == 0 || waitpid(s->pid, &status, WNOHANG) != s->pid)
        return;
    s->pid = 0;
    if (s->stopping)
        return;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        (void)snprintf(why, sizeof(why), "could not be started (exit 127: is it installed?)");
    else if (WIFEXITED(status))
        (void)snprintf(why, sizeof(why), "ended with exit code %d", WEXITSTATUS(status));
    else
        (void)snprintf(why, sizeof(why), "was ended by signal %d", WTERMSIG(status));
    pause_then_again(s, why);
}

void standalone_tick(struct standalone *s)
{
    if (s->pid != 0 || s->stopping || lh_mono_ms() < s->next_ms)
        return;
    if (spawn(s) < 0)
        pause_then_again(s, "could not be forked");
}

void standalone_stop(struct standalone *s)
{
    s->stopping = true;
    if (s->pid > 0)
        (void)kill(s->pid, SIGTERM);
}

bool standalone_is_gone(const struct standalone *s)
{
    return !s || s->pid == 0;
}

void standalone_free(struct standalone *s)
{
    if (!s)
        return;
    if (s->pid > 0) {
        (void)kill(s->pid, SIGKILL);
        (void)waitpid(s->pid, NULL, 0);
    }
    free(s);
}
