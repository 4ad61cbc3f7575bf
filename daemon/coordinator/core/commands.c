/* commands.c - what nodes are told (proto/spec/node-protocol.md §3). All are idempotent and may be
 * sent again. */
#include "daemon/coordinator/core/table.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void command_add(struct core *c, const char *node, json_t *body)
{
    struct core_effects *fx = c->fx;

    if (fx->n_commands == fx->cap_commands) {
        fx->cap_commands = fx->cap_commands ? 2 * fx->cap_commands : 4;
        fx->commands = core_grow(fx->commands, fx->cap_commands, sizeof(*fx->commands));
    }
    copy_text(fx->commands[fx->n_commands].node, CORE_NODE_NAME_MAX, node);
    fx->commands[fx->n_commands++].body = body;
}

void each_uri(const struct lh_job *job, uri_fn *fn, void *arg)
{
    char pointer[48];

    if (job->model.base)
        fn(arg, "/model/base", job->model.base);
    if (job->model.adapter)
        fn(arg, "/model/adapter", job->model.adapter);
    for (unsigned i = 0; i < job->data.train.n; i++) {
        (void)snprintf(pointer, sizeof(pointer), "/data/train/%u", i);
        fn(arg, pointer, job->data.train.at[i]);
    }
    for (unsigned i = 0; i < job->eval.perplexity.n; i++) {
        (void)snprintf(pointer, sizeof(pointer), "/eval/perplexity/%u", i);
        fn(arg, pointer, job->eval.perplexity.at[i]);
    }
}

struct resolver {
    struct core *c;
    struct entry *e;
    json_t *inputs, *error;
};

static const struct core_job *dep_named(const struct resolver *r, const char *as)
{
    for (unsigned i = 0; i < r->e->n_deps; i++)
        if (strcmp(r->e->deps[i].as, as) == 0) {
            const struct entry *t = find_id(r->c, r->e->deps[i].job);

            return t ? &t->pub : NULL;
        }
    return NULL;
}

static void resolve(void *arg, const char *pointer, const char *text)
{
    struct resolver *r = arg;
    const struct core_checkpoint *k = NULL;
    const struct core_job *job;
    struct lh_uri uri;
    char detail[400];

    if (r->error || lh_uri_parse(text, &uri, NULL) < 0 || uri.scheme == LH_URI_FILE)
        return;
    if (uri.scheme == LH_URI_S3) {
        (void)json_object_set_new(r->inputs, text,
                                  json_pack("{s:s,s:n}", "uri", text, "manifest_sha256"));
        return;
    }
    job = dep_named(r, uri.authority);
    if (job)
        k = newest_done(job, strcmp(uri.path, "checkpoint") == 0 ? NULL : uri.path);
    if (!k) {
        (void)snprintf(detail, sizeof(detail), "Job %.127s has left no stored output '%.100s'.",
                       uri.authority, uri.path);
        lh_utf8_trim(detail);
        r->error = error_json("input_missing", "app", pointer, detail);
        return;
    }
    (void)json_object_set_new(
        r->inputs, text,
        json_pack("{s:s,s:s}", "uri", k->uri, "manifest_sha256", k->manifest_sha256));
}

json_t *command_inputs(struct core *c, struct entry *e, json_t **ret_error)
{
    struct resolver r = {.c = c, .e = e, .inputs = json_object()};

    each_uri(e->pub.job, resolve, &r);
    if (!r.error)
        return r.inputs;
    json_decref(r.inputs);
    *ret_error = r.error;
    return NULL;
}

static json_t *inputs_or_none(struct core *c, struct entry *e)
{
    json_t *error = NULL, *inputs = command_inputs(c, e, &error);

    json_decref(error);
    return inputs ? inputs : json_object();
}

void command_preflight(struct core *c, struct entry *e, const char *node)
{
    command_add(c, node,
                json_pack("{s:s,s:s,s:O,s:o}", "type", "preflight", "job", e->pub.id, "spec",
                          e->pub.job->spec, "inputs", inputs_or_none(c, e)));
}

