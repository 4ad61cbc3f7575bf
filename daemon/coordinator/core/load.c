/* load.c - the way back from the store's rows to the tables, at start.
 *
 * What was monotonic time before the restart is counted afresh from now; what nodes were told is
 * told again when they register.
 */
#include "daemon/coordinator/core/table.h"
#include "proto/base/json.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t u64(const json_t *row, const char *key)
{
    int64_t v = lh_json_i64(row, key, 0);

    return v > 0 ? (uint64_t)v : 0;
}

#define TEXT(to, row, key) copy_text((to), sizeof(to), lh_json_str((row), (key), ""))

/* A JSON column. Its depth was checked when it came in. */
static json_t *parsed(const json_t *row, const char *key)
{
    const char *text = lh_json_str(row, key, NULL);
    json_t *v = NULL;

    if (text && lh_json_parse(text, strlen(text), LH_JOB_DEPTH_MAX + 8, &v, NULL) < 0)
        return NULL;
    return v;
}

static int bad(struct lh_err *reterr, const char *table, const json_t *row, const char *what)
{
    return lh_err_set(
        reterr, LH_ESTATE, "the database holds a row of table %s (%s) that makes no sense: %s",
        table, lh_json_str(row, "id", lh_json_str(row, "job", lh_json_str(row, "name", "?"))),
        what);
}

static void load_deps(struct entry *e, const json_t *row)
{
    LH_CLEANUP(lh_json_decrefp) json_t *all = parsed(row, "deps");
    size_t i;
    json_t *d;

    e->deps = core_alloc(json_array_size(all) * sizeof(*e->deps));
    json_array_foreach(all, i, d)
    {
        struct dep *dep = &e->deps[e->n_deps++];
        const char *when = lh_json_str(d, "when", "ok");

        TEXT(dep->job, d, "job");
        dep->as = core_strdup(lh_json_str(d, "as", ""));
        dep->when = strcmp(when, "any") == 0      ? LH_WHEN_ANY
                    : strcmp(when, "not_ok") == 0 ? LH_WHEN_NOT_OK
                                                  : LH_WHEN_OK;
        dep->implicit = lh_json_bool(d, "implicit", 0);
    }
}

static int load_job(struct core *c, const json_t *row, struct lh_err *reterr)
{
    struct entry *e = core_alloc(sizeof(*e));
    LH_CLEANUP(lh_json_decrefp) json_t *spec = parsed(row, "spec");
    struct core_job *j = &e->pub;
    int state = lh_job_state_parse(lh_json_str(row, "state", ""));
    int rc;

    if (state < 0 || !spec || u64(row, "number") == 0 || find_number(c, u64(row, "number")) ||
        find_id(c, lh_json_str(row, "id", ""))) {
        entry_free(e);
        return bad(reterr, "job", row, "state, spec or number");
    }
    rc = lh_job_parse(spec, &j->job, NULL, reterr);
    if (rc < 0) {
        entry_free(e);
        return lh_err_prefix(reterr, rc, "the stored job %s", lh_json_str(row, "id", "?"));
    }
    TEXT(j->id, row, "id");
    TEXT(j->reason, row, "reason");
    TEXT(j->detail, row, "detail");
    j->number = u64(row, "number");
    j->revision = u64(row, "revision");
    j->principal = core_strdup(lh_json_str(row, "principal", ""));
    j->state = (enum lh_job_state)state;
    j->submitted_ms = u64(row, "submitted_ms");
    j->started_ms = u64(row, "started_ms");
    j->ended_ms = u64(row, "ended_ms");
    j->not_before_ms = u64(row, "not_before_ms");
    j->cancel = u64(row, "cancel") != 0;
    j->plan = parsed(row, "plan");
    j->result = parsed(row, "result");
    j->error = parsed(row, "error");
    if (j->not_before_ms > c->wall_ms) /* a clock that went back must not stretch a wait */
        e->not_before_ms =
            c->now_ms + LH_MIN(j->not_before_ms - c->wall_ms, c->config.retry_max_ms);
    load_deps(e, row);
    entry_insert(c, e);
    return 0;
}

