/* jobs.c - jobs: show and wait, submit, cancel, hold and release; attempts, checkpoints, explain.
 */
#include "daemon/coordinator/api/api.h"
#include "proto/base/clock.h"
#include "proto/base/json.h"
#include "proto/base/sha256.h"
#include "proto/base/str.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define KEY_MAX 128

const struct core_job *api_find_job(struct api_call *c)
{
    const struct core_job *j = app_find_job(c->app, c->segment[2]);

    if (!j)
        http_answer_problem(c->q, 404, "no_such_job", NULL, "there is no job '%s'", c->segment[2]);
    return j;
}

/* ---- show, with wait ------------------------------------------------------------------------ */

struct job_wait {
    struct app *app;
    struct http_request *q;
    char id[CORE_ID_MAX];
    uint64_t ticket;
    bool over; /* answered or cancelled */
};

static void answer_job(struct app *a, struct http_request *q, int status, const struct core_job *j)
{
    api_set_etag(q, j->revision);
    http_answer_json(q, status, api_job_json(a, j, true), NULL);
}

static void wait_on_changed(void *arg)
{
    struct job_wait *w = arg;
    const struct core_job *j = app_find_job(w->app, w->id);

    if (j)
        answer_job(w->app, w->q, 200, j);
    else
        http_answer_problem(w->q, 404, "no_such_job", NULL, "job '%s' is no longer kept", w->id);
    free(w);
}

static void wait_on_cancel(void *arg)
{
    struct job_wait *w = arg;

    app_wait_cancel(w->app, w->ticket);
    http_answer_problem(w->q, 503, "cancelled", NULL, "the client has gone");
    free(w);
}

void api_job_show(struct api_call *c)
{
    const struct core_job *j = api_find_job(c);
    uint64_t wait_s, seen, after_rev;
    struct job_wait *w;
    bool any;

    if (!j || !api_only(c, "application/json") ||
        !api_param_u64(c, "wait", 0, API_WAIT_MAX_S, 0, &wait_s) ||
        !api_param_u64(c, "after_rev", 0, INT64_MAX, 0, &after_rev) ||
        !api_etag(c, "If-None-Match", &seen, &any))
        return;
    if (any)
        seen = j->revision;
    if (wait_s == 0 && seen == j->revision) {
        api_set_etag(c->q, j->revision);
        http_answer_bytes(c->q, 304, NULL, "", 0, NULL);
        return;
    }
    /* Without a revision to compare with: until it changes from what it is now. */
    if (http_query(c->q, "after_rev"))
        seen = after_rev;
    else if (!seen)
        seen = j->revision;
    if (wait_s == 0 || j->revision > seen || lh_job_is_final(j->state)) {
        answer_job(c->app, c->q, 200, j);
        return;
    }
    w = calloc(1, sizeof(*w));
    if (!w) {
        http_answer_problem(c->q, 503, "no_memory", NULL, "no memory for this request");
        return;
    }
    w->app = c->app;
    w->q = c->q;
    (void)snprintf(w->id, sizeof(w->id), "%s", j->id);
    http_set_route(c->q, "/v1/jobs/{id}?wait");
    http_on_cancel(c->q, wait_on_cancel, w);
    w->ticket = app_wait_job(c->app, w->id, seen, (unsigned)wait_s, wait_on_changed, w);
}

/* ---- changes -------------------------------------------------------------------------------- */

struct change_call {
    struct app *app;
    struct http_request *q;
    bool pipeline;
    char id[CORE_ID_MAX]; /* of an action */
};

static struct change_call *change_new(struct api_call *c)
{
    struct change_call *k = calloc(1, sizeof(*k));

    if (!k) {
        http_answer_problem(c->q, 503, "no_memory", NULL, "no memory for this request");
        return NULL;
    }
    k->app = c->app;
    k->q = c->q;
    return k;
}

