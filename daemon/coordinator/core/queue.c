/* queue.c - from submitted to placed: dependencies, feasibility, preflight, and the queue itself.
 *
 * The queue is strict: by priority, then by number; the head waits for its slots and whoever is
 * behind it waits too. Two kinds never stand at the head: a job that no cluster of nodes that are
 * up could hold (it is blocked, `infeasible` or `nodes_down`), and one that waits for its next
 * attempt.
 */
#include "daemon/coordinator/core/table.h"
#include "proto/base/json.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFLIGHT_LOOK_MAX                                                                         \
    64 /* waiting jobs looked at in one step: a full node must not stop the others' */
#define PREFLIGHT_TRIES_MAX 5 /* for the cluster's own failures (storage, network) */

/* ---- dependencies ---------------------------------------------------------------------------- */

enum deps { DEPS_MET, DEPS_WAIT, DEPS_NEVER };

static enum deps dep_state(const struct core *c, const struct dep *d,
                           const struct core_job **ret_job)
{
    const struct entry *t = find_id(c, d->job);
    bool ok;

    *ret_job = t ? &t->pub : NULL;
    if (!t)
        return DEPS_NEVER;
    if (!lh_job_is_final(t->pub.state))
        return DEPS_WAIT;
    ok = t->pub.state == LH_JOB_SUCCEEDED;
    return d->when == LH_WHEN_ANY || ok == (d->when == LH_WHEN_OK) ? DEPS_MET : DEPS_NEVER;
}

/* The worst of all, and the dependency that makes it so. */
static enum deps deps_state(const struct core *c, const struct entry *e, const struct dep **ret_dep,
                            const struct core_job **ret_job)
{
    enum deps worst = DEPS_MET;

    for (unsigned i = 0; i < e->n_deps; i++) {
        const struct core_job *job;
        enum deps s = dep_state(c, &e->deps[i], &job);

        if (s > worst) {
            worst = s;
            *ret_dep = &e->deps[i];
            *ret_job = job;
        }
    }
    return worst;
}

bool queue_is_doomed(const struct core *c, const struct entry *e)
{
    const struct dep *dep;
    const struct core_job *job;

    return deps_state(c, e, &dep, &job) == DEPS_NEVER;
}

static void fail_for_dep(struct core *c, struct entry *e, const struct dep *d,
                         const struct core_job *job)
{
    static const char *const wanted[] = {[LH_WHEN_OK] = "succeed",
                                         [LH_WHEN_NOT_OK] = "end otherwise than succeeded",
                                         [LH_WHEN_ANY] = "end"};
    char detail[320];

    (void)snprintf(detail, sizeof(detail), "Job %s (%s) was to %s, but is %s.", d->job, d->as,
                   wanted[d->when], job ? lh_job_state_name(job->state) : "gone");
    job_fail(c, e, error_json("dependency", "app", d->implicit ? "" : "/after", detail), "after");
}

/* ---- a blocked job, looked at afresh --------------------------------------------------------- */

static bool fits(struct core *c, struct entry *e)
{
    const struct lh_job *job = e->pub.job;
    unsigned slots = (unsigned)job->resources.slots;

    if (place_gang(c, job, PLACE_UP, NULL))
        return true;
    list_move(c, e, LIST_PARKED);
    if (c->n_nodes == 0)
        job_note(c, e, "no_nodes", "No node has registered yet; start longhaul-node on a machine.");
    else if (place_gang(c, job, PLACE_ANY, NULL))
        job_note(c, e, "nodes_down", "Needs %u %s slots; nodes that hold them are down or drained.",
                 slots, lh_device_name(job->resources.device));
    else
        job_note(c, e, "infeasible",
                 "Needs %u %s slots, more than all known nodes have; it starts when such nodes "
                 "register.",
                 slots, lh_device_name(job->resources.device));
    return false;
}

void queue_enter(struct core *c, struct entry *e)
{
    const struct dep *dep = NULL;
    const struct core_job *job = NULL;

    assert(e->pub.state == LH_JOB_BLOCKED);
    switch (deps_state(c, e, &dep, &job)) {
    case DEPS_NEVER:
        fail_for_dep(c, e, dep, job);
        return;
    case DEPS_WAIT:
        list_move(c, e, LIST_AFTER);
        job_note(c, e, "after", "Waits for job %s (%s), which is %s.", dep->job, dep->as,
                 lh_job_state_name(job->state));
        return;
    case DEPS_MET:
        break;
    }
    if (!fits(c, e))
        return;
    if (e->pub.plan) { /* its preflight has passed before */
        job_move(c, e, LH_JOB_EV_READY, "order", "Waits for its turn.");
        list_move(c, e, LIST_QUEUE);
        c->queue_changed = true;
        return;
    }
    list_move(c, e, LIST_PREFLIGHT_WAIT);
    job_note(c, e, "preflight", "Waits until its inputs are staged and its plan is made.");
}

