/* shim.c - one attempt on one node: waits for its command, runs it, ends it, tells the disk.
 *
 *   PREPARED ──launch/orted──► RUNNING ──stop, limit──► STOPPING
 *       │                         │ launcher gone          │ launcher gone, or killed
 *       └──────stop, lease────────┴──────► REAPING ◄───────┘
 *                                             │ no process is left: exit.json, cleaned.json
 *                                             ▼
 *                                           ENDED
 * Always true: exit.json is written once, and before anybody is told; cleaned.json only when
 * nothing below us lives. Whoever wants to know more reads DIR; nothing is held that is not there.
 * Single-threaded; a tick every 250 ms.
 */
#include "daemon/shim/attempt.h"
#include "daemon/shim/control.h"
#include "daemon/shim/launch.h"
#include "daemon/shim/ranks.h"
#include "daemon/shim/reap.h"
#include "daemon/shim/record.h"
#include "daemon/shim/roles.h"
#include "proto/base/clock.h"
#include "proto/base/fault.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define TICK_MS 250
#define REAP_TICK_MS 20     /* while it can be a matter of milliseconds */
#define HANG_GRACE_MS 10000 /* ranks that hang do not answer; no use in waiting a whole grace */
#define REAP_SOFT_MS 1000   /* so long the parents of ranks have to write their records */
#define REAP_RECORD_MS                                                                             \
    10000 /* with processes that cannot be killed the exit is told all the same */
#define LAUNCH_LOG_MAX (4 << 20)

enum shim_state { SHIM_PREPARED, SHIM_RUNNING, SHIM_STOPPING, SHIM_REAPING, SHIM_ENDED };

struct shim {
    struct attempt a;
    enum shim_state state;
    struct control *control;
    struct ranks *ranks;
    int signal_fd;
    pid_t launcher;
    struct record record;                                      /* what exit.json will say */
    uint64_t launched_at, lease_until, kill_at, reaping_since; /* monotonic ms; 0: not running */
    bool exit_written, log_cut;
};

static void log_line(const char *what)
{
    char line[900], now[LH_RFC3339_MAX];
    int n =
        snprintf(line, sizeof(line), "[longhaul-shim %s] %s\n", lh_rfc3339(lh_now_ms(), now), what);

    (void)!lh_append_file("logs/launch.log", line, (size_t)LH_MIN(n, (int)sizeof(line) - 1), NULL);
}

/* ---- ending ----------------------------------------------------------------------------- */

static void reaping_begin(struct shim *s, uint64_t now)
{
    s->state = SHIM_REAPING;
    s->reaping_since = now;
}

static void stop_begin(struct shim *s, enum stop_cause cause, const char *reason, uint64_t grace_ms)
{
    uint64_t now = lh_mono_ms();
    char line[160];

    if (s->state >= SHIM_STOPPING) {
        if (s->state == SHIM_STOPPING) /* a second stop can only hurry it */
            s->kill_at = LH_MIN(s->kill_at, now + grace_ms);
        return;
    }
    s->record.cause = cause;
    (void)snprintf(s->record.reason, sizeof(s->record.reason), "%s", reason);
    (void)snprintf(line, sizeof(line), "stopping: %s; ranks have %llu ms", reason,
                   (unsigned long long)grace_ms);
    log_line(line);
    if (s->state == SHIM_PREPARED) {
        reaping_begin(s, now);
        return;
    }
    s->state = SHIM_STOPPING;
    s->kill_at = now + grace_ms;
    (void)!lh_append_file("out/stop", "", 0, NULL);
    ranks_terminate(s->ranks);
}

static void finish(struct shim *s)
{
    char shm[LAUNCH_SHM_MAX];

    if (s->log_cut)
        log_line("this log grew too large and was cut");
    (void)!lh_remove_tree(launch_shm_dir(&s->a, shm), NULL);
    (void)!lh_remove_tree("tmp", NULL);
    launch_remove_cgroup(&s->a);
    if (record_cleaned(&s->a, s->ranks, NULL) == 0)
        s->state = SHIM_ENDED;
}

static void on_reaping(struct shim *s, uint64_t now)
{
    bool soft = now - s->reaping_since < REAP_SOFT_MS;
    unsigned left;

    if (!soft)
        (void)launch_kill_cgroup(
            &s->a); /* where there is one it leaves nothing for the next line */
    left = reap_kill(!soft);
    ranks_poll(s->ranks, now);
    if (!s->exit_written && (left == 0 || now - s->reaping_since >= REAP_RECORD_MS)) {
        lh_fault("shim.before_exit_record");
        /* Without this record nobody learns of the end, so a full disk is tried again every tick.
         */
        s->exit_written = record_exit(&s->a, &s->record, s->ranks, NULL) == 0;
    }
    if (left == 0 && s->exit_written)
        finish(s);
}

