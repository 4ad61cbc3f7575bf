/* launch.c - see launch.h.
 *
 * The child waits behind a pipe until start.json is on disk, so a crash between the two leaves a
 * record without a process, never a process without a record. mpirun's output goes to a file: it
 * dies when the reader of a pipe does. Settings that differ from node to node (tmpdir, cache)
 * travel in each node's own environment, not on mpirun's command line, which mpirun repeats to
 * every node.
 */
#include "daemon/shim/launch.h"
#include "proto/base/arena.h"
#include "proto/base/buf.h"
#include "proto/base/clock.h"
#include "proto/base/fault.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define ARGS_MAX 128
#define CONTROL_PORTS 4       /* one would do; the others are for neighbours that took it */
#define NETWORK_PREFIX_MIN 16 /* a common network wider than this is taken for a coincidence */

struct args {
    char *at[ARGS_MAX];
    int n;
    struct lh_arena arena;
    bool failed;
};

static LH_PRINTF(2, 3) void arg(struct args *l, const char *fmt, ...)
{
    char text[4096];
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (l->n + 1 < ARGS_MAX && n >= 0 && n < (int)sizeof(text))
        l->at[l->n] = lh_arena_strdup(&l->arena, text);
    if (l->n + 1 >= ARGS_MAX || !l->at[l->n])
        l->failed = true;
    else
        l->at[++l->n] = NULL;
}

static void mca(struct args *l, const char *name, const char *value)
{
    arg(l, "--mca");
    arg(l, "%s", name);
    arg(l, "%s", value);
}

static int write_hosts(const struct attempt *a, struct lh_err *reterr)
{
    struct lh_buf b;
    int rc = 0;

    lh_buf_init(&b, (size_t)ATTEMPT_GANG_MAX * 96);
    for (unsigned i = 0; rc == 0 && i < a->n_gang; i++)
        rc = lh_buf_printf(&b, "%s slots=%u\n", a->n_gang == 1 ? "localhost" : a->gang[i].address,
                           a->gang[i].slots);
    rc = rc < 0 ? lh_err_set(reterr, rc, "hosts") : lh_write_file("hosts", b.data, b.len, reterr);
    lh_buf_release(&b);
    return rc;
}

/* The smallest network that holds all addresses; "" when they are not plain IPv4 or have too little
 * in common. */
static void common_network(const struct attempt *a, char *buf, size_t cap)
{
    uint32_t first = 0, differ = 0, mask;
    char text[INET_ADDRSTRLEN];
    struct in_addr in;
    unsigned prefix = 32;

    buf[0] = '\0';
    for (unsigned i = 0; i < a->n_gang; i++) {
        if (inet_pton(AF_INET, a->gang[i].address, &in) != 1)
            return;
        if (i == 0)
            first = ntohl(in.s_addr);
        differ |= first ^ ntohl(in.s_addr);
    }
    while (prefix > 0 && differ >> (32 - prefix))
        prefix--;
    if (prefix < NETWORK_PREFIX_MIN)
        return;
    mask = prefix == 32 ? 0xffffffffu : ~(0xffffffffu >> prefix);
    in.s_addr = htonl(first & mask);
    (void)snprintf(buf, cap, "%s/%u", inet_ntop(AF_INET, &in, text, sizeof(text)), prefix);
}

/* A few ports of the range for mpirun's own lines. It listens on every port of the list that is
 * free, so the whole range would leave none to the ranks; attempts that run beside each other begin
 * at different places. */
static void control_ports(const struct attempt *a, char *buf, size_t cap)
{
    unsigned n = a->port_high - a->port_low + 1, take = LH_MIN(n, (unsigned)CONTROL_PORTS),
             hash = 2166136261u;
    unsigned first;

    for (const char *p = a->job; *p; p++)
        hash = (hash ^ (unsigned char)*p) * 16777619u;
    first = a->port_low + (hash + (unsigned)a->number * CONTROL_PORTS) % (n - take + 1);
    (void)snprintf(buf, cap, "%u-%u", first, first + take - 1);
}

static void add_network(struct args *l, const struct attempt *a)
{
    char network[64], number[32];

    if (a->n_gang == 1) {
        mca(l, "oob_tcp_if_include", "lo");
        mca(l, "btl", "self,vader");
        return;
    }
    common_network(a, network, sizeof(network));
    if (network[0]) {
        mca(l, "oob_tcp_if_include", network);
        mca(l, "btl_tcp_if_include", network);
    }
    if (a->port_low) {
        control_ports(a, number, sizeof(number));
        mca(l, "oob_tcp_dynamic_ipv4_ports", number);
        (void)snprintf(number, sizeof(number), "%u", a->port_low);
        mca(l, "btl_tcp_port_min_v4", number);
        (void)snprintf(number, sizeof(number), "%u", a->port_high - a->port_low + 1);
        mca(l, "btl_tcp_port_range_v4", number);
    }
}