static json_t *gang_json(const struct core *c, const struct core_attempt *a)
{
    json_t *gang = json_array();

    for (unsigned i = 0; i < a->n_claims; i++) {
        const struct node *n = find_node(c, a->claims[i].node);
        json_t *ids = json_array();

        for (unsigned s = 0; s < CORE_SLOTS_MAX; s++)
            if (a->claims[i].slot_mask[s / 64] >> (s % 64) & 1)
                (void)json_array_append_new(ids, json_integer((json_int_t)s));
        (void)json_array_append_new(gang, json_pack("{s:s,s:s,s:i,s:o}", "node", a->claims[i].node,
                                                    "address", n ? n->pub.address : "", "slots",
                                                    (int)a->claims[i].slots, "slot_ids", ids));
    }
    return gang;
}

void command_prepare(struct core *c, struct entry *e, unsigned claim)
{
    const struct core_job *j = &e->pub;
    const struct core_attempt *a = live_attempt(e);
    const struct core_checkpoint *k = newest_done(j, NULL);
    uint64_t lease_s =
        j->job->limits.lease_s ? (uint64_t)j->job->limits.lease_s : c->config.lease_ms / 1000;
    uint64_t wall_ms = attempt_wall_left_ms(c, e);
    unsigned rank0 = 0;
    json_t *body;

    assert(a && claim < a->n_claims);
    for (unsigned i = 0; i < claim; i++)
        rank0 += a->claims[i].slots;
    body = json_pack("{s:s,s:s,s:I,s:s,s:O,s:o,s:o,s:i}", "type", "prepare", "job", j->id,
                     "attempt", (json_int_t)a->number, "role", claim == 0 ? "head" : "member",
                     "spec", j->job->spec, "inputs", inputs_or_none(c, e), "gang", gang_json(c, a),
                     "rank0", (int)rank0);
    (void)json_object_set_new(body, "resume",
                              k ? json_pack("{s:s,s:s,s:I}", "uri", k->uri, "manifest_sha256",
                                            k->manifest_sha256, "step", (json_int_t)k->step)
                                : json_null());
    (void)json_object_set_new(
        body, "upload",
        json_string(j->job->checkpoint.upload ? j->job->checkpoint.upload : c->config.store));
    (void)json_object_set_new(body, "lease_s", json_integer((json_int_t)lease_s));
    /* 0 means no limit; a job that has used its limit up gets one second, and its `timed_out`. */
    (void)json_object_set_new(
        body, "wall_s",
        json_integer(wall_ms == UINT64_MAX ? 0 : (json_int_t)LH_MAX(wall_ms / 1000, (uint64_t)1)));
    (void)json_object_set_new(body, "ports", json_string(c->config.ports));
    command_add(c, a->claims[claim].node, body);
}

void command_launch(struct core *c, struct entry *e)
{
    const struct core_attempt *a = live_attempt(e);

    command_add(c, a->claims[0].node,
                json_pack("{s:s,s:s,s:I}", "type", "launch", "job", e->pub.id, "attempt",
                          (json_int_t)a->number));
}

void command_stop(struct core *c, struct entry *e, struct core_attempt *a, unsigned claim,
                  const char *reason)
{
    double grace_s = strcmp(reason, "exited") == 0 ? 0 : (double)c->config.stop_grace_ms / 1000;

    command_add(c, a->claims[claim].node,
                json_pack("{s:s,s:s,s:I,s:s,s:f}", "type", "stop", "job", e->pub.id, "attempt",
                          (json_int_t)a->number, "reason", reason, "grace_s", grace_s));
}

void command_forget(struct core *c, const char *node, const char *job, uint64_t attempt)
{
    command_add(
        c, node,
        json_pack("{s:s,s:s,s:I}", "type", "forget", "job", job, "attempt", (json_int_t)attempt));
}