/* The jobs that a list of ids names, as one job or as a pipeline's list. */
static json_t *jobs_of_ids(const struct change_call *k, const json_t *ids,
                           const struct core_job **ret_first)
{
    json_t *jobs = json_array();
    json_t *one;
    size_t i;
    const json_t *id;

    json_array_foreach(ids, i, id)
    {
        const struct core_job *j = app_find_job(k->app, json_string_value(id));

        if (j && !*ret_first)
            *ret_first = j;
        if (j)
            (void)json_array_append_new(jobs, api_job_json(k->app, j, true));
    }
    if (k->pipeline)
        return json_pack("{s:o, s:n}", "jobs", jobs, "next_cursor");
    one = json_incref(json_array_get(jobs, 0));
    json_decref(jobs);
    return one;
}

static void answer_refused(struct http_request *q, const struct app_answer *answer)
{
    http_answer_problem(q, answer->status, answer->code ? answer->code : "refused", answer->errors,
                        "%s", answer->detail ? answer->detail : "");
}

static void submit_on_done(void *arg, const struct app_answer *answer)
{
    struct change_call *k = arg;
    const struct core_job *first = NULL;
    json_t *body = answer->body;
    char location[64];

    if (answer->status >= 400) {
        answer_refused(k->q, answer);
        free(k);
        return;
    }
    if (json_is_array(body) && json_is_string(json_array_get(body, 0))) {
        json_t *jobs = jobs_of_ids(k, body, &first);

        json_decref(body);
        body = jobs;
    } else if (json_is_array(body)) { /* of a dry run */
        json_t *plans =
            k->pipeline ? json_pack("{s:O}", "jobs", body) : json_incref(json_array_get(body, 0));

        json_decref(body);
        body = plans;
    }
    if (answer->replayed)
        http_set_header(k->q, "Idempotency-Replayed", "true");
    if (first && !k->pipeline) {
        (void)snprintf(location, sizeof(location), "/v1/jobs/%s", first->id);
        http_set_header(k->q, "Location", location);
        api_set_etag(k->q, first->revision);
    }
    http_answer_json(k->q, answer->status, body, NULL);
    free(k);
}

static bool is_json_type(const char *content_type)
{
    size_t n = content_type ? strcspn(content_type, "; \t") : 0;

    return n == strlen("application/json") && strncasecmp(content_type, "application/json", n) == 0;
}

static bool take_key(struct api_call *c, const char **ret_key)
{
    const char *key = http_header(c->q, "Idempotency-Key");
    size_t n = key ? strlen(key) : 0;
    bool good = !key || (n > 0 && n <= KEY_MAX);

    for (size_t i = 0; i < n; i++)
        good = good && key[i] > ' ' && key[i] < 0x7f;
    *ret_key = key;
    if (!good)
        http_answer_problem(
            c->q, 400, "bad_idempotency_key", NULL,
            "Idempotency-Key takes 1 to %d characters, printable ASCII without spaces", KEY_MAX);
    return good;
}

void api_jobs_submit(struct api_call *c)
{
    LH_CLEANUP(lh_json_decrefp) json_t *spec = NULL;
    char fingerprint[LH_SHA256_HEX];
    const char *key, *body;
    struct change_call *k;
    struct lh_err err = {0};
    bool dry_run;
    size_t len;

    if (!api_only(c, "application/json") || !take_key(c, &key) ||
        !api_param_bool(c, "dry_run", &dry_run))
        return;
    if (!is_json_type(http_header(c->q, "Content-Type"))) {
        http_answer_problem(c->q, 415, "unsupported_media_type", NULL,
                            "a job is sent as application/json");
        return;
    }
    body = http_body(c->q, &len);
    if (lh_json_parse(body ? body : "", len, LH_JOB_DEPTH_MAX, &spec, &err) < 0) {
        http_answer_problem(c->q, 400, "bad_json", NULL, "the body is %s", err.text);
        return;
    }
    lh_sha256_hex(body, len, fingerprint);
    k = change_new(c);
    if (!k)
        return;
    k->pipeline = json_is_array(spec);
    app_submit(c->app, spec, fingerprint, key, http_principal(c->q), dry_run, submit_on_done, k);
}