/* ---- preflight ------------------------------------------------------------------------------- */

/* The nodes that the gang would use on the empty cluster, when all can take one more. */
static bool preflight_send(struct core *c, struct entry *e)
{
    struct gang g = {.n = 0};
    json_t *inputs, *error = NULL;

    if (!place_gang(c, e->pub.job, PLACE_UP, &g)) {
        queue_enter(c, e); /* parks it */
        return false;
    }
    for (unsigned i = 0; i < g.n; i++) {
        const struct node *n = g.at[i].node;

        if (!n->registered || n->pub.state != LH_NODE_UP || n->preflights >= CORE_PREFLIGHTS_MAX) {
            gang_release(&g);
            return false;
        }
    }
    inputs = command_inputs(c, e, &error);
    if (!inputs) {
        gang_release(&g);
        job_fail(c, e, error, "preflight");
        return false;
    }
    json_decref(inputs);
    list_move(c, e, LIST_PREFLIGHT);
    e->preflight = core_alloc(g.n * sizeof(*e->preflight));
    e->n_preflight = g.n;
    for (unsigned i = 0; i < g.n; i++) {
        copy_text(e->preflight[i].node, sizeof(e->preflight[i].node), g.at[i].node->pub.name);
        g.at[i].node->preflights++;
        command_preflight(c, e, g.at[i].node->pub.name);
    }
    gang_release(&g);
    return true;
}

void queue_leave_preflight(struct core *c, struct entry *e)
{
    for (unsigned i = 0; i < e->n_preflight; i++) {
        struct node *n = find_node(c, e->preflight[i].node);

        if (n && !e->preflight[i].answered && n->preflights > 0)
            n->preflights--;
    }
    free(e->preflight);
    e->preflight = NULL;
    e->n_preflight = 0;
}

static void preflight_again(struct core *c, struct entry *e, uint64_t wait_ms)
{
    queue_leave_preflight(c, e);
    e->preflight_after_ms = c->now_ms + wait_ms;
    queue_enter(c, e);
}

void queue_preflight_node_gone(struct core *c, struct node *n)
{
    struct entry *next;

    for (struct entry *e = c->lists[LIST_PREFLIGHT].first; e; e = next) {
        next = e->next;
        for (unsigned i = 0; i < e->n_preflight; i++)
            if (strcmp(e->preflight[i].node, n->pub.name) == 0) {
                preflight_again(c, e, 0);
                break;
            }
    }
    n->preflights = 0;
}

static void preflight_failed(struct core *c, struct entry *e, const struct node *n,
                             const json_t *problem)
{
    const char *class = lh_json_str(problem, "class", "app");
    const char *detail = lh_json_str(problem, "detail", "the preflight failed without saying why");
    bool ours = strcmp(class, "infra") == 0 || strcmp(class, "storage") == 0;

    if (ours && ++e->preflight_tries < PREFLIGHT_TRIES_MAX) {
        uint64_t wait = c->config.retry_base_ms << e->preflight_tries;

        job_note(c, e, "preflight", "The preflight on %s is tried again: %s", n->pub.name, detail);
        preflight_again(c, e, LH_MIN(wait, c->config.retry_max_ms));
        return;
    }
    queue_leave_preflight(c, e);
    job_fail(c, e,
             error_json(lh_json_str(problem, "code", "preflight"), class,
                        lh_json_str(problem, "pointer", ""), detail),
             "preflight");
}

void queue_preflight_report(struct core *c, struct node *n, const json_t *report)
{
    struct entry *e = find_id(c, lh_json_str(report, "job", ""));
    struct preflight_node *at = NULL;
    bool all = true;

    for (unsigned i = 0; e && i < e->n_preflight; i++)
        if (strcmp(e->preflight[i].node, n->pub.name) == 0)
            at = &e->preflight[i];
    if (!at || at->answered)
        return; /* stale */
    assert(e->list == LIST_PREFLIGHT);
    if (!lh_json_bool(report, "ok", 0)) {
        preflight_failed(c, e, n, json_object_get(report, "problem"));
        return;
    }
    at->answered = true;
    if (n->preflights > 0)
        n->preflights--;
    for (unsigned i = 0; i < e->n_preflight; i++)
        all = all && e->preflight[i].answered;
    if (!all)
        return;
    queue_leave_preflight(c, e);
    json_decref(e->pub.plan);
    e->pub.plan = json_is_object(json_object_get(report, "plan"))
                      ? json_deep_copy(json_object_get(report, "plan"))
                      : json_object();
    list_move(c, e, LIST_QUEUE);
    change_row_add(job_move(c, e, LH_JOB_EV_READY, "order", "Waits for its turn."), "job_plan",
                   row_job_plan(e));
    c->queue_changed = true;
}