/* ---- time ------------------------------------------------------------------------------- */

static void check_limits(struct shim *s, uint64_t now)
{
    uint64_t alive = LH_MAX(ranks_alive_ms(s->ranks), s->launched_at);
    uint64_t hang_ms = LH_MAX(s->a.hang_ms, 10 * ranks_median_step_ms(s->ranks));

    if (s->a.lease_ms && now >= s->lease_until)
        stop_begin(s, STOP_LEASE, "the coordinator was silent past the lease", s->a.grace_ms);
    if (s->state != SHIM_RUNNING)
        return;
    if (s->a.wall_ms && now - s->launched_at >= s->a.wall_ms)
        stop_begin(s, STOP_WALL, "wall limit", s->a.grace_ms);
    else if (s->a.head && s->a.hang_ms && now - alive >= hang_ms)
        stop_begin(s, STOP_HANG, "no rank made progress", HANG_GRACE_MS);
}

/* mpirun writes to the file itself; cutting it never touches bytes below the limit, which may be
 * shipped already. */
static void cap_launch_log(struct shim *s)
{
    if (lh_file_size("logs/launch.log") > LAUNCH_LOG_MAX + (64 << 10) &&
        truncate("logs/launch.log", LAUNCH_LOG_MAX) == 0)
        s->log_cut = true;
}

static void on_tick(struct shim *s)
{
    uint64_t now = lh_mono_ms();

    if (s->state == SHIM_RUNNING || s->state == SHIM_STOPPING) {
        ranks_poll(s->ranks, now);
        cap_launch_log(s);
    }
    if (s->state == SHIM_PREPARED || s->state == SHIM_RUNNING)
        check_limits(s, now);
    if (s->state == SHIM_STOPPING) {
        ranks_terminate(s->ranks);
        if (now >= s->kill_at && s->launcher > 0)
            (void)kill(s->launcher, SIGKILL);
    }
    if (s->state == SHIM_REAPING)
        on_reaping(s, now);
}

static void on_child(struct shim *s)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid != s->launcher)
            continue; /* an orphan of the attempt */
        s->launcher = 0;
        s->record.launcher_exit = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
        s->record.launcher_signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
        s->record.launcher_ended_ms = lh_now_ms();
        reaping_begin(s, lh_mono_ms());
    }
}

static void on_signals(struct shim *s)
{
    struct signalfd_siginfo info;

    while (read(s->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGCHLD)
            on_child(s);
        else
            stop_begin(s, STOP_SIGNAL, "the shim was told to end", s->a.grace_ms);
    }
}

/* ---- requests --------------------------------------------------------------------------- */

static json_t *refuse(const char *why)
{
    return json_pack("{s:i, s:b, s:s}", "v", 1, "ok", 0, "error", why);
}

static json_t *status(const struct shim *s)
{
    static const char *const names[] = {"prepared", "running", "stopping", "reaping", "ended"};
    unsigned n, started = 0, ended = 0;
    const struct rank_record *r = ranks_records(s->ranks, &n);

    for (unsigned i = 0; i < n; i++) {
        started += r[i].started;
        ended += r[i].ended;
    }
    return json_pack("{s:i, s:b, s:s, s:I, s:s, s:b, s:i, s:i, s:i, s:i}", "v", 1, "ok", 1, "job",
                     s->a.job, "attempt", (json_int_t)s->a.number, "state", names[s->state], "head",
                     s->a.head, "ranks", (int)n, "started", (int)started, "reported",
                     (int)ranks_reported(s->ranks), "ended", (int)ended);
}

/* launch and orted; a repeated request finds the attempt under way and is content. */
static json_t *start(struct shim *s, const char *command)
{
    struct lh_err err;
    int rc;

    if (s->state != SHIM_PREPARED)
        return status(s);
    if (s->a.head != !command)
        return refuse(s->a.head ? "this is the head: it takes 'launch'"
                                : "this is a member: it takes 'orted'");
    s->record.started_ms = lh_now_ms();
    s->launched_at = lh_mono_ms();
    rc = command ? launch_orted(&s->a, command, &s->launcher, &err)
                 : launch_mpirun(&s->a, &s->launcher, &err);
    if (rc < 0) {
        log_line(err.text);
        s->record.launch_error = err;
        reaping_begin(s, s->launched_at);
        return refuse(err.text);
    }
    s->record.launched = true;
    s->state = SHIM_RUNNING;
    return status(s);
}

static json_t *checkpoint(struct shim *s)
{
    unsigned n;

    (void)ranks_records(s->ranks, &n);
    /* USR1 ends a process that has not asked for it yet. */
    if (s->state != SHIM_RUNNING || ranks_reported(s->ranks) < n)
        return refuse("the ranks are not running yet, or no longer");
    ranks_signal(s->ranks, SIGUSR1);
    return status(s);
}

