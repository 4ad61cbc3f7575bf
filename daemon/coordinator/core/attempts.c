/* attempts.c - the life of an attempt, from claimed slots to processes that are gone.
 *
 *     allocated ──all prepared──> prepared ──> launching ──all ranks──> running
 *         └────────────┴──────stop──────┴──────────────────────────────────┤
 *                                │                                   exited (head)
 *                             stopping ──exited (head)──> exited <─────────┘
 *                                │ nothing was launched      │ every node is clean
 *                                └────────> cleaned <────────┘      a node is down: lost
 *
 * Stops come from users, limits, failures to prepare or launch, and lost nodes.
 * An attempt that was launched ends with the head's exit record, or with the head itself. Slots are
 * freed claim by claim, by the node's `cleaned`, or when the node has been down past its lease. A
 * lost attempt is over for its job, which goes on elsewhere: what is left of it cannot publish
 * under its number. A cancelled job alone waits for the lease, because cancelled says that its
 * ranks are gone.
 */
#include "daemon/coordinator/core/table.h"
#include "proto/base/json.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct core_attempt *live_attempt(struct entry *e)
{
    struct core_job *j = &e->pub;
    struct core_attempt *a = j->n_attempts ? &j->attempts[j->n_attempts - 1] : NULL;

    return a && !lh_attempt_is_final(a->state) ? a : NULL;
}

struct change_event *attempt_log(struct core *c, struct entry *e, struct core_attempt *a,
                                 const char *type)
{
    json_t *nodes = json_array();
    struct change_event *ev;

    for (unsigned i = 0; i < a->n_claims; i++)
        (void)json_array_append_new(nodes, json_pack("{s:s,s:i}", "node", a->claims[i].node,
                                                     "slots", (int)a->claims[i].slots));
    e->pub.revision++;
    ev =
        log_event(c, type, e->pub.id, a->number,
                  json_pack("{s:s,s:s,s:s,s:s,s:o,s:I}", "state", lh_attempt_state_name(a->state),
                            "outcome", a->outcome, "class", a->class, "stop_reason", a->stop_reason,
                            "nodes", nodes, "revision", (json_int_t)e->pub.revision));
    change_row_add(ev, "attempt", row_attempt(e, a));
    change_row_add(ev, "job_update", row_job_update(e));
    return ev;
}

struct change_event *attempt_move(struct core *c, struct entry *e, struct core_attempt *a,
                                  enum lh_attempt_event event)
{
    int to = lh_attempt_next(a->state, event);
    char type[CHANGE_TYPE_MAX];

    assert(to >= 0);
    a->state = (enum lh_attempt_state)to;
    if (a->state == LH_ATTEMPT_RUNNING)
        a->started_ms = c->wall_ms;
    if (a->state >= LH_ATTEMPT_EXITED && a->ended_ms == 0)
        a->ended_ms = c->wall_ms;
    (void)snprintf(type, sizeof(type), "attempt.%s", lh_attempt_state_name(a->state));
    attempt_arm(c, e);
    return attempt_log(c, e, a, type);
}

uint64_t attempt_wall_left_ms(const struct core *c, const struct entry *e)
{
    const struct core_job *j = &e->pub;
    uint64_t limit = (uint64_t)j->job->limits.wall_s * 1000, used = 0;

    if (limit == 0)
        return UINT64_MAX;
    for (unsigned i = 0; i < j->n_attempts; i++) {
        const struct core_attempt *a = &j->attempts[i];
        uint64_t end = a->ended_ms ? a->ended_ms : c->wall_ms;

        if (a->started_ms && end > a->started_ms)
            used += end - a->started_ms;
    }
    return used < limit ? limit - used : 0;
}

void attempt_arm(struct core *c, struct entry *e)
{
    const struct core_attempt *a = live_attempt(e);
    uint64_t left;

    e->deadline_ms = 0;
    if (!a)
        return;
    switch (a->state) {
    case LH_ATTEMPT_ALLOCATED:
    case LH_ATTEMPT_PREPARED:
        e->deadline_ms = c->now_ms + c->config.prepare_ms;
        break;
    case LH_ATTEMPT_LAUNCHING:
        e->deadline_ms = c->now_ms + c->config.launch_ms;
        break;
    case LH_ATTEMPT_RUNNING:
        left = attempt_wall_left_ms(c, e);
        if (left != UINT64_MAX)
            e->deadline_ms = c->now_ms + left + c->config.wall_slack_ms; /* the shim goes first */
        break;
    default:
        break;
    }
}

