/* jobs.c - transitions of jobs, and what users may do to them.
 *
 * job_move is the only place where a job's state changes: it asks the table of proto/state.h,
 * counts, and adds the one event row.
 */
#include "daemon/coordinator/core/table.h"
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void set_reason(struct core_job *j, const char *reason, const char *fmt, va_list ap)
{
    char text[1024];

    (void)vsnprintf(text, sizeof(text), fmt, ap);
    copy_text(j->detail, sizeof(j->detail), text);
    copy_text(j->reason, sizeof(j->reason), reason);
}

struct change_event *job_move(struct core *c, struct entry *e, enum lh_job_event ev,
                              const char *reason, const char *fmt, ...)
{
    struct core_job *j = &e->pub;
    int to = lh_job_next(j->state, ev);
    char type[CHANGE_TYPE_MAX];
    va_list ap;

    assert(to >= 0);
    c->count[j->state]--;
    c->count[to]++;
    j->state = (enum lh_job_state)to;
    va_start(ap, fmt);
    set_reason(j, reason, fmt, ap);
    va_end(ap);
    if (j->state == LH_JOB_RUNNING && j->started_ms == 0)
        j->started_ms = c->wall_ms;
    if (lh_job_is_final(j->state)) {
        j->ended_ms = c->wall_ms;
        j->not_before_ms = 0;
        list_move(c, e, LIST_DONE);
        retire_hold_deps(c, e, -1);
        c->deps_changed = c->queue_changed = true;
    }
    (void)snprintf(type, sizeof(type), "job.%s", lh_job_state_name(j->state));
    return log_job(c, e, type);
}

void job_note(struct core *c, struct entry *e, const char *reason, const char *fmt, ...)
{
    struct core_job *j = &e->pub;
    char type[CHANGE_TYPE_MAX], before[sizeof(j->detail)], was[sizeof(j->reason)];
    va_list ap;

    memcpy(before, j->detail, sizeof(before));
    memcpy(was, j->reason, sizeof(was));
    va_start(ap, fmt);
    set_reason(j, reason, fmt, ap);
    va_end(ap);
    if ((strcmp(before, j->detail) == 0 && strcmp(was, j->reason) == 0) || j->revision == 0)
        return;
    (void)snprintf(type, sizeof(type), "job.%s", lh_job_state_name(j->state));
    log_job(c, e, type);
}

json_t *error_json(const char *code, const char *class, const char *pointer, const char *detail)
{
    return json_pack("{s:s,s:s,s:s,s:s}", "code", code, "class", class, "pointer", pointer,
                     "detail", detail);
}

void job_fail(struct core *c, struct entry *e, json_t *error, const char *reason)
{
    const char *detail = json_string_value(json_object_get(error, "detail"));

    json_decref(e->pub.error);
    e->pub.error = error;
    job_move(c, e, LH_JOB_EV_FAIL, reason, "%s", detail ? detail : "");
}

/* ---- what users do --------------------------------------------------------------------------- */

static void refuse(struct core *c, int status, const char *code, const char *fmt, ...)
    LH_PRINTF(4, 5);

static void refuse(struct core *c, int status, const char *code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(c->fx->detail, sizeof(c->fx->detail), fmt, ap);
    va_end(ap);
    c->fx->status = status;
    c->fx->code = code;
}

/* A claim of a lost attempt whose node has not said that it is clean. */
static const char *unclean_node(const struct core_job *j)
{
    for (unsigned i = 0; i < j->n_attempts; i++)
        for (unsigned k = 0; k < j->attempts[i].n_claims; k++)
            if (!j->attempts[i].claims[k].cleaned)
                return j->attempts[i].claims[k].node;
    return NULL;
}

void job_cancel_waiting(struct core *c, struct entry *e)
{
    const char *node = unclean_node(&e->pub);

    if (node) {
        list_move(c, e, LIST_CANCEL);
        job_note(
            c, e, "cancel",
            "Cancelled; node %s is down and may still run a lost attempt until its lease ends.",
            node);
    } else {
        job_move(c, e, LH_JOB_EV_CANCEL, "user", "Cancelled before it ran%s.",
                 e->pub.n_attempts ? " again" : "");
    }
}

static void cancel(struct core *c, struct entry *e, const char *principal)
{
    struct core_job *j = &e->pub;

    if (j->state == LH_JOB_CANCELLED || j->cancel)
        return;
    if (lh_job_is_final(j->state)) {
        refuse(c, 409, "job_final", "job %s is %s already; there is nothing to cancel", j->id,
               lh_job_state_name(j->state));
        return;
    }
    j->cancel = true;
    if (j->state == LH_JOB_HELD || j->state == LH_JOB_BLOCKED || j->state == LH_JOB_QUEUED) {
        queue_leave_preflight(c, e);
        job_cancel_waiting(c, e);
        return;
    }
    if (j->state != LH_JOB_STOPPING)
        job_move(c, e, LH_JOB_EV_STOP, "cancel",
                 "Cancelled by %s; waits until its processes are gone.", principal);
    attempt_stop(c, e, "cancel", NULL);
    attempt_settle(c, e);
}

static void hold(struct core *c, struct entry *e, const char *principal)
{
    struct core_job *j = &e->pub;

    if (j->state == LH_JOB_HELD)
        return;
    if (j->cancel || (j->state != LH_JOB_BLOCKED && j->state != LH_JOB_QUEUED)) {
        refuse(c, 409, "cannot_hold", "job %s is %s; only a job that waits can be held", j->id,
               j->cancel ? "being cancelled" : lh_job_state_name(j->state));
        return;
    }
    queue_leave_preflight(c, e);
    list_move(c, e, LIST_HELD);
    job_move(c, e, LH_JOB_EV_HOLD, "user", "Held by %s until it is released.", principal);
    c->queue_changed = true; /* it may have been the head */
}

static void release(struct core *c, struct entry *e, const char *principal)
{
    struct core_job *j = &e->pub;

    if (j->state != LH_JOB_HELD || j->cancel) {
        if (lh_job_is_final(j->state))
            refuse(c, 409, "job_final", "job %s is %s already; there is nothing to release", j->id,
                   lh_job_state_name(j->state));
        return;
    }
    job_move(c, e, LH_JOB_EV_RELEASE, "", "Released by %s.", principal);
    queue_enter(c, e);
}

void job_action(struct core *c, const struct core_event *ev)
{
    struct entry *e = find_any(c, ev->u.action.job);
    const char *action = ev->u.action.action, *principal = ev->u.action.principal;

    c->fx->status = 200;
    if (!e) {
        refuse(c, 404, "no_such_job", "there is no job of this id, number or name");
        return;
    }
    if (ev->u.action.if_match && ev->u.action.if_match != e->pub.revision) {
        refuse(c, 412, "revision_mismatch",
               "job %s is at revision %llu, not %llu; look at it again", e->pub.id,
               (unsigned long long)e->pub.revision, (unsigned long long)ev->u.action.if_match);
        return;
    }
    if (strcmp(action, "cancel") == 0)
        cancel(c, e, principal);
    else if (strcmp(action, "hold") == 0)
        hold(c, e, principal);
    else if (strcmp(action, "release") == 0)
        release(c, e, principal);
    else
        refuse(c, 404, "no_such_action", "there is no such action; try cancel, hold or release");
    if (c->fx->status == 200)
        c->fx->body = json_string(e->pub.id);
}
