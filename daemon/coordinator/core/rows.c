/* rows.c - jobs, attempts, claims, checkpoints and nodes as rows of the store, and the event rows
 * that carry them.
 *
 * The column names here are those of store/schema.c. load.c reads the same rows back.
 */
#include "daemon/coordinator/core/table.h"
#include "proto/base/json.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void copy_text(char *to, size_t cap, const char *from)
{
    size_t n = strlen(from);

    if (n >= cap) {
        n = cap - 1;
        while (n > 0 && ((unsigned char)from[n] & 0xc0) == 0x80) /* not inside a character */
            n--;
    }
    memmove(to, from, n);
    to[n] = '\0';
}

static json_t *number(uint64_t v)
{
    return json_integer((json_int_t)v);
}

/* A JSON column: text, or null. */
static json_t *text_of(const json_t *value)
{
    char *text;
    json_t *s;

    if (!value)
        return json_null();
    text = lh_json_text(value, 0);
    if (!text)
        abort();
    s = json_string(text);
    free(text);
    return s;
}

static json_t *deps_text(const struct entry *e)
{
    static const char *const whens[] = {
        [LH_WHEN_OK] = "ok", [LH_WHEN_NOT_OK] = "not_ok", [LH_WHEN_ANY] = "any"};
    json_t *all = json_array(), *text;

    for (unsigned i = 0; i < e->n_deps; i++)
        (void)json_array_append_new(all, json_pack("{s:s,s:s,s:s,s:b}", "job", e->deps[i].job, "as",
                                                   e->deps[i].as, "when", whens[e->deps[i].when],
                                                   "implicit", e->deps[i].implicit));
    text = text_of(all);
    json_decref(all);
    return text;
}

json_t *row_job_update(const struct entry *e)
{
    const struct core_job *j = &e->pub;
    json_t *row = json_object();

    (void)json_object_set_new(row, "id", json_string(j->id));
    (void)json_object_set_new(row, "revision", number(j->revision));
    (void)json_object_set_new(row, "state", json_string(lh_job_state_name(j->state)));
    (void)json_object_set_new(row, "reason", json_string(j->reason));
    (void)json_object_set_new(row, "detail", json_string(j->detail));
    (void)json_object_set_new(row, "started_ms", number(j->started_ms));
    (void)json_object_set_new(row, "ended_ms", number(j->ended_ms));
    (void)json_object_set_new(row, "not_before_ms", number(j->not_before_ms));
    (void)json_object_set_new(row, "cancel", json_integer(j->cancel));
    (void)json_object_set_new(row, "error", text_of(j->error));
    return row;
}

/* Plans and results can be large, so they do not ride on every update. */
json_t *row_job_plan(const struct entry *e)
{
    return json_pack("{s:s,s:o}", "id", e->pub.id, "plan", text_of(e->pub.plan));
}

json_t *row_job_result(const struct entry *e)
{
    return json_pack("{s:s,s:o}", "id", e->pub.id, "result", text_of(e->pub.result));
}

json_t *row_job(const struct entry *e)
{
    const struct core_job *j = &e->pub;
    json_t *row = row_job_update(e);

    (void)json_object_set_new(row, "number", number(j->number));
    (void)json_object_set_new(row, "name", json_string(j->job->name));
    (void)json_object_set_new(row, "kind", json_string(lh_kind_name(j->job->kind)));
    (void)json_object_set_new(row, "principal", json_string(j->principal));
    (void)json_object_set_new(row, "spec", text_of(j->job->spec));
    (void)json_object_set_new(row, "deps", deps_text(e));
    (void)json_object_set_new(row, "submitted_ms", number(j->submitted_ms));
    return row;
}

json_t *row_attempt(const struct entry *e, const struct core_attempt *a)
{
    const struct core_job *j = &e->pub;
    bool live = a == &j->attempts[j->n_attempts - 1];
    json_t *row = json_object();

    (void)json_object_set_new(row, "job", json_string(j->id));
    (void)json_object_set_new(row, "number", number(a->number));
    (void)json_object_set_new(row, "state", json_string(lh_attempt_state_name(a->state)));
    (void)json_object_set_new(row, "outcome", json_string(a->outcome));
    (void)json_object_set_new(row, "class", json_string(a->class));
    (void)json_object_set_new(row, "allocated_ms", number(a->allocated_ms));
    (void)json_object_set_new(row, "started_ms", number(a->started_ms));
    (void)json_object_set_new(row, "ended_ms", number(a->ended_ms));
    (void)json_object_set_new(row, "stop_reason", json_string(a->stop_reason));
    (void)json_object_set_new(row, "exit", text_of(a->exit));
    (void)json_object_set_new(row, "failure", text_of(live ? e->failure : NULL));
    (void)json_object_set_new(row, "orted", text_of(live ? e->orted : NULL));
    return row;
}

