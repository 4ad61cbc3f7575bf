/* run.c - what all kinds share while they run: agreement between ranks, stop requests, phases, exit
 * codes. */
#include "worker/run.h"
#include "proto/base/clock.h"
#include "proto/base/fs.h"
#include "proto/base/str.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Five phase events a second are plenty for someone who watches the start, one a second for the
 * rest. */
#define PHASE_EVERY_MS 200
#define PHASE_EVERY_LATER_MS 1000
#define PHASE_LATER_MS 10000

int run_path(const char *uri, const char *pointer, char ret_path[static 1024],
             struct lh_err *reterr)
{
    struct lh_uri parsed;
    int rc = lh_uri_parse(uri, &parsed, reterr);

    if (rc == 0 && parsed.scheme != LH_URI_FILE)
        rc = lh_err_set(
            reterr, LH_EJOB,
            "'%s' is not a local path; a node fetches such inputs before it starts a worker", uri);
    if (rc < 0) {
        if (reterr)
            (void)snprintf(reterr->pointer, sizeof(reterr->pointer), "%s", pointer);
        return rc;
    }
    (void)snprintf(ret_path, 1024, "%s", parsed.path);
    return 0;
}

int run_point(int rc, const char *pointer, struct lh_err *reterr)
{
    if (rc < 0 && reterr && !*reterr->pointer)
        (void)snprintf(reterr->pointer, sizeof(reterr->pointer), "%s", pointer);
    return rc;
}

int run_agree(struct run *r, int rc, struct lh_err *reterr)
{
    struct comm *c = r->comm;
    struct lh_err shared = {0};
    /* The lowest failing rank wins: its distance from the end is the largest. */
    int64_t first = rc < 0 ? c->size - c->rank : 0;
    int got;

    if (c->size == 1)
        return r->agreed_code = rc < 0 ? rc : 0;
    got = c->ops->max_i64(c, &first, 1, reterr);
    if (got < 0)
        return got;
    if (first == 0)
        return 0;
    if (rc < 0 && reterr)
        shared = *reterr;
    shared.code = rc;
    got = c->ops->broadcast(c, &shared, sizeof(shared), (int)(c->size - first), reterr);
    if (got < 0)
        return got;
    if (reterr)
        *reterr = shared;
    return r->agreed_code = shared.code;
}

int run_same(struct run *r, const char *what, const char *hex, struct lh_err *reterr)
{
    char mine[LH_SHA256_HEX] = "", first[LH_SHA256_HEX];
    int rc;

    (void)snprintf(mine, sizeof(mine), "%s", hex);
    memcpy(first, mine, sizeof(first));
    rc = r->comm->ops->broadcast(r->comm, first, sizeof(first), 0, reterr);
    if (rc < 0)
        return rc;
    if (memcmp(first, mine, sizeof(first)) != 0)
        rc = lh_err_set(reterr, LH_EINPUT,
                        "rank %d has another %s (%.12s...) than rank 0 (%.12s...); "
                        "every node must see the same files",
                        r->comm->rank, what, mine, first);
    return run_agree(r, rc, reterr);
}

static bool stop_file_there(const struct run *r)
{
    char path[1100];

    (void)snprintf(path, sizeof(path), "%s/stop", r->out_dir);
    return lh_path_exists(path);
}

bool run_stopping(struct run *r)
{
    if (!r->stop_wanted && stop_file_there(r))
        r->stop_wanted = 1;
    return r->stop_wanted != 0;
}

int run_poll(struct run *r, bool *ret_checkpoint, bool *ret_stop, struct lh_err *reterr)
{
    int64_t wanted[2] = {r->checkpoint_wanted, 0};
    int rc;

    if (wanted[0])
        r->checkpoint_wanted =
            0; /* a second request that comes before this one is served is the same one */
    wanted[1] = run_stopping(r);
    rc = r->comm->ops->max_i64(r->comm, wanted, 2, reterr);
    if (rc < 0)
        return rc;
    if (wanted[1])
        r->agreed_code = LH_ESTOPPED;
    *ret_checkpoint = wanted[0] != 0;
    *ret_stop = wanted[1] != 0;
    return 0;
}

void run_phase(struct run *r, const char *name, int64_t done, int64_t of, const char *unit)
{
    uint64_t now = lh_mono_ms();
    uint64_t every = now - r->start_ms < PHASE_LATER_MS ? PHASE_EVERY_MS : PHASE_EVERY_LATER_MS;
    bool edge = done == of || strcmp(name, r->phase_name) != 0;

    lh_report_beat(r->reporter);
    if (r->comm->rank != 0)
        return;
    if (!edge && now - r->phase_ms < every)
        return;
    r->phase_ms = now;
    (void)snprintf(r->phase_name, sizeof(r->phase_name), "%s", name);
    lh_report(r->reporter, "phase",
              json_pack("{s:s, s:I, s:I, s:s}", "name", name, "done", (json_int_t)done, "of",
                        (json_int_t)of, "unit", unit));
}

enum worker_exit run_exit_code(int rc)
{
    switch (rc) {
    case 0:
        return EXIT_DONE;
    case LH_EJOB:
    case LH_ENOTSUP:
    case LH_ENOFIT:
        return EXIT_BAD_JOB;
    case LH_EINPUT:
    case -ENOENT:
    case -EACCES:
    case -EPERM:
    case -EISDIR:
    case -EINVAL: /* a device or a FIFO where a file should be */
    case -EFBIG:
    case -ENOTDIR:
    case -EEXIST:
    case -ELOOP:
    case -ENAMETOOLONG:
        return EXIT_BAD_INPUT;
    case LH_ETRYAGAIN: /* and what a full disk, a lack of memory or a bad network does: the next
                          node may do better */
    case -ENOSPC:
    case -EDQUOT:
    case -EIO:
    case -ENOMEM:
    case -EAGAIN:
    case -ESTALE:
    case -EROFS:
    case -EMFILE:
    case -ENFILE:
        return EXIT_TRY_AGAIN;
    case LH_ESTOPPED:
        return EXIT_STOPPED;
    case LH_ENONFINITE:
        return EXIT_NOT_FINITE;
    default:
        return EXIT_INTERNAL;
    }
}

const char *run_error_name(int rc)
{
    /* An errno is what an input file has (then it is the user's), or what the machine has. */
    if (rc > LH_EJOB)
        return run_exit_code(rc) == EXIT_BAD_INPUT  ? "bad_input"
               : run_exit_code(rc) == EXIT_INTERNAL ? "internal"
                                                    : "io";
    return lh_err_name(rc);
}
