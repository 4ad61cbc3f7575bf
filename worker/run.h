/* run.h - what every kind of job gets: the spec, the ranks, the back end, a stop flag, a reporter.
 *
 * main.c makes it, one kind function uses it, main.c releases it. Kinds know nothing of queues: a job is a spec, an
 * output directory and a stop flag.
 */
#pragma once
#include "kernels/ops.h"
#include "proto/base/sha256.h"
#include "proto/event.h"
#include "proto/job.h"
#include "worker/parallel/comm.h"
#include "worker/profile.h"
#include <signal.h>
#include <stdbool.h>

/* Exit codes of longhaul-worker (spec: events.md). */
enum worker_exit {
    EXIT_DONE = 0, EXIT_BAD_JOB = 64, EXIT_BAD_INPUT = 65, EXIT_INTERNAL = 70, EXIT_TRY_AGAIN = 75,
    EXIT_STOPPED = 85, EXIT_NOT_FINITE = 86,
};

struct run {
    const struct lh_job *job;
    struct comm *comm;
    const struct kn_ops *ops;
    struct kn_stream *stream;
    struct lh_reporter *reporter;
    const char *out_dir;    /* absolute */
    const char *cache_dir;  /* prepared shards; $LONGHAUL_CACHE, else XDG cache /longhaul */
    const char *resume_dir; /* a checkpoint, or NULL */
    const char *dump_dir;   /* or NULL */
    struct profile *profile; /* NULL: none */
    int threads;            /* of this rank */
    json_t *result;         /* object that ends up in the `done` event */
    int64_t steps;          /* finished, over all attempts; kept by kind train for the `done` event */
    uint64_t start_bytes;   /* the most memory that this process had held when MPI had started; 0: not known */

    char model_digest[LH_SHA256_HEX]; /* of the base model's files; "" for kinds without a model */
    char data_digest[LH_SHA256_HEX];  /* of the training data, set by the kind that opened it; checkpoints compare it */

    /* Set by signals (USR1: checkpoint; TERM, INT: stop after a checkpoint) and by the file OUT/stop. */
    volatile sig_atomic_t checkpoint_wanted, stop_wanted;

    /* Of run.c: the last phase event, and the code that all ranks are known to share. */
    uint64_t start_ms, phase_ms;
    char phase_name[32];
    int agreed_code;
};

/* The path of a local file or directory that a job names (file:///path or a path). LH_EJOB at `pointer` for s3:// and
 * job: addresses, which a node replaces by local ones before a worker sees the job. */
LH_MUST_CHECK int run_path(const char *uri, const char *pointer, char ret_path[static 1024], struct lh_err *reterr);

/* Puts the pointer of a member into the error of a failed call (rc < 0) that does not know it; returns rc. */
int run_point(int rc, const char *pointer, struct lh_err *reterr);

/* Collective, at the borders of stages that may fail on one rank alone (opening files, allocating): with rc 0 on every
 * rank returns 0; else every rank returns the code of the lowest failing rank, with its text in *reterr. An error that
 * one rank returns without this ends the other ranks by comm->abort. */
LH_MUST_CHECK int run_agree(struct run *r, int rc, struct lh_err *reterr);

/* Collective: refuses with LH_EINPUT when `hex` (a digest of `what`, "training data") differs from rank 0's. */
LH_MUST_CHECK int run_same(struct run *r, const char *what, const char *hex, struct lh_err *reterr);

/* The exit code that an error code becomes, and the name of the error in the `error` event. */
enum worker_exit run_exit_code(int rc);
const char *run_error_name(int rc);

/* True on all ranks as soon as any rank saw a request; call once a step, collectively. */
LH_MUST_CHECK int run_poll(struct run *r, bool *ret_checkpoint, bool *ret_stop, struct lh_err *reterr);

/* This rank alone: a signal, or the file OUT/stop. For work between two agreements that need not wait for all. */
bool run_stopping(struct run *r);

/* One `phase` event from rank 0 and a beat: name, done of total, unit ("tokens", "bytes", "windows", "tensors"). */
void run_phase(struct run *r, const char *name, int64_t done, int64_t of, const char *unit);

/* The kinds: 0 or a negative code with *reterr; main.c turns it into the exit code and the last event. */
LH_MUST_CHECK int kind_prepare(struct run *r, struct lh_err *reterr);
LH_MUST_CHECK int kind_train(struct run *r, struct lh_err *reterr);
LH_MUST_CHECK int kind_eval(struct run *r, struct lh_err *reterr);
LH_MUST_CHECK int kind_export(struct run *r, struct lh_err *reterr);
LH_MUST_CHECK int kind_generate(struct run *r, struct lh_err *reterr);
LH_MUST_CHECK int kind_check(struct run *r, struct lh_err *reterr);
