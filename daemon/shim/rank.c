/* rank.c - the parent of one rank: gives it a log of its own and records how it ended.
 *
 * mpirun tells only one exit code for all ranks; this record is what failures are judged by. The
 * rank runs in a process group of its own and dies with this process, which ends when mpirun or
 * orted is gone. Signals that mpirun sends are passed on once. Files: logs/rank-N.log,
 * ranks/rank-N.json (twice: at the start, and with the wait status).
 */
#include "daemon/shim/caplog.h"
#include "daemon/shim/outcome.h"
#include "daemon/shim/roles.h"
#include "proto/base/attr.h"
#include "proto/base/clock.h"
#include "proto/base/fault.h"
#include "proto/base/json.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CANNOT_RUN 127 /* as a shell says it */
#define PARENT_CHECK_MS 1000

struct rank {
    int number;
    pid_t pid;
    int signal_fd, output_fd, log_fd;
    uint64_t started_ms;
    struct caplog log;
};

static int fail(const char *what)
{
    (void)fprintf(stderr, "longhaul-shim: %s: %s\n", what, strerror(errno));
    return CANNOT_RUN;
}

/* ru: NULL at the start. */
static void record(const struct rank *r, int status, const struct rusage *ru)
{
    char path[64];
    json_t *o =
        json_pack("{s:i, s:i, s:I, s:I}", "rank", r->number, "pid", (int)r->pid, "start_ticks",
                  (json_int_t)lh_pid_start_ticks(r->pid), "started_ms", (json_int_t)r->started_ms);

    if (o && ru) {
        uint64_t now = lh_now_ms();

        (void)json_object_set_new(o, "exit",
                                  json_integer(WIFEXITED(status) ? WEXITSTATUS(status) : -1));
        (void)json_object_set_new(o, "signal",
                                  json_integer(WIFSIGNALED(status) ? WTERMSIG(status) : 0));
        (void)json_object_set_new(o, "ended_ms", json_integer((json_int_t)now));
        (void)json_object_set_new(o, "ms", json_integer((json_int_t)(now - r->started_ms)));
        (void)json_object_set_new(o, "peak_bytes", json_integer((json_int_t)ru->ru_maxrss * 1024));
    }
    (void)snprintf(path, sizeof(path), "ranks/rank-%d.json", r->number);
    if (o && lh_json_save(path, o, NULL) < 0)
        (void)fail(path);
    json_decref(o);
}

static void child(char **command, int output, pid_t parent)
{
    sigset_t none;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(CANNOT_RUN);
    (void)setpgid(0, 0);
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)dup2(output, STDOUT_FILENO);
    (void)dup2(output, STDERR_FILENO);
    (void)execvp(command[0], command);
    (void)fprintf(stderr, "longhaul-shim: cannot run '%s': %s\n", command[0], strerror(errno));
    _exit(CANNOT_RUN);
}

static int start(struct rank *r, char **command)
{
    static const int signals[] = {SIGCHLD, SIGTERM, SIGINT,  SIGHUP,
                                  SIGUSR1, SIGUSR2, SIGCONT, SIGTSTP};
    int out[2];
    pid_t self = getpid();
    sigset_t set;

    (void)sigemptyset(&set);
    for (size_t i = 0; i < LH_ARRAY_LEN(signals); i++)
        (void)sigaddset(&set, signals[i]);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    r->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (r->signal_fd < 0 || pipe2(out, O_CLOEXEC) < 0)
        return fail("start a rank");
    r->started_ms = lh_now_ms();
    r->pid = fork();
    if (r->pid < 0)
        return fail("fork");
    if (r->pid == 0)
        child(command, out[1], self);
    (void)setpgid(r->pid, r->pid); /* both sides do it: whoever comes first */
    (void)close(out[1]);
    (void)fcntl(out[0], F_SETFL, O_NONBLOCK);
    r->output_fd = out[0];
    record(r, 0, NULL);
    return 0;
}

/* True when the pipe is at its end. */
static bool drain(struct rank *r)
{
    static char chunk[65536];

    for (;;) {
        ssize_t n = read(r->output_fd, chunk, sizeof(chunk));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n == 0;
        caplog_write(&r->log, chunk, (size_t)n, lh_mono_ms());
    }
}

static void pass_signals(const struct rank *r)
{
    struct signalfd_siginfo info;

    while (read(r->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        int sig = (int)info.ssi_signo;

        if (sig != SIGCHLD)
            (void)kill(-r->pid, sig == SIGTSTP ? SIGSTOP : sig);
    }
}

static int wait_for(struct rank *r)
{
    pid_t parent = getppid();
    bool open = true;
    struct rusage ru;
    int status;

    for (;;) {
        struct pollfd fds[2] = {{r->signal_fd, POLLIN, 0}, {open ? r->output_fd : -1, POLLIN, 0}};

        (void)poll(fds, 2, PARENT_CHECK_MS);
        if (getppid() != parent) /* nobody would end a rank that does not call MPI */
            (void)kill(-r->pid, SIGKILL);
        if (fds[1].revents)
            open = !drain(r);
        pass_signals(r);
        /* Children of the rank may hold its output open for ever: its own end is what counts. */
        if (wait4(r->pid, &status, WNOHANG, &ru) == r->pid)
            break;
    }
    if (open)
        (void)drain(r);
    caplog_finish(&r->log);
    lh_fault("shim.rank.before_record");
    record(r, status, &ru);
    if (WIFEXITED(status) && WEXITSTATUS(status) == WORKER_STOPPED)
        return 0;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int rank_number(void)
{
    const char *text = getenv("OMPI_COMM_WORLD_RANK");

    if (!text)
        text = getenv("PMIX_RANK");
    return text ? atoi(text) : 0;
}

int rank_run(const char *dir, char **command)
{
    const char *log_max = getenv("LONGHAUL_LOG_MAX");
    struct rank r = {.number = rank_number()};
    char path[64];
    struct stat st;

    if (strcmp(dir, "-") == 0)
        dir = getenv("LONGHAUL_ATTEMPT_DIR");
    if (!dir || chdir(dir) < 0)
        return fail(dir ? dir : "LONGHAUL_ATTEMPT_DIR is not set");
    (void)snprintf(path, sizeof(path), "logs/rank-%d.log", r.number);
    r.log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (r.log_fd < 0 || fstat(r.log_fd, &st) < 0)
        return fail(path);
    caplog_init(&r.log, r.log_fd, (uint64_t)st.st_size,
                log_max ? strtoull(log_max, NULL, 10) : 64u << 20, lh_mono_ms());
    if (start(&r, command) != 0)
        return CANNOT_RUN;
    return wait_for(&r);
}
