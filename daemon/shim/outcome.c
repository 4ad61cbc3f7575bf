/* outcome.c - see outcome.h. */
#include "daemon/shim/outcome.h"
#include <signal.h>
#include <stddef.h>

/* What longhaul-worker's exit codes stand for (spec: events.md). */
enum {
    WORKER_BAD_JOB = 64,
    WORKER_BAD_INPUT = 65,
    WORKER_INTERNAL = 70,
    WORKER_TRY_AGAIN = 75,
    WORKER_NOT_FINITE = 86,
    MPIRUN_LOST_DAEMON = 205
};

static bool is_worker_code(int code)
{
    return code == WORKER_BAD_JOB || code == WORKER_BAD_INPUT || code == WORKER_INTERNAL ||
           code == WORKER_TRY_AGAIN || code == WORKER_STOPPED || code == WORKER_NOT_FINITE;
}

/* The rank that failed first. What ended after mpirun was ended with it, and explains nothing. */
static const struct rank_record *first_failure(const struct outcome_facts *f)
{
    const struct rank_record *first = NULL;

    for (unsigned i = 0; i < f->n_ranks; i++) {
        const struct rank_record *r = &f->ranks[i];

        if (!r->ended || (r->exit == 0 && r->signal == 0) || r->ended_ms > f->launcher_ended_ms)
            continue;
        if (!first || r->ended_ms < first->ended_ms)
            first = r;
    }
    return first;
}

static unsigned count_started(const struct outcome_facts *f)
{
    unsigned n = 0;

    for (unsigned i = 0; i < f->n_ranks; i++)
        n += f->ranks[i].started;
    return n;
}

static struct outcome by_code(int code, int rank)
{
    struct outcome o = {"failed", "app", code, 0, rank, "rank_exit"};

    if (code == WORKER_TRY_AGAIN)
        o.class = "infra";
    if (code == WORKER_STOPPED) {
        o.outcome = "stopped";
        o.class = "";
        o.code = "stopped";
    }
    return o;
}

/* Nobody asked for the end: who began it? */
static struct outcome decide_failure(const struct outcome_facts *f)
{
    const struct rank_record *r = first_failure(f);
    int launcher = f->launcher_signal ? 0 : f->launcher_exit;

    if (f->worker_exit > 0)
        return by_code(f->worker_exit, r ? (int)r->rank : -1);
    if (launcher == MPIRUN_LOST_DAEMON)
        return (struct outcome){"failed", "infra", launcher, 0, -1, "node_lost"};
    /* Ranks that mpirun ends with the others die of TERM or KILL: then mpirun knows better who was
     * first, on another node or by MPI_Abort. */
    if (r && (r->signal == SIGTERM || r->signal == SIGKILL) && launcher > 0 &&
        launcher != 128 + r->signal) {
        if (is_worker_code(launcher))
            return by_code(launcher, -1);
        if (launcher > 128 && launcher < 128 + 65)
            return (struct outcome){"failed", "app", -1, launcher - 128, -1, "rank_signal"};
        return (struct outcome){"failed", "app", launcher, 0, -1, "rank_exit"};
    }
    if (r && r->signal)
        return (struct outcome){"failed", "app", -1, r->signal, (int)r->rank, "rank_signal"};
    if (r)
        return by_code(r->exit, (int)r->rank);
    if (f->launcher_signal)
        return (struct outcome){"failed", "infra", -1, f->launcher_signal, -1, "launcher_lost"};
    if (count_started(f) == 0)
        return (struct outcome){"failed", "launch", launcher, 0, -1, "launch_failed"};
    if (is_worker_code(launcher))
        return by_code(launcher, -1);
    if (launcher > 128 && launcher < 128 + 65) /* a rank of another node */
        return (struct outcome){"failed", "app", -1, launcher - 128, -1, "rank_signal"};
    return (struct outcome){"failed", "infra", launcher, 0, -1, "launcher_failed"};
}

struct outcome outcome_decide(const struct outcome_facts *f)
{
    struct outcome o;

    if (f->launched && f->launcher_exit == 0 && f->launcher_signal == 0 && f->worker_exit != WORKER_STOPPED &&
        !first_failure(f))
        return (struct outcome){"ok", "", 0, 0, -1, ""};
    switch (f->cause) {
    case STOP_NONE:
        return f->launched ? decide_failure(f)
                           : (struct outcome){"failed", "launch", -1, 0, -1, "launch_failed"};
    case STOP_HANG:
        return (struct outcome){"failed", "hang", -1, 0, -1, "hang"};
    case STOP_REQUEST:
    case STOP_WALL:
    case STOP_LEASE:
    case STOP_SIGNAL:
        break;
    }
    o = f->launched ? decide_failure(f) : (struct outcome){"stopped", "", -1, 0, -1, "stopped"};
    o.outcome = f->cause == STOP_WALL ? "timed_out" : "stopped";
    o.class = f->cause == STOP_LEASE || f->cause == STOP_SIGNAL ? "infra" : "";
    o.code = f->cause == STOP_WALL    ? "wall_limit"
             : f->cause == STOP_LEASE ? "lease_expired"
                                      : "stopped";
    return o;
}

const char *stop_cause_name(enum stop_cause cause)
{
    static const char *const names[] = {"", "request", "wall", "lease", "hang", "signal"};

    return names[cause];
}