static void all(struct args *l, const char *const *words)
{
    for (; *words; words++)
        arg(l, "%s", *words);
}

static void mpirun_args(struct args *l, const struct attempt *a)
{
    static const char *const head[] = {
        "--allow-run-as-root", "--bind-to", "none", "--map-by", "slot",
        "--hostfile",          "hosts",     NULL};
    static const char *const program[] = {
        "longhaul-shim", "--rank", "-",   "--", "./longhaul-worker",
        "job.json",      "--out",  "out", NULL};
    static const char *const resume[] = {"--resume", "resume", NULL};

    arg(l, "%s", a->mpirun);
    all(l, head);
    arg(l, "-np");
    arg(l, "%u", a->n_ranks);
    mca(l, "plm_rsh_agent", "longhaul-shim --agent");
    mca(l, "plm_rsh_no_tree_spawn", "1");
    mca(l, "plm_rsh_pass_environ_mca_params", "0");
    /* orted stays the shim's child, and its words reach the log */
    mca(l, "orte_leave_session_attached", "1");
    mca(l, "oob_tcp_keepalive_time", "5");
    mca(l, "oob_tcp_keepalive_intvl", "2");
    mca(l, "oob_tcp_keepalive_probes", "3");
    if (a->slots >= a->cores)
        mca(l, "mpi_yield_when_idle", "1");
    add_network(l, a);
    all(l, program);
    if (lh_path_exists("resume"))
        all(l, resume);
}

/* Shared memory of the ranks lies in a directory of the attempt's own, so that what killed ranks
 * leave can be removed. */
static int set_shared_memory(const struct attempt *a, struct lh_err *reterr)
{
    char dir[LAUNCH_SHM_MAX];

    if (mkdir(launch_shm_dir(a, dir), 0700) < 0 && errno != EEXIST)
        return 0; /* no /dev/shm here: Open MPI knows what to do then */
    return setenv("OMPI_MCA_btl_vader_backing_directory", dir, 1) < 0
               ? lh_err_set(reterr, -errno, "environment")
               : 0;
}

/* What this node's processes of the attempt find in their environment. */
static int set_environment(const struct attempt *a, struct lh_err *reterr)
{
    char dir[4096], tmp[4200], self[1024], path[8192], slots[16], log_max[24];
    const char *old = getenv("PATH");
    char *slash;

    if (!getcwd(dir, sizeof(dir)))
        return lh_err_set(reterr, -errno, "working directory");
    (void)snprintf(tmp, sizeof(tmp), "%s/tmp", dir);
    (void)lh_sibling_program("longhaul-shim", self, sizeof(self));
    slash = strrchr(self, '/');
    if (slash)
        *slash = '\0';
    (void)snprintf(path, sizeof(path), "%s%s%s", slash ? self : "", slash ? ":" : "",
                   old ? old : "/usr/local/bin:/usr/bin:/bin");
    (void)snprintf(slots, sizeof(slots), "%u", a->slots);
    (void)snprintf(log_max, sizeof(log_max), "%llu", (unsigned long long)a->log_max_bytes);
    if (setenv("LONGHAUL_ATTEMPT_DIR", dir, 1) < 0 ||
        setenv("OMPI_MCA_orte_tmpdir_base", tmp, 1) < 0 || setenv("PATH", path, 1) < 0 ||
        setenv("LONGHAUL_NODE_SLOTS", slots, 1) < 0 || setenv("LONGHAUL_LOG_MAX", log_max, 1) < 0 ||
        (a->cache[0] && setenv("LONGHAUL_CACHE", a->cache, 1) < 0))
        return lh_err_set(reterr, -errno, "environment");
    return set_shared_memory(a, reterr);
}

const char *launch_shm_dir(const struct attempt *a, char buf[static LAUNCH_SHM_MAX])
{
    /* Without the node's name: mpirun hands its OMPI_ variables on to the ranks of all nodes. */
    (void)snprintf(buf, LAUNCH_SHM_MAX, "/dev/shm/longhaul-%s-%llu", a->job,
                   (unsigned long long)a->number);
    return buf;
}

static void child(char *const *argv, const char *procs, int gate, int failed, int log, pid_t parent)
{
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC), cgroup = open(procs, O_WRONLY | O_CLOEXEC),
        code;
    int oom = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    sigset_t none;
    char go;

    (void)!write(cgroup, "0", 1);
    (void)!write(oom, "0", 1); /* daemons may be spared by the kernel; ranks are not to be */
    (void)setsid();
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* without its shim nothing would end it in time */
    if (getppid() != parent || read(gate, &go, 1) != 1)
        _exit(126);
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)dup2(null, STDIN_FILENO);
    (void)dup2(log, STDOUT_FILENO);
    (void)dup2(log, STDERR_FILENO);
    (void)execvp(argv[0], argv);
    code = errno;
    (void)!write(failed, &code, sizeof(code));
    _exit(126);
}

