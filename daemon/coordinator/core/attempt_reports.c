/* attempt_reports.c - what nodes say of their attempts: prepared, running, exited, cleaned.
 *
 * Called by core.c for each report. A report is told again until it is acknowledged, so each may
 * come twice, and late: what does not fit the state of the attempt is passed over.
 */
#include "daemon/coordinator/core/table.h"
#include "proto/base/json.h"
#include <stdio.h>
#include <string.h>

static void on_prepared(struct core *c, struct entry *e, struct core_attempt *a, unsigned claim)
{
    struct change_event *ev;

    if (a->claims[claim].prepared || a->state != LH_ATTEMPT_ALLOCATED)
        return;
    a->claims[claim].prepared = true;
    ev = log_event(c, "claim.prepared", e->pub.id, a->number,
                   json_pack("{s:s}", "node", a->claims[claim].node));
    rows_claim(ev, &e->pub, a, claim);
    for (unsigned i = 0; i < a->n_claims; i++)
        if (!a->claims[i].prepared)
            return;
    attempt_move(c, e, a, LH_ATTEMPT_EV_PREPARED);
    attempt_move(c, e, a, LH_ATTEMPT_EV_LAUNCH);
    command_launch(c, e);
}

static void on_prepare_failed(struct core *c, struct entry *e, const char *node,
                              const json_t *report)
{
    const json_t *problem = json_object_get(report, "problem");
    const char *detail = lh_json_str(problem, "detail", "a node could not prepare the attempt");
    char text[512];

    (void)snprintf(text, sizeof(text), "%s: %s", node, detail);
    attempt_stop(c, e, "prepare_failed",
                 error_json(lh_json_str(problem, "code", "prepare"),
                            lh_json_str(report, "class", "infra"),
                            lh_json_str(problem, "pointer", ""), text));
}

static void on_orted(struct core *c, struct entry *e, struct core_attempt *a, const json_t *report)
{
    const char *node = lh_json_str(report, "node", ""),
               *command = lh_json_str(report, "command", "");
    bool member = false;
    size_t i;
    json_t *known;

    for (unsigned k = 1; k < a->n_claims; k++)
        member = member || strcmp(a->claims[k].node, node) == 0;
    if (!member || !command[0] ||
        (a->state != LH_ATTEMPT_LAUNCHING && a->state != LH_ATTEMPT_RUNNING))
        return;
    json_array_foreach(e->orted, i,
                       known) if (strcmp(lh_json_str(known, "node", ""), node) == 0) return;
    if (!e->orted)
        e->orted = json_array();
    (void)json_array_append_new(e->orted, json_pack("{s:s,s:s}", "node", node, "command", command));
    attempt_log(c, e, a, "attempt.orted");
    command_add(c, node,
                json_pack("{s:s,s:s,s:I,s:s}", "type", "orted", "job", e->pub.id, "attempt",
                          (json_int_t)a->number, "command", command));
}

static void on_exited(struct core *c, struct entry *e, struct core_attempt *a, const json_t *report)
{
    LH_CLEANUP(lh_json_decrefp)
    json_t *told = a->exit; /* ranks of members that were clean before */
    const json_t *result = json_object_get(report, "result");
    struct change_event *ev;

    a->exit = json_deep_copy(report);
    (void)json_object_del(a->exit, "id");
    attempt_take_ranks(a, json_object_get(told, "ranks"));
    copy_text(a->outcome, sizeof(a->outcome), lh_json_str(report, "outcome", "failed"));
    copy_text(a->class, sizeof(a->class), lh_json_str(report, "class", ""));
    if (e->failure &&
        strcmp(a->outcome, "ok") != 0) /* why it was stopped counts, not how it took that */
        copy_text(a->class, sizeof(a->class), lh_json_str(e->failure, "class", "infra"));
    if (!a->class[0] &&
        strcmp(a->outcome, "ok") != 0) /* every failure counts against some budget */
        copy_text(a->class, sizeof(a->class), strcmp(a->outcome, "failed") == 0 ? "app" : "infra");
    if (json_is_object(result)) {
        json_decref(e->pub.result);
        e->pub.result = json_deep_copy(result);
    }
    ev = attempt_move(c, e, a, LH_ATTEMPT_EV_EXITED);
    if (json_is_object(result))
        change_row_add(ev, "job_result", row_job_result(e));
    for (unsigned i = 1; i < a->n_claims;
         i++) /* the head's shim has cleaned up; members wait for this */
        if (!a->claims[i].cleaned)
            command_stop(c, e, a, i, "exited");
}

static void on_running(struct core *c, struct entry *e, struct core_attempt *a)
{
    if (a->state != LH_ATTEMPT_LAUNCHING)
        return;
    attempt_move(c, e, a, LH_ATTEMPT_EV_RUNNING);
    job_move(c, e, LH_JOB_EV_STARTED, "", "%s", "");
}

void attempt_report(struct core *c, struct node *n, const char *type, const json_t *report)
{
    struct entry *e = find_id(c, lh_json_str(report, "job", ""));
    uint64_t number = (uint64_t)lh_json_i64(report, "attempt", 0);
    struct core_attempt *a = NULL;
    unsigned claim = 0;

    for (unsigned i = 0; e && i < e->pub.n_attempts; i++)
        if (e->pub.attempts[i].number == number)
            a = &e->pub.attempts[i];
    while (a && claim < a->n_claims && strcmp(a->claims[claim].node, n->pub.name) != 0)
        claim++;
    if (!a || claim == a->n_claims)
        return; /* not this node's business */
    if (strcmp(type, "checkpoint") == 0 || strcmp(type, "upload") == 0) {
        checkpoint_report(c, e, type, report);
        return;
    }
    if (strcmp(type, "cleaned") == 0) {
        if (!a->claims[claim].cleaned) {
            attempt_take_ranks(a, json_object_get(report, "ranks"));
            attempt_claim_cleaned(c, e, a, claim, "claim.cleaned");
        }
        if (a == live_attempt(e))
            attempt_settle(c, e);
        else
            command_forget(c, n->pub.name, e->pub.id, number);
        return;
    }
    if (a != live_attempt(e) || a->state == LH_ATTEMPT_EXITED)
        return; /* stale */
    if (strcmp(type, "prepared") == 0) {
        on_prepared(c, e, a, claim);
    } else if (strcmp(type, "prepare_failed") == 0) {
        on_prepare_failed(c, e, n->pub.name, report);
    } else if (claim == 0 && strcmp(type, "running") == 0) {
        on_running(c, e, a);
    } else if (claim == 0 && strcmp(type, "orted_wanted") == 0) {
        on_orted(c, e, a, report);
    } else if (claim == 0 && strcmp(type, "exited") == 0) {
        on_exited(c, e, a, report);
        attempt_settle(c, e);
    }
}