void attempt_start(struct core *c, struct entry *e, const struct gang *g)
{
    struct core_job *j = &e->pub;
    uint64_t number = j->n_attempts ? j->attempts[j->n_attempts - 1].number + 1 : 1;
    struct core_attempt *a;
    struct change_event *ev;

    assert(!live_attempt(e));
    j->attempts = core_grow(j->attempts, j->n_attempts + 1, sizeof(*j->attempts));
    a = &j->attempts[j->n_attempts++];
    memset(a, 0, sizeof(*a));
    a->number = number;
    a->state = LH_ATTEMPT_ALLOCATED;
    a->allocated_ms = c->wall_ms;
    a->n_claims = g->n;
    a->claims = core_alloc(g->n * sizeof(*a->claims));
    for (unsigned i = 0; i < g->n; i++) {
        struct core_claim *k = &a->claims[i];

        copy_text(k->node, sizeof(k->node), g->at[i].node->pub.name);
        k->slots = g->at[i].slots;
        pick_slots(g->at[i].node, k->slots, k->slot_mask);
        claim_slots(g->at[i].node, k);
    }
    attempt_arm(c, e);
    ev = attempt_log(c, e, a, "attempt.allocated");
    for (unsigned i = 0; i < a->n_claims; i++)
        rows_claim(ev, j, a, i);
    j->not_before_ms = e->not_before_ms = 0;
    e->head_gone = false;
    list_move(c, e, LIST_ACTIVE);
    job_move(c, e, LH_JOB_EV_PLACED, "starting", "Attempt %llu is being prepared on %u node%s.",
             (unsigned long long)number, g->n, g->n == 1 ? "" : "s");
    for (unsigned i = 0; i < g->n; i++)
        command_prepare(c, e, i);
}

void attempt_stop(struct core *c, struct entry *e, const char *reason, json_t *failure)
{
    struct core_attempt *a = live_attempt(e);

    if (!a || a->state >= LH_ATTEMPT_STOPPING) {
        json_decref(failure);
        return;
    }
    copy_text(a->stop_reason, sizeof(a->stop_reason), reason);
    json_decref(e->failure);
    e->failure = failure;
    attempt_move(c, e, a, LH_ATTEMPT_EV_STOP);
    for (unsigned i = 0; i < a->n_claims; i++)
        if (!a->claims[i].cleaned)
            command_stop(c, e, a, i, reason);
}

void attempt_claim_cleaned(struct core *c, struct entry *e, struct core_attempt *a, unsigned claim,
                           const char *type)
{
    struct core_claim *k = &a->claims[claim];
    struct node *n = find_node(c, k->node);
    struct change_event *ev;

    assert(!k->cleaned);
    k->cleaned = true;
    if (n)
        free_slots(n, k);
    ev = log_event(c, type, e->pub.id, a->number,
                   json_pack("{s:s,s:i}", "node", k->node, "slots", (int)k->slots));
    rows_claim(ev, &e->pub, a, claim);
    if (a->exit)
        change_row_add(ev, "attempt", row_attempt(e, a));
    c->queue_changed = true;
    if (e->list == LIST_CANCEL)
        job_cancel_waiting(c, e);
}

/* Down so long that the attempt has ended itself: lease, 2 % drift of clocks, time to kill. */
static bool past_lease(const struct core *c, const struct entry *e, const struct node *n)
{
    uint64_t lease = e->pub.job->limits.lease_s ? (uint64_t)e->pub.job->limits.lease_s * 1000
                                                : c->config.lease_ms;

    return n->pub.state == LH_NODE_DOWN &&
           c->now_ms - n->pub.seen_ms >
               lease + lease / 50 + c->config.stop_grace_ms + c->config.down_ms;
}

void dirty_tick(struct core *c)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < c->n_dirty; i++) {
        struct entry *e = c->dirty[i].entry;
        struct core_attempt *a = &e->pub.attempts[c->dirty[i].attempt];
        bool left = false;

        for (unsigned k = 0; k < a->n_claims; k++) {
            const struct node *n = find_node(c, a->claims[k].node);

            if (a->claims[k].cleaned)
                continue;
            if (!n || past_lease(c, e, n))
                attempt_claim_cleaned(c, e, a, k, "claim.expired");
            else
                left = true;
        }
        if (left)
            c->dirty[kept++] = c->dirty[i];
    }
    c->n_dirty = kept;
}

static void finish(struct core *c, struct entry *e, struct core_attempt *a,
                   enum lh_attempt_event event)
{
    unsigned n_dirty = 0;