void rows_claim(struct change_event *ev, const struct core_job *j, const struct core_attempt *a,
                unsigned i)
{
    const struct core_claim *k = &a->claims[i];

    assert(i < a->n_claims);
    for (unsigned slot = 0; slot < CORE_SLOTS_MAX; slot++)
        if (k->slot_mask[slot / 64] >> (slot % 64) & 1)
            change_row_add(ev, "claim",
                           json_pack("{s:s,s:I,s:s,s:I,s:I,s:i,s:i}", "job", j->id, "attempt",
                                     (json_int_t)a->number, "node", k->node, "slot",
                                     (json_int_t)slot, "position", (json_int_t)i, "prepared",
                                     (int)k->prepared, "cleaned", (int)k->cleaned));
}

json_t *row_checkpoint(const struct core_job *j, const struct core_checkpoint *k)
{
    json_t *row = json_object();

    (void)json_object_set_new(row, "job", json_string(j->id));
    (void)json_object_set_new(row, "attempt", number(k->attempt));
    (void)json_object_set_new(row, "step", json_integer(k->step));
    (void)json_object_set_new(row, "output", json_string(k->output));
    (void)json_object_set_new(row, "state", json_string(k->state));
    (void)json_object_set_new(row, "uri", json_string(k->uri));
    (void)json_object_set_new(row, "manifest_sha256", json_string(k->manifest_sha256));
    (void)json_object_set_new(row, "bytes", number(k->bytes));
    (void)json_object_set_new(row, "time_ms", number(k->time_ms));
    (void)json_object_set_new(row, "error", json_string(k->error));
    return row;
}

json_t *row_node(const struct core_node *n)
{
    json_t *row = json_object();

    (void)json_object_set_new(row, "name", json_string(n->name));
    (void)json_object_set_new(row, "agent_id", json_string(n->agent_id));
    (void)json_object_set_new(row, "boot_id", json_string(n->boot_id));
    (void)json_object_set_new(row, "version", json_string(n->version));
    (void)json_object_set_new(row, "hostname", json_string(n->hostname));
    (void)json_object_set_new(row, "address", json_string(n->address));
    (void)json_object_set_new(row, "device", json_string(n->device));
    (void)json_object_set_new(row, "state", json_string(lh_node_state_name(n->state)));
    (void)json_object_set_new(row, "reason", json_string(n->reason));
    (void)json_object_set_new(row, "slots", number(n->slots));
    (void)json_object_set_new(row, "cores", number(n->cores));
    (void)json_object_set_new(row, "memory_bytes", number(n->memory_bytes));
    (void)json_object_set_new(row, "registered_ms", number(n->registered_ms));
    return row;
}

struct change_event *log_event(struct core *c, const char *type, const char *job, uint64_t attempt,
                               json_t *data)
{
    struct entry *e = job ? find_id(c, job) : NULL;

    assert(c->fx);
    if (e)
        e->last_seq = c->seq + 1;
    return change_event_add(&c->fx->changes, ++c->seq, c->wall_ms, type, job, attempt, data);
}

struct change_event *log_job(struct core *c, struct entry *e, const char *type)
{
    struct core_job *j = &e->pub;
    struct change_event *ev;
    json_t *data;

    j->revision++;
    data = json_pack("{s:I,s:s,s:s,s:s,s:s,s:I}", "number", (json_int_t)j->number, "name",
                     j->job->name, "state", lh_job_state_name(j->state), "reason", j->reason,
                     "detail", j->detail, "revision", (json_int_t)j->revision);
    if (j->error && lh_job_is_final(j->state))
        (void)json_object_set_new(data, "error",
                                  json_deep_copy(j->error)); /* not shared with the writer */
    ev = log_event(c, type, j->id, 0, data);
    change_row_add(ev, "job_update", row_job_update(e));
    return ev;
}
