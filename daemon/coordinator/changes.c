/* changes.c - app_submit and app_action: from the API's request to the core's step and back after
 * the commit. */
#include "daemon/coordinator/app_parts.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct call {
    struct app *app;
    bool dry_run;
    app_done_fn *done;
    void *arg;
    struct app_answer answer;
    char detail[640];
};

static void call_on_step(void *arg, struct core_effects *fx)
{
    struct call *k = arg;

    if (k->dry_run && fx->status == 200) {
        dry_run_start(k->app, fx->body, k->done, k->arg);
        fx->body = NULL;
        free(k);
        return;
    }
    k->answer.status = fx->status;
    k->answer.replayed = fx->replayed;
    k->answer.code = fx->code;
    k->answer.detail = fx->detail;
    k->answer.body = fx->body;
    k->answer.errors = fx->errors;
    fx->body = fx->errors = NULL;
    k->done(k->arg, &k->answer);
    free(k);
}

static void call_on_refused(void *arg)
{
    struct call *k = arg;

    k->answer.detail = k->detail;
    k->done(k->arg, &k->answer);
    free(k);
}

static struct call *call_new(app_done_fn *done, void *arg)
{
    struct call *k = calloc(1, sizeof(*k));

    if (!k)
        abort();
    k->done = done;
    k->arg = arg;
    return k;
}

/* A refusal takes the same road as an answer: done never comes before the call has returned. */
static void call_refuse(struct app *a, struct call *k, int status, const char *code,
                        const char *fmt, ...) LH_PRINTF(5, 6);

static void call_refuse(struct app *a, struct call *k, int status, const char *code,
                        const char *fmt, ...)
{
    struct change_set none = {.n_events = 0};
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(k->detail, sizeof(k->detail), fmt, ap);
    va_end(ap);
    lh_utf8_trim(k->detail);
    k->answer.status = status;
    k->answer.code = code;
    store_put(a->store, &none, call_on_refused, k);
}

/* An answer that must not wait for the writer, because the writer itself waits for room on the
 * disk. */
static void answer_now(struct call *k)
{
    k->answer.detail = k->detail;
    k->done(k->arg, &k->answer);
    free(k);
}

/* True when the change may be tried; otherwise it is answered. new_work: the reserve is kept free
 * of it. */
static bool admits(struct app *a, struct call *k, bool new_work)
{
    enum store_mode mode = store_mode(a->store);

    if (new_work && a->stopping) {
        call_refuse(a, k, 503, "stopping", "longhauld is stopping; try again when it has started");
        return false;
    }
    if (mode == STORE_OK || (mode == STORE_LOW && !new_work))
        return true;
    k->answer.status = mode == STORE_DAMAGED ? 503 : 507;
    k->answer.code = mode == STORE_DAMAGED ? "read_only" : "disk_reserve";
    if (mode == STORE_DAMAGED)
        (void)snprintf(
            k->detail, sizeof(k->detail),
            "the database is damaged, nothing is changed any more; see the log of longhauld");
    else
        (void)snprintf(k->detail, sizeof(k->detail),
                       "the disk of the state directory '%.300s' is full up to the reserve of %llu "
                       "MiB; running jobs go on; "
                       "free some space there, and changes are taken again",
                       a->config->state, (unsigned long long)(a->config->reserve_bytes >> 20));
    answer_now(k);
    return false;
}

static void add_problems(json_t *errors, const struct lh_problems *p, const char *prefix)
{
    for (unsigned i = 0; i < p->n; i++) {
        char pointer[200];

        (void)snprintf(pointer, sizeof(pointer), "%s%s", prefix, p->at[i].pointer);
        (void)json_array_append_new(errors, json_pack("{s:s,s:s,s:s}", "pointer", pointer, "code",
                                                      p->at[i].code, "detail", p->at[i].detail));
    }
}

/* Parses all jobs of the body; on problems nothing is left in jobs. */
static void parse_jobs(const json_t *body, struct core_new_job *jobs, unsigned n, json_t *errors)
{
    struct lh_problems *problems = calloc(1, sizeof(*problems));

    if (!problems)
        abort();
    for (unsigned i = 0; i < n; i++) {
        char prefix[16] = "";
        struct lh_err err = {.code = 0};
        const json_t *spec = json_is_array(body) ? json_array_get(body, i) : body;

        if (json_is_array(body))
            (void)snprintf(prefix, sizeof(prefix), "/%u", i);
        lh_id_new("j", jobs[i].id);
        problems->n = 0;
        if (lh_job_parse(spec, &jobs[i].job, problems, &err) == 0)
            continue;
        add_problems(errors, problems, prefix);
        if (problems->n == 0)
            (void)json_array_append_new(errors, json_pack("{s:s,s:s,s:s}", "pointer", prefix,
                                                          "code", "bad_value", "detail", err.text));
    }
    free(problems);
    for (unsigned i = 0; i < n && json_array_size(errors) > 0; i++) {
        lh_job_free(jobs[i].job);
        jobs[i].job = NULL;
    }
}

static void recall(void *arg, const char *name)
{
    archive_recall(arg, name);
}

void app_submit(struct app *a, const json_t *body, const char *fingerprint, const char *key,
                const char *principal, bool dry_run, app_done_fn *done, void *arg)
{
    struct call *k = call_new(done, arg);
    size_t n = json_is_array(body) ? json_array_size(body) : 1;
    struct core_new_job *jobs;
    json_t *errors;

    k->app = a;
    k->dry_run = dry_run;
    if (!admits(a, k, !dry_run))
        return;
    if (n == 0 || n > CORE_PIPELINE_MAX) {
        call_refuse(a, k, 422, "bad_job",
                    "a pipeline is an array of 1 to %d jobs, this one has %zu", CORE_PIPELINE_MAX,
                    n);
        return;
    }
    jobs = calloc(n, sizeof(*jobs));
    errors = json_array();
    if (!jobs || !errors)
        abort();
    parse_jobs(body, jobs, (unsigned)n, errors);
    if (json_array_size(errors) > 0) {
        k->answer.errors = errors;
        call_refuse(a, k, 422, "bad_job", "%s",
                    lh_json_str(json_array_get(errors, 0), "detail", ""));
    } else {
        struct core_event ev = {.type = CORE_EV_SUBMIT,
                                .u.submit = {.jobs = jobs,
                                             .n_jobs = (unsigned)n,
                                             .pipeline = json_is_array(body),
                                             .dry_run = dry_run,
                                             .principal = principal,
                                             .key = key,
                                             .fingerprint = fingerprint}};

        json_decref(errors);
        for (size_t i = 0; i < n; i++)
            core_unknown_names(a->core, jobs[i].job, recall, a);
        app_step(a, &ev, call_on_step, k);
    }
    free(jobs);
}

void app_action(struct app *a, const char *job, const char *action, uint64_t if_match,
                const char *principal, app_done_fn *done, void *arg)
{
    struct call *k = call_new(done, arg);
    struct core_event ev = {
        .type = CORE_EV_ACTION,
        .u.action = {.job = job, .action = action, .principal = principal, .if_match = if_match}};

    archive_recall(a, job); /* for the refusal that a finished job gets */
    if (admits(a, k, false))
        app_step(a, &ev, call_on_step, k);
}