    if (!a->outcome[0]) { /* it ended without an exit record */
        bool lost = event == LH_ATTEMPT_EV_LOST;

        copy_text(a->outcome, sizeof(a->outcome),
                  lost         ? "lost"
                  : e->failure ? "failed"
                               : "stopped");
        copy_text(a->class, sizeof(a->class), lh_json_str(e->failure, "class", "infra"));
    }
    attempt_move(c, e, a, event);
    for (unsigned i = 0; i < a->n_claims; i++) {
        if (a->claims[i].cleaned)
            command_forget(c, a->claims[i].node, e->pub.id, a->number);
        else
            n_dirty++;
    }
    if (n_dirty > 0) {
        c->dirty = core_grow(c->dirty, c->n_dirty + 1, sizeof(*c->dirty));
        c->dirty[c->n_dirty++] =
            (struct dirty){.entry = e, .attempt = (unsigned)(a - e->pub.attempts)};
    }
    retry_decide(c, e, a);
}

bool attempt_awaits_exit(const struct core *c, const struct core_attempt *a)
{
    const struct node *head = find_node(c, a->claims[0].node);

    if (a->state >= LH_ATTEMPT_EXITED || !head || head->pub.state == LH_NODE_DOWN)
        return false;
    for (unsigned i = 0; i < a->n_claims; i++)
        if (!a->claims[i].prepared)
            return false; /* it was never launched */
    return true;
}

/* Attempts before the live one that were lost, and may still run on a node that is down. */
static bool older_unclean(const struct core_job *j)
{
    for (unsigned i = 0; i + 1 < j->n_attempts; i++)
        for (unsigned k = 0; k < j->attempts[i].n_claims; k++)
            if (!j->attempts[i].claims[k].cleaned)
                return true;
    return false;
}

void attempt_settle(struct core *c, struct entry *e)
{
    struct core_attempt *a = live_attempt(e);
    bool all_clean = true;

    if (!a || a->state < LH_ATTEMPT_STOPPING)
        return;
    for (unsigned i = 0; i < a->n_claims; i++) {
        const struct node *n = find_node(c, a->claims[i].node);

        if (a->claims[i].cleaned)
            continue;
        all_clean = false;
        if (n && n->pub.state != LH_NODE_DOWN)
            return; /* it will tell */
        if (n && e->pub.cancel && !past_lease(c, e, n))
            return;
    }
    /* The exit record comes when logs and uploads are settled, which may be long after the
     * processes are gone. */
    if (attempt_awaits_exit(c, a) && !e->head_gone)
        return;
    if (e->pub.cancel && strcmp(a->outcome, "ok") != 0 && older_unclean(&e->pub))
        return; /* the next tick looks again */
    finish(c, e, a, all_clean ? LH_ATTEMPT_EV_CLEANED : LH_ATTEMPT_EV_LOST);
}

/* A node of the gang is down, or has come back without the attempt (clean: nothing of it is left
 * there). */
void attempt_node_gone(struct core *c, struct entry *e, struct core_attempt *a, unsigned claim,
                       bool clean)
{
    char detail[320];

    (void)snprintf(detail, sizeof(detail),
                   clean ? "Node %s came back without the attempt that it was working on."
                         : "Node %s was not heard of for too long.",
                   a->claims[claim].node);
    attempt_stop(c, e, "node_lost", error_json("node_lost", "infra", "", detail));
    if (claim == 0)
        e->head_gone = true;
    if (clean && !a->claims[claim].cleaned)
        attempt_claim_cleaned(c, e, a, claim, "claim.cleaned");
    attempt_settle(c, e);
}

void attempt_tick(struct core *c, struct entry *e)
{
    struct core_attempt *a = live_attempt(e);

    if (!a)
        return;
    if (a->state >= LH_ATTEMPT_STOPPING) {
        attempt_settle(c, e);
        return;
    }
    if (e->deadline_ms == 0 || c->now_ms < e->deadline_ms)
        return;
    if (a->state == LH_ATTEMPT_RUNNING) {
        job_move(c, e, LH_JOB_EV_STOP, "time_limit", "Over limits.wall_s (%lld s).",
                 (long long)e->pub.job->limits.wall_s);
        attempt_stop(c, e, "time_limit", NULL);
    } else if (a->state == LH_ATTEMPT_LAUNCHING) {
        attempt_stop(c, e, "launch_timeout",
                     error_json("launch_timeout", "launch", "",
                                "Not all ranks reported in time after the launch."));
    } else {
        attempt_stop(
            c, e, "prepare_timeout",
            error_json("prepare_timeout", "infra", "", "Not all nodes staged the inputs in time."));
    }
}
