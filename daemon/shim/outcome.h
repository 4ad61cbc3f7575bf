/* outcome.h - what an attempt's end means: pure, from the records of the ranks, their journals and
 * mpirun's status.
 *
 * mpirun's exit code is lossy (137 is a killed rank or a rank that said 137; 1 is a signal to
 * mpirun or a rank that said 1), so it is asked last.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct rank_record {
    unsigned rank;
    bool started, ended;
    int pid;
    int exit, signal;              /* signal 0: it exited by itself */
    uint64_t started_ms, ended_ms; /* wall clock */
};

/* Why the shim ended the attempt, when it did. */
enum stop_cause {
    STOP_NONE,
    STOP_REQUEST, /* the coordinator asked */
    STOP_WALL,    /* the wall limit */
    STOP_LEASE,   /* the lease was not renewed */
    STOP_HANG,    /* no rank made progress */
    STOP_SIGNAL,  /* the shim itself was told to go (a machine that shuts down) */
};

/* The worker's exit code after a requested stop. Parents of ranks tell mpirun 0 instead: to any
 * other code it answers with an abort, which takes some seconds. */
#define WORKER_STOPPED 85

struct outcome_facts {
    enum stop_cause cause;
    bool launched; /* mpirun was started */
    int launcher_exit, launcher_signal;
    uint64_t launcher_ended_ms;
    const struct rank_record *ranks; /* of this node */
    unsigned n_ranks;
    int worker_exit; /* the exit code that the last `done` or `error` event stands for, -1: none */
};

struct outcome {
    const char *outcome; /* ok failed stopped timed_out */
    const char *class;   /* app infra launch storage hang, "" */
    int exit;            /* the exit code that explains it, -1: none */
    int signal;
    int rank;         /* the rank that failed first, -1: not known */
    const char *code; /* stable name of the error when no worker told one; "" for ok */
};

struct outcome outcome_decide(const struct outcome_facts *f);
const char *
stop_cause_name(enum stop_cause cause); /* "", "request", "wall", "lease", "hang", "signal" */