static int record_start(const struct attempt *a, pid_t pid, const char *what, struct lh_err *reterr)
{
    char boot_id[37];
    json_t *o;
    int rc;

    lh_boot_id(boot_id);
    o = json_pack("{s:s, s:I, s:i, s:I, s:s, s:s, s:I}", "job", a->job, "attempt",
                  (json_int_t)a->number, "pid", (int)pid, "start_ticks",
                  (json_int_t)lh_pid_start_ticks(pid), "boot_id", boot_id, "program", what,
                  "started_ms", (json_int_t)lh_now_ms());
    rc = o ? lh_json_save("start.json", o, reterr) : lh_err_set(reterr, -ENOMEM, "start.json");
    json_decref(o);
    return rc;
}

/* The cgroup of what the shim starts, below its own: cgroup.kill there spares the shim. */
static void job_cgroup(const struct attempt *a, const char *file, char *buf, size_t cap)
{
    (void)snprintf(buf, cap, "%s%s%s", a->cgroup, a->cgroup[0] ? "/job" : "",
                   a->cgroup[0] ? file : "");
}

static int spawn(const struct attempt *a, char *const *argv, const char *what, pid_t *ret_pid,
                 struct lh_err *reterr)
{
    int gate[2] = {-1, -1}, failed[2] = {-1, -1}, code = 0, rc = 0;
    int log = open("logs/launch.log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    pid_t self = getpid(), pid = -1;
    char procs[1100];

    job_cgroup(a, "", procs, sizeof(procs));
    if (procs[0])
        (void)mkdir(procs, 0755);
    job_cgroup(a, "/cgroup.procs", procs, sizeof(procs));
    if (log < 0 || pipe2(gate, O_CLOEXEC) < 0 || pipe2(failed, O_CLOEXEC) < 0 || (pid = fork()) < 0)
        rc = lh_err_set(reterr, -errno, "start %s", what);
    if (pid == 0)
        child(argv, procs, gate[0], failed[1], log, self);
    if (rc == 0)
        rc = record_start(a, pid, what, reterr);
    lh_fault("shim.before_exec");
    if (rc == 0 && write(gate[1], "g", 1) != 1)
        rc = lh_err_set(reterr, -errno, "start %s", what);
    for (int *fd = gate; fd < gate + 2; fd++)
        if (*fd >= 0)
            (void)close(*fd); /* a child that was not let go reads the end and leaves */
    if (failed[1] >= 0)
        (void)close(failed[1]);
    if (rc == 0 && read(failed[0], &code, sizeof(code)) == (ssize_t)sizeof(code))
        rc = lh_err_set(reterr, -code, "cannot run '%s' (is openmpi-bin installed?)", argv[0]);
    if (failed[0] >= 0)
        (void)close(failed[0]);
    if (log >= 0)
        (void)close(log);
    if (rc == 0)
        *ret_pid = pid;
    return rc;
}

bool launch_kill_cgroup(const struct attempt *a)
{
    char path[1100];
    bool done;
    int fd;

    job_cgroup(a, "/cgroup.kill", path, sizeof(path));
    fd = path[0] ? open(path, O_WRONLY | O_CLOEXEC) : -1;
    done = fd >= 0 && write(fd, "1", 1) == 1;
    if (fd >= 0)
        (void)close(fd);
    return done;
}

void launch_remove_cgroup(const struct attempt *a)
{
    char path[1100];

    job_cgroup(a, "", path, sizeof(path));
    if (path[0])
        (void)rmdir(path);
}

int launch_mpirun(const struct attempt *a, pid_t *ret_pid, struct lh_err *reterr)
{
    struct args l = {0};
    int rc = write_hosts(a, reterr);

    if (rc == 0)
        rc = set_environment(a, reterr);
    if (rc < 0)
        return rc;
    lh_arena_init(&l.arena, 256u << 10);
    mpirun_args(&l, a);
    rc = l.failed ? lh_err_set(reterr, -E2BIG, "mpirun's command line")
                  : spawn(a, l.at, "mpirun", ret_pid, reterr);
    lh_arena_release(&l.arena);
    return rc;
}

int launch_orted(const struct attempt *a, const char *command, pid_t *ret_pid,
                 struct lh_err *reterr)
{
    char *argv[] = {"/bin/sh", "-c", NULL, NULL};
    char *copy = strdup(command);
    int rc = copy ? set_environment(a, reterr) : lh_err_set(reterr, -ENOMEM, "orted");

    argv[2] = copy;
    if (rc == 0)
        rc = spawn(a, argv, "orted", ret_pid, reterr);
    free(copy);
    return rc;
}
