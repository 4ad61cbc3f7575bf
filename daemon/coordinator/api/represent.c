/* represent.c - jobs, attempts, checkpoints and nodes as the API shows them. */
#include "daemon/coordinator/api/api.h"
#include "proto/base/clock.h"
#include "proto/base/str.h"
#include <stdio.h>
#include <string.h>

json_t *api_time(uint64_t wall_ms)
{
    char text[LH_RFC3339_MAX];

    return wall_ms ? json_string(lh_rfc3339(wall_ms, text)) : json_null();
}

void api_set_etag(struct http_request *q, uint64_t revision)
{
    char text[32];

    (void)snprintf(text, sizeof(text), "\"%llu\"", (unsigned long long)revision);
    http_set_header(q, "ETag", text);
}

static json_t *or_null(json_t *value)
{
    return value ? json_incref(value) : json_null();
}

/* The newest checkpoint; one whose upload is done wins over a later one whose is not. */
static json_t *newest_checkpoint(const struct core_job *j)
{
    const struct core_checkpoint *best = NULL;

    for (unsigned i = 0; i < j->n_checkpoints; i++) {
        const struct core_checkpoint *p = &j->checkpoints[i];
        bool done = strcmp(p->state, "done") == 0;
        bool best_done = best && strcmp(best->state, "done") == 0;

        if (p->step < 0)
            continue;
        if (!best || (done == best_done ? p->step >= best->step : done))
            best = p;
    }
    if (!best)
        return json_null();
    return json_pack("{s:I, s:s, s:s, s:I}", "step", (json_int_t)best->step, "uri", best->uri,
                     "state", best->state, "attempt", (json_int_t)best->attempt);
}

json_t *api_job_json(const struct app *a, const struct core_job *j, bool progress)
{
    char reason[64], detail[320];

    core_explain(app_core(a), j, lh_now_ms(), reason, detail);
    return json_pack("{s:s, s:I, s:s, s:s, s:s, s:s, s:s, s:I, s:s, s:o, s:o, s:o, s:o, s:o, s:o, "
                     "s:o, s:i, s:o, s:O}",
                     "id", j->id, "number", (json_int_t)j->number, "name", j->job->name, "kind",
                     lh_kind_name(j->job->kind), "state", lh_job_state_name(j->state), "reason",
                     reason, "detail", detail, "revision", (json_int_t)j->revision, "submitted_by",
                     j->principal ? j->principal : "", "submitted_at", api_time(j->submitted_ms),
                     "started_at", api_time(j->started_ms), "ended_at", api_time(j->ended_ms),
                     "progress", progress ? api_progress(a, j) : json_null(), "plan",
                     or_null(j->plan), "result", or_null(j->result), "error", or_null(j->error),
                     "attempts", (int)j->n_attempts, "checkpoints", newest_checkpoint(j), "spec",
                     j->job->spec);
}

json_t *api_attempt_json(const struct core_attempt *t)
{
    json_t *gang = json_array();

    for (unsigned i = 0; i < t->n_claims; i++) {
        const struct core_claim *claim = &t->claims[i];

        (void)json_array_append_new(
            gang, json_pack("{s:s, s:i, s:s, s:b}", "node", claim->node, "slots", (int)claim->slots,
                            "role", i == 0 ? "head" : "member", "cleaned", (int)claim->cleaned));
    }
    return json_pack("{s:I, s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o}", "attempt",
                     (json_int_t)t->number, "state", lh_attempt_state_name(t->state), "outcome",
                     t->outcome, "class", t->class, "stop_reason", t->stop_reason, "allocated_at",
                     api_time(t->allocated_ms), "started_at", api_time(t->started_ms), "ended_at",
                     api_time(t->ended_ms), "gang", gang, "exit", or_null(t->exit));
}

json_t *api_checkpoint_json(const struct core_checkpoint *p)
{
    return json_pack(
        "{s:I, s:o, s:o, s:s, s:s, s:s, s:I, s:o, s:o}", "attempt", (json_int_t)p->attempt, "step",
        p->step >= 0 ? json_integer(p->step) : json_null(), "output",
        p->output[0] ? json_string(p->output) : json_null(), "state", p->state, "uri", p->uri,
        "manifest_sha256", p->manifest_sha256, "bytes", (json_int_t)p->bytes, "time",
        api_time(p->time_ms), "error", p->error[0] ? json_string(p->error) : json_null());
}

json_t *api_node_json(const struct core_node *n)
{
    uint64_t mono = lh_mono_ms();
    uint64_t ago = mono > n->seen_ms ? mono - n->seen_ms : 0;

    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:I, s:o}", "name",
                     n->name, "state", lh_node_state_name(n->state), "reason", n->reason,
                     "hostname", n->hostname, "address", n->address, "device", n->device, "version",
                     n->version, "boot_id", n->boot_id, "slots", (int)n->slots, "slots_used",
                     (int)n->slots_used, "cores", (int)n->cores, "memory_bytes",
                     (json_int_t)n->memory_bytes, "seen_at",
                     n->seen_ms ? api_time(lh_now_ms() - ago) : json_null());
}