static json_t *on_request(void *arg, const json_t *request)
{
    struct shim *s = arg;
    const char *op = lh_json_str(request, "op", ""), *command = lh_json_str(request, "command", "");
    int64_t ms = lh_json_i64(request, "ms", (int64_t)s->a.lease_ms);
    int64_t grace_ms = lh_json_i64(request, "grace_ms", (int64_t)s->a.grace_ms);

    if (strcmp(op, "status") == 0)
        return status(s);
    if (strcmp(op, "launch") == 0)
        return start(s, NULL);
    if (strcmp(op, "orted") == 0)
        return command[0] ? start(s, command) : refuse("'command' is missing");
    if (strcmp(op, "checkpoint") == 0)
        return checkpoint(s);
    if (strcmp(op, "stop") == 0) {
        stop_begin(s, STOP_REQUEST, lh_json_str(request, "reason", "requested"),
                   (uint64_t)LH_MAX(grace_ms, 0));
        return status(s);
    }
    if (strcmp(op, "lease") == 0) {
        s->lease_until = lh_mono_ms() + (uint64_t)LH_MAX(ms, 0);
        return status(s);
    }
    return refuse("'op' must be status, launch, orted, checkpoint, stop or lease");
}

/* ---- life ------------------------------------------------------------------------------- */

static int take_directory(const char *dir, struct lh_err *reterr)
{
    static const char *const parts[] = {"logs", "ranks", "relay", "tmp", "out/events"};
    int fd, rc = 0;

    if (chdir(dir) < 0)
        return lh_err_set(reterr, -errno, "attempt directory '%s'", dir);
    fd = open("shim.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600); /* held until the end */
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
        return lh_err_set(reterr, -errno, "another shim holds '%s'", dir);
    if (lh_path_exists("start.json") || lh_path_exists("exit.json"))
        return lh_err_set(reterr, -EEXIST,
                          "the attempt in '%s' was started before; an attempt runs once", dir);
    for (size_t i = 0; rc == 0 && i < LH_ARRAY_LEN(parts); i++)
        rc = lh_mkdir_p(parts[i], reterr);
    return rc;
}

static int take_signals(int *ret_fd, struct lh_err *reterr)
{
    sigset_t set;
    int fd;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGCHLD);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    (void)signal(SIGHUP, SIG_IGN);
    (void)signal(SIGPIPE, SIG_IGN);
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        return lh_err_set(reterr, -errno, "signalfd");
    *ret_fd = fd;
    return prctl(PR_SET_CHILD_SUBREAPER, 1) < 0 ? lh_err_set(reterr, -errno, "subreaper") : 0;
}

static int open_all(struct shim *s, const char *dir, struct lh_err *reterr)
{
    int rc = take_directory(dir, reterr);

    if (rc == 0)
        rc = attempt_load(&s->a, reterr);
    if (rc == 0)
        rc = take_signals(&s->signal_fd, reterr);
    if (rc == 0)
        rc = ranks_new(&s->a, &s->ranks, reterr);
    if (rc == 0)
        rc = control_open(on_request, s, &s->control, reterr);
    if (rc == 0)
        rc = record_shim(reterr);
    s->lease_until = lh_mono_ms() + s->a.lease_ms;
    return rc;
}

static int tick_ms(const struct shim *s)
{
    if (s->state == SHIM_PREPARED)
        return 4 * TICK_MS;
    return s->state == SHIM_REAPING && lh_mono_ms() - s->reaping_since < 2 * REAP_SOFT_MS
               ? REAP_TICK_MS
               : TICK_MS;
}

static void loop(struct shim *s)
{
    while (s->state != SHIM_ENDED) {
        struct pollfd fds[CONTROL_CLIENTS_MAX + 2];
        nfds_t n = control_poll_fds(s->control, fds + 1);

        fds[0] = (struct pollfd){s->signal_fd, POLLIN, 0};
        (void)poll(fds, n + 1, tick_ms(s));
        if (fds[0].revents)
            on_signals(s);
        control_dispatch(s->control, fds + 1, n);
        on_tick(s);
    }
}

int shim_run(const char *dir)
{
    struct shim s = {.signal_fd = -1};
    struct lh_err err;
    int rc;

    (void)setsid();
    rc = open_all(&s, dir, &err);
    if (rc == 0)
        loop(&s);
    else
        (void)fprintf(stderr, "longhaul-shim: %s\n", err.text);
    control_close(s.control);
    ranks_free(s.ranks);
    attempt_release(&s.a);
    return rc < 0 ? 1 : 0;
}