static void action_on_done(void *arg, const struct app_answer *answer)
{
    struct change_call *k = arg;
    const struct core_job *j;

    if (answer->status >= 400) {
        answer_refused(k->q, answer);
        free(k);
        return;
    }
    j = app_find_job(k->app, k->id);
    json_decref(answer->body);
    if (j)
        answer_job(k->app, k->q, answer->status, j);
    else
        http_answer_problem(k->q, 404, "no_such_job", NULL, "job '%s' is no longer kept", k->id);
    free(k);
}

void api_job_action(struct api_call *c)
{
    const struct core_job *j = api_find_job(c);
    struct change_call *k;
    uint64_t if_match;
    size_t len;

    if (!j || !api_only(c, "application/json") || !api_etag(c, "If-Match", &if_match, NULL))
        return;
    (void)http_body(c->q, &len);
    if (len > 0) {
        http_answer_problem(c->q, 400, "bad_body", NULL, "this takes no body");
        return;
    }
    k = change_new(c);
    if (!k)
        return;
    (void)snprintf(k->id, sizeof(k->id), "%s", j->id);
    app_action(c->app, k->id, c->segment[3], if_match, http_principal(c->q), action_on_done, k);
}

/* ---- parts of a job ------------------------------------------------------------------------- */

void api_job_attempts(struct api_call *c)
{
    const struct core_job *j = api_find_job(c);
    json_t *list;

    if (!j || !api_only(c, "application/json"))
        return;
    list = json_array();
    for (unsigned i = 0; i < j->n_attempts; i++)
        (void)json_array_append_new(list, api_attempt_json(&j->attempts[i]));
    api_set_etag(c->q, j->revision);
    http_answer_json(c->q, 200, json_pack("{s:o}", "attempts", list), NULL);
}

void api_job_checkpoints(struct api_call *c)
{
    const struct core_job *j = api_find_job(c);
    json_t *list;

    if (!j || !api_only(c, "application/json"))
        return;
    list = json_array();
    for (unsigned i = 0; i < j->n_checkpoints; i++)
        (void)json_array_append_new(list, api_checkpoint_json(&j->checkpoints[i]));
    api_set_etag(c->q, j->revision);
    http_answer_json(c->q, 200, json_pack("{s:o}", "checkpoints", list), NULL);
}

static json_t *blocking_entry(const struct core_job *j)
{
    return json_pack("{s:s, s:s, s:s}", "id", j->id, "name", j->job->name, "state",
                     lh_job_state_name(j->state));
}

/* The jobs that this one waits for: those it comes after, and for a queued one those that hold
 * slots. */
static json_t *blocking_jobs(const struct core *core, const struct core_job *j)
{
    const struct core_job *unmet[API_LIMIT_DEFAULT];
    json_t *list = json_array();
    unsigned looked = 0, n = 0;

    if (!lh_job_is_final(j->state))
        n = core_unmet(core, j, API_LIMIT_DEFAULT, unmet);
    for (unsigned i = 0; i < n; i++)
        (void)json_array_append_new(list, blocking_entry(unmet[i]));
    if (j->state != LH_JOB_QUEUED)
        return list;
    for (const struct core_job *other = core_next_job(core, 0, true);
         other && looked++ < API_SCAN_MAX && json_array_size(list) < API_LIMIT_DEFAULT;
         other = core_next_job(core, other->number, true))
        if (other->state == LH_JOB_STARTING || other->state == LH_JOB_RUNNING ||
            other->state == LH_JOB_STOPPING)
            (void)json_array_append_new(list, blocking_entry(other));
    return list;
}

void api_job_explain(struct api_call *c)
{
    const struct core_job *j = api_find_job(c);
    char reason[64], detail[320];
    uint64_t now = lh_now_ms();
    unsigned position;

    if (!j || !api_only(c, "application/json"))
        return;
    core_explain(app_core(c->app), j, now, reason, detail);
    position = core_queue_position(app_core(c->app), j);
    http_answer_json(
        c->q, 200,
        json_pack("{s:s, s:s, s:s, s:s, s:o, s:o, s:o}", "id", j->id, "state",
                  lh_job_state_name(j->state), "reason", reason, "detail", detail, "position",
                  position ? json_integer((json_int_t)position) : json_null(), "blocking",
                  blocking_jobs(app_core(c->app), j), "as_of", api_time(now)),
        NULL);
}
