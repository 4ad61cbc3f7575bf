/* retry.c - what follows the end of an attempt: the job's own end, or another attempt after a
 * pause.
 *
 * Each class of failure has a budget of its own, so that a bad week of the cluster does not use up
 * what a user granted for their program. The program's verdicts (bad job, bad input, loss not
 * finite) are final: the same input gives the same verdict.
 */
#include "daemon/coordinator/core/table.h"
#include "proto/base/json.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LAUNCH_BUDGET 5
#define STORAGE_BUDGET 5
#define HANG_BUDGET 2
#define NO_PROGRESS_MAX 3 /* attempts that ran and left no higher checkpoint */

static unsigned budget_of(const struct lh_job *job, const char *class)
{
    if (strcmp(class, "app") == 0)
        return (unsigned)job->retry.app;
    if (strcmp(class, "launch") == 0)
        return LAUNCH_BUDGET;
    if (strcmp(class, "storage") == 0)
        return STORAGE_BUDGET;
    if (strcmp(class, "hang") == 0)
        return HANG_BUDGET;
    return (unsigned)job->retry.infra;
}

static unsigned failures_of(const struct core_job *j, const char *class)
{
    unsigned n = 0;

    for (unsigned i = 0; i < j->n_attempts; i++)
        n += strcmp(j->attempts[i].class, class) == 0;
    return n;
}

/* Of the attempts that ran, how many of the last ones left no checkpoint above all earlier ones. */
static unsigned without_progress(const struct core_job *j)
{
    int64_t best = -1;
    unsigned n = 0;

    for (unsigned i = 0; i < j->n_attempts; i++) {
        int64_t step = -1;

        if (j->attempts[i].started_ms == 0)
            continue;
        for (unsigned k = 0; k < j->n_checkpoints; k++)
            if (j->checkpoints[k].attempt == j->attempts[i].number &&
                strcmp(j->checkpoints[k].state, "done") == 0)
                step = LH_MAX(step, j->checkpoints[k].step);
        n = step > best ? 0 : n + 1;
        best = LH_MAX(best, step);
    }
    return n;
}

/* The job's error, from the exit record or from what the coordinator saw. */
static json_t *error_of(const struct entry *e, const struct core_attempt *a, const char *class)
{
    const json_t *said = json_object_get(a->exit, "error");
    json_t *error;
    char detail[320];

    if (e->failure)
        return json_copy(e->failure);
    if (json_is_object(said)) {
        error = json_deep_copy(said);
        (void)json_object_set_new(error, "class", json_string(class));
        if (!json_is_string(json_object_get(error, "detail")))
            (void)json_object_set_new(error, "detail",
                                      json_string("the attempt failed without saying why"));
        return error;
    }
    if (json_is_string(said))
        return error_json(a->outcome, class, "", json_string_value(said));
    (void)snprintf(detail, sizeof(detail), "Attempt %llu ended: %s, exit code %lld.",
                   (unsigned long long)a->number, a->outcome,
                   (long long)lh_json_i64(a->exit, "exit", -1));
    return error_json(a->outcome, class, "", detail);
}

static void fail(struct core *c, struct entry *e, const struct core_attempt *a, const char *class,
                 const char *reason)
{
    job_fail(c, e, error_of(e, a, class), reason);
}

static void requeue(struct core *c, struct entry *e, const struct core_attempt *a,
                    const char *class)
{
    struct core_job *j = &e->pub;
    uint64_t wait = c->config.retry_base_ms;
    LH_CLEANUP(lh_json_decrefp) json_t *error = error_of(e, a, class);

    for (unsigned i = 1; i < j->n_attempts && wait < c->config.retry_max_ms; i++)
        wait *= 2;
    wait = LH_MIN(wait, c->config.retry_max_ms);
    wait = wait ? core_random(c) % (wait + 1)
                : 0; /* full jitter: a cluster's worth of retries spreads out */
    e->not_before_ms = c->now_ms + wait;
    j->not_before_ms = c->wall_ms + wait;
    job_move(c, e, LH_JOB_EV_REQUEUE, "retry_wait",
             "Attempt %llu ended (%s); the next one starts in %.1f s at the earliest: %s",
             (unsigned long long)a->number, class[0] ? class : a->outcome, (double)wait / 1000,
             lh_json_str(error, "detail", ""));
    list_move(c, e, LIST_QUEUE);
    c->queue_changed = true;
}

static void decide_failure(struct core *c, struct entry *e, struct core_attempt *a)
{
    struct core_job *j = &e->pub;
    const char *class = a->class[0] ? a->class : "infra";
    int64_t code = lh_json_i64(a->exit, "exit", -1);

    if (strcmp(class, "app") == 0 && (code == 64 || code == 65 || code == 86))
        fail(c, e, a, class, "verdict");
    else if (failures_of(j, class) > budget_of(j->job, class))
        fail(c, e, a, class, j->n_attempts > 1 ? "retries_used_up" : "failed");
    else if (j->job->kind == LH_KIND_TRAIN && without_progress(j) >= NO_PROGRESS_MAX)
        fail(c, e, a, "no_progress", "no_progress");
    else
        requeue(c, e, a, class);
}

void retry_decide(struct core *c, struct entry *e, struct core_attempt *a)
{
    struct core_job *j = &e->pub;
    bool limit = strcmp(a->stop_reason, "time_limit") == 0 || strcmp(a->outcome, "timed_out") == 0;

    assert(lh_attempt_is_final(a->state));
    if (strcmp(a->outcome, "ok") == 0) {
        job_move(c, e, LH_JOB_EV_SUCCEED, "", "%s", "");
    } else if (j->cancel) {
        job_move(c, e, LH_JOB_EV_CANCEL, "user", "Cancelled; all its processes are gone.");
    } else if (limit) {
        json_decref(j->error);
        j->error = error_json("time_limit", "app", "/limits/wall_s",
                              "The job ran for limits.wall_s seconds.");
        job_move(c, e, LH_JOB_EV_TIME_OUT, "time_limit", "Ran for limits.wall_s (%lld s).",
                 (long long)j->job->limits.wall_s);
    } else {
        decide_failure(c, e, a);
    }
    json_decref(e->failure);
    json_decref(e->orted);
    e->failure = e->orted = NULL;
}