static int load_attempt(struct core *c, const json_t *row, struct lh_err *reterr)
{
    struct entry *e = find_id(c, lh_json_str(row, "job", ""));
    int state = lh_attempt_state_parse(lh_json_str(row, "state", ""));
    struct core_attempt *a;
    struct core_job *j;

    if (!e || state < 0)
        return bad(reterr, "attempt", row, "job or state");
    j = &e->pub;
    if (j->n_attempts > 0 && j->attempts[j->n_attempts - 1].number >= u64(row, "number"))
        return bad(reterr, "attempt", row, "numbers do not grow");
    j->attempts = core_grow(j->attempts, j->n_attempts + 1, sizeof(*j->attempts));
    a = &j->attempts[j->n_attempts++];
    memset(a, 0, sizeof(*a));
    a->number = u64(row, "number");
    a->state = (enum lh_attempt_state)state;
    TEXT(a->outcome, row, "outcome");
    TEXT(a->class, row, "class");
    TEXT(a->stop_reason, row, "stop_reason");
    a->allocated_ms = u64(row, "allocated_ms");
    a->started_ms = u64(row, "started_ms");
    a->ended_ms = u64(row, "ended_ms");
    a->exit = parsed(row, "exit");
    json_decref(e->failure);
    json_decref(e->orted);
    e->failure = parsed(row, "failure");
    e->orted = parsed(row, "orted");
    return 0;
}

static int load_claim(struct core *c, const json_t *row, struct lh_err *reterr)
{
    struct entry *e = find_id(c, lh_json_str(row, "job", ""));
    uint64_t number = u64(row, "attempt"), position = u64(row, "position"), slot = u64(row, "slot");
    struct core_attempt *a = NULL;
    struct core_claim *k;

    for (unsigned i = 0; e && i < e->pub.n_attempts; i++)
        if (e->pub.attempts[i].number == number)
            a = &e->pub.attempts[i];
    if (!a || slot >= CORE_SLOTS_MAX || position > a->n_claims)
        return bad(reterr, "claim", row, "attempt, slot or position");
    if (position == a->n_claims) {
        a->claims = core_grow(a->claims, a->n_claims + 1, sizeof(*a->claims));
        memset(&a->claims[a->n_claims++], 0, sizeof(*a->claims));
    }
    k = &a->claims[position];
    TEXT(k->node, row, "node");
    k->prepared = u64(row, "prepared") != 0;
    k->cleaned = u64(row, "cleaned") != 0;
    k->slot_mask[slot / 64] |= (uint64_t)1 << (slot % 64);
    k->slots++;
    return 0;
}

static int load_checkpoint(struct core *c, const json_t *row, struct lh_err *reterr)
{
    struct entry *e = find_id(c, lh_json_str(row, "job", ""));
    struct core_checkpoint *k;
    struct core_job *j;

    if (!e)
        return bad(reterr, "checkpoint", row, "unknown job");
    j = &e->pub;
    j->checkpoints = core_grow(j->checkpoints, j->n_checkpoints + 1, sizeof(*j->checkpoints));
    k = &j->checkpoints[j->n_checkpoints++];
    memset(k, 0, sizeof(*k));
    k->attempt = u64(row, "attempt");
    k->step = lh_json_i64(row, "step", -1);
    TEXT(k->output, row, "output");
    TEXT(k->state, row, "state");
    TEXT(k->uri, row, "uri");
    TEXT(k->manifest_sha256, row, "manifest_sha256");
    TEXT(k->error, row, "error");
    k->bytes = u64(row, "bytes");
    k->time_ms = u64(row, "time_ms");
    count_checkpoint(c, k, 1);
    return 0;
}

static int load_node(struct core *c, const json_t *row, struct lh_err *reterr)
{
    int state = lh_node_state_parse(lh_json_str(row, "state", ""));
    struct core_node *n;

    if (state < 0 || u64(row, "slots") > CORE_SLOTS_MAX ||
        find_node(c, lh_json_str(row, "name", "")))
        return bad(reterr, "node", row, "state, slots or name");
    n = &node_add(c, lh_json_str(row, "name", ""))->pub;
    TEXT(n->agent_id, row, "agent_id");
    TEXT(n->boot_id, row, "boot_id");
    TEXT(n->version, row, "version");
    TEXT(n->hostname, row, "hostname");
    TEXT(n->address, row, "address");
    TEXT(n->device, row, "device");
    TEXT(n->reason, row, "reason");
    n->state = (enum lh_node_state)state;
    n->slots = (unsigned)u64(row, "slots");
    n->cores = (unsigned)u64(row, "cores");
    n->memory_bytes = u64(row, "memory_bytes");
    n->registered_ms = u64(row, "registered_ms");
    n->seen_ms = c->now_ms; /* our own absence is nobody's fault */
    return 0;
}