static void preflight_run(struct core *c)
{
    struct entry *next;
    unsigned looked = 0;

    for (struct entry *e = c->lists[LIST_PREFLIGHT_WAIT].first; e && looked < PREFLIGHT_LOOK_MAX;
         e = next, looked++) {
        next = e->next;
        if (e->preflight_after_ms <= c->now_ms)
            (void)preflight_send(c, e);
    }
}

/* ---- the queue ------------------------------------------------------------------------------- */

static void schedule(struct core *c)
{
    struct entry *next;

    for (struct entry *e = c->lists[LIST_QUEUE].first; e; e = next) {
        struct gang g = {.n = 0};

        next = e->next;
        if (e->not_before_ms > c->now_ms)
            continue;
        if (place_gang(c, e->pub.job, PLACE_FREE, &g)) {
            attempt_start(c, e, &g);
            gang_release(&g);
        } else if (!place_gang(c, e->pub.job, PLACE_UP, NULL)) {
            list_move(c, e, LIST_PARKED);
            job_move(c, e, LH_JOB_EV_BLOCK, "", "%s", "");
            queue_enter(c, e);
        } else {
            break; /* the head waits, and all behind it */
        }
    }
}

/* Jobs whose dependencies or nodes changed. A job that fails here may decide others: until nothing
 * changes. */
static void look_again(struct core *c)
{
    struct entry *next;

    while (c->deps_changed || c->capacity_changed) {
        bool deps = c->deps_changed, capacity = c->capacity_changed;

        c->deps_changed = c->capacity_changed = false;
        for (struct entry *e = deps ? c->lists[LIST_AFTER].first : NULL; e; e = next) {
            next = e->next;
            queue_enter(c, e);
        }
        for (struct entry *e = capacity ? c->lists[LIST_PARKED].first : NULL; e; e = next) {
            next = e->next;
            queue_enter(c, e);
        }
        c->queue_changed = true;
    }
}

void queue_run(struct core *c)
{
    do {
        look_again(c);
        preflight_run(c);
    } while (c->deps_changed); /* an input that is missing failed its job */
    if (c->queue_changed)
        schedule(c);
    c->queue_changed = false;
}

unsigned core_queue_position(const struct core *c, const struct core_job *j)
{
    unsigned position = 1;

    if (j->state != LH_JOB_QUEUED)
        return 0;
    for (const struct entry *e = c->lists[LIST_QUEUE].first; e; e = e->next, position++)
        if (&e->pub == j)
            return position;
    return 0;
}

unsigned core_unmet(const struct core *c, const struct core_job *j, unsigned max,
                    const struct core_job **ret_jobs)
{
    const struct entry *e = entry_of(j);
    unsigned n = 0;

    for (unsigned i = 0; i < e->n_deps && n < max; i++) {
        const struct core_job *job;
        bool seen = false;

        if (dep_state(c, &e->deps[i], &job) != DEPS_WAIT)
            continue;
        for (unsigned k = 0; k < n; k++)
            seen = seen || ret_jobs[k] == job;
        if (!seen)
            ret_jobs[n++] = job;
    }
    return n;
}

void core_explain(const struct core *c, const struct core_job *j, uint64_t wall_ms,
                  char ret_reason[static 64], char ret_detail[static 320])
{
    const struct entry *head = c->lists[LIST_QUEUE].first;

    copy_text(ret_reason, 64, j->reason);
    copy_text(ret_detail, 320, j->detail);
    if (j->state != LH_JOB_QUEUED)
        return;
    while (head && head->pub.not_before_ms > wall_ms)
        head = head->next;
    if (j->not_before_ms > wall_ms) {
        copy_text(ret_reason, 64, "retry_wait");
    } else if (head && &head->pub != j) {
        copy_text(ret_reason, 64, "order");
        (void)snprintf(ret_detail, 320, "Waits behind job %llu (%s), the head of the queue.",
                       (unsigned long long)head->pub.number, head->pub.id);
    } else {
        unsigned free_slots = 0;

        for (unsigned i = 0; i < c->n_nodes; i++)
            if (c->nodes[i]->pub.state == LH_NODE_UP &&
                c->nodes[i]->pub.slots > c->nodes[i]->pub.slots_used)
                free_slots += c->nodes[i]->pub.slots - c->nodes[i]->pub.slots_used;
        copy_text(ret_reason, 64, "resources");
        (void)snprintf(ret_detail, 320, "Is next; needs %lld slots, %u are free.",
                       (long long)j->job->resources.slots, free_slots);
    }
}