int core_load(struct core *c, const char *table, const json_t *row, struct lh_err *reterr)
{
    if (strcmp(table, "node") == 0)
        return load_node(c, row, reterr);
    if (strcmp(table, "job") == 0)
        return load_job(c, row, reterr);
    if (strcmp(table, "attempt") == 0)
        return load_attempt(c, row, reterr);
    if (strcmp(table, "claim") == 0)
        return load_claim(c, row, reterr);
    if (strcmp(table, "checkpoint") == 0)
        return load_checkpoint(c, row, reterr);
    if (strcmp(table, "idem_key") == 0) {
        idem_load(c, row);
        return 0;
    }
    return lh_err_set(reterr, LH_EINTERNAL, "core_load: no table '%s'", table);
}

/* Puts a job back to where it waits, and its live claims onto their nodes. */
static void place_loaded(struct core *c, struct entry *e)
{
    struct core_job *j = &e->pub;

    if (!lh_job_is_final(j->state))
        retire_hold_deps(c, e, 1);
    for (unsigned i = 0; i < j->n_attempts; i++) {
        struct core_attempt *a = &j->attempts[i];
        bool lost = a->state == LH_ATTEMPT_LOST, dirty = false;

        for (unsigned k = 0; k < a->n_claims; k++) {
            struct node *n = find_node(c, a->claims[k].node);

            if (a->claims[k].cleaned || !n)
                continue;
            claim_slots(n, &a->claims[k]);
            dirty = true;
        }
        if (lost && dirty) {
            c->dirty = core_grow(c->dirty, c->n_dirty + 1, sizeof(*c->dirty));
            c->dirty[c->n_dirty++] = (struct dirty){.entry = e, .attempt = i};
        }
    }
    if (j->cancel && j->state <= LH_JOB_QUEUED) {
        list_move(c, e, LIST_CANCEL);
        return;
    }
    switch (j->state) {
    case LH_JOB_HELD:
        list_move(c, e, LIST_HELD);
        break;
    case LH_JOB_BLOCKED:
        list_move(c, e, LIST_AFTER); /* all are looked at afresh */
        break;
    case LH_JOB_QUEUED:
        list_move(c, e, LIST_QUEUE);
        break;
    case LH_JOB_STARTING:
    case LH_JOB_RUNNING:
    case LH_JOB_STOPPING:
        list_move(c, e, LIST_ACTIVE);
        attempt_arm(c, e);
        break;
    default: /* ended */
        break;
    }
}

static int by_end(const void *a, const void *b)
{
    const struct core_job *x = &(*(struct entry *const *)a)->pub,
                          *y = &(*(struct entry *const *)b)->pub;

    return x->ended_ms != y->ended_ms ? (x->ended_ms < y->ended_ms ? -1 : 1)
                                      : (x->number < y->number ? -1 : x->number > y->number);
}

void core_loaded(struct core *c, uint64_t last_seq, uint64_t last_number)
{
    struct entry **done = core_alloc(c->n_jobs * sizeof(struct entry *));
    unsigned n_done = 0;

    c->seq = last_seq;
    c->last_number = LH_MAX(c->last_number, last_number);
    for (unsigned i = 0; i < c->n_jobs; i++) {
        place_loaded(c, c->jobs[i]);
        if (lh_job_is_final(c->jobs[i]->pub.state))
            done[n_done++] = c->jobs[i];
    }
    qsort(done, n_done, sizeof(struct entry *), by_end);
    for (unsigned i = 0; i < n_done; i++)
        list_move(c, done[i], LIST_DONE);
    free(done);
    c->deps_changed = c->queue_changed = true;
}

int core_recall(struct core *c, const json_t *rows, struct lh_err *reterr)
{
    struct entry *e = NULL;
    size_t i;
    json_t *pair;

    json_array_foreach(rows, i, pair)
    {
        const json_t *row = json_array_get(pair, 1);
        int rc = core_load(c, json_string_value(json_array_get(pair, 0)), row, reterr);

        if (rc < 0)
            return rc;
        if (i == 0)
            e = find_id(c, lh_json_str(row, "id", ""));
    }
    if (e) {
        place_loaded(c, e);
        list_move(c, e, LIST_DONE);
    }
    return 0;
}
