/* submit.c - new jobs: idempotency keys, references to other jobs, one job or a whole pipeline.
 *
 * A pipeline is taken whole or not at all: everything is checked before the first job is inserted.
 * The key goes into the same change set as the jobs.
 */
#include "daemon/coordinator/core/table.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* ---- idempotency keys ------------------------------------------------------------------------ */

static struct idem **idem_bucket(const struct core *c, const char *who)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (; *who; who++)
        h = (h ^ (unsigned char)*who) * 0x100000001b3u;
    return &c->idem[(h ^ (h >> 32)) & (c->n_idem_buckets - 1)];
}

static void idem_grow(struct core *c)
{
    struct idem **old = c->idem;
    unsigned n = c->n_idem_buckets;

    c->n_idem_buckets *= 4;
    c->idem = core_alloc(c->n_idem_buckets * sizeof(struct idem *));
    for (unsigned i = 0; i < n; i++)
        for (struct idem *k = old[i], *next; k; k = next) {
            struct idem **b = idem_bucket(c, k->who);

            next = k->next;
            k->next = *b;
            *b = k;
        }
    free(old);
}

static void idem_add(struct core *c, const char *principal, const char *key,
                     const char *fingerprint, json_t *jobs, uint64_t time_ms)
{
    struct idem *k = core_alloc(sizeof(*k));
    struct idem **b;

    if (asprintf(&k->who, "%s\n%s", principal, key) < 0)
        abort();
    copy_text(k->fingerprint, sizeof(k->fingerprint), fingerprint);
    k->jobs = json_incref(jobs);
    k->time_ms = time_ms;
    if (++c->n_idem > 2 * c->n_idem_buckets)
        idem_grow(c);
    b = idem_bucket(c, k->who);
    k->next = *b;
    *b = k;
}

void idem_load(struct core *c, const json_t *row)
{
    LH_CLEANUP(lh_json_decrefp) json_t *jobs = NULL;
    const char *text = lh_json_str(row, "jobs", "[]");

    if (lh_json_parse(text, strlen(text), 4, &jobs, NULL) < 0)
        return;
    idem_add(c, lh_json_str(row, "principal", ""), lh_json_str(row, "key", ""),
             lh_json_str(row, "fingerprint", ""), jobs, (uint64_t)lh_json_i64(row, "time_ms", 0));
}

static const struct idem *idem_find(const struct core *c, const char *principal, const char *key)
{
    char *who;
    const struct idem *k;

    if (asprintf(&who, "%s\n%s", principal, key) < 0)
        abort();
    for (k = *idem_bucket(c, who); k; k = k->next)
        if (strcmp(k->who, who) == 0)
            break;
    free(who);
    return k;
}

/* Once an hour; the store forgets them by their age at the same pace. */
void idem_purge(struct core *c)
{
    if (c->now_ms - c->idem_purged_ms < 3600000)
        return;
    c->idem_purged_ms = c->now_ms;
    for (unsigned i = 0; i < c->n_idem_buckets; i++)
        for (struct idem **at = &c->idem[i]; *at;) {
            struct idem *k = *at;

            if (k->time_ms + c->config.idem_keep_ms > c->wall_ms) {
                at = &k->next;
                continue;
            }
            *at = k->next;
            json_decref(k->jobs);
            free(k->who);
            free(k);
            c->n_idem--;
        }
}

/* True when the key is known: the answer is set. */
static bool replay(struct core *c, const struct core_event *ev)
{
    const struct idem *k;

    if (!ev->u.submit.key || ev->u.submit.dry_run)
        return false;
    k = idem_find(c, ev->u.submit.principal, ev->u.submit.key);
    if (!k)
        return false;
    if (strcmp(k->fingerprint, ev->u.submit.fingerprint) != 0) {
        refuse(
            c, 422, "idempotency_key_reused",
            "this Idempotency-Key came with another body before; take a new key for a new request");
        return true;
    }
    c->fx->status = 201;
    c->fx->replayed = true;
    c->fx->body = json_incref(k->jobs);
    return true;
}

static void idem_store(struct core *c, const struct core_event *ev, json_t *ids)
{
    char *text = lh_json_text(ids, 0);

    if (!text)
        abort();
    c->fx->changes.idem = json_pack(
        "{s:s,s:s,s:s,s:s,s:I}", "principal", ev->u.submit.principal, "key", ev->u.submit.key,
        "fingerprint", ev->u.submit.fingerprint, "jobs", text, "time_ms", (json_int_t)c->wall_ms);
    free(text);
    idem_add(c, ev->u.submit.principal, ev->u.submit.key, ev->u.submit.fingerprint, ids,
             c->wall_ms);
}

/* ---- references ------------------------------------------------------------------------------ */

struct finder {
    struct core *c;
    struct entry *e;
    json_t *errors;
    const char *prefix; /* "" or "/INDEX" */
    struct entry *const *batch;
    unsigned n_batch; /* the jobs of the pipeline before this one */
};

static void find_problem(struct finder *f, const char *pointer, const char *fmt, ...)
    LH_PRINTF(3, 4);

static void find_problem(struct finder *f, const char *pointer, const char *fmt, ...)
{
    char detail[320], where[200];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(detail, sizeof(detail), fmt, ap);
    va_end(ap);
    lh_utf8_trim(detail);
    (void)snprintf(where, sizeof(where), "%s%s", f->prefix, pointer);
    (void)json_array_append_new(f->errors, json_pack("{s:s,s:s,s:s}", "pointer", where, "code",
                                                     "no_such_job", "detail", detail));
}

static void add_dep(struct finder *f, const char *pointer, const char *as, enum lh_when when,
                    bool implicit)
{
    struct entry *target = NULL;
    struct dep *d;

    for (unsigned i = f->n_batch; i > 0 && !target; i--)
        if (strcmp(f->batch[i - 1]->pub.job->name, as) == 0)
            target = f->batch[i - 1];
    if (!target)
        target = find_any(f->c, as);
    if (!target) {
        find_problem(
            f, pointer,
            "there is no job '%s'; give the id or name of a job that was submitted before%s", as,
            f->prefix[0] ? ", or stands earlier in this pipeline" : "");
        return;
    }
    for (unsigned i = 0; i < f->e->n_deps; i++)
        if (strcmp(f->e->deps[i].as, as) == 0 && f->e->deps[i].when == when)
            return;
    f->e->deps = core_grow(f->e->deps, f->e->n_deps + 1, sizeof(*f->e->deps));
    d = &f->e->deps[f->e->n_deps++];
    memset(d, 0, sizeof(*d));
    memcpy(d->job, target->pub.id, sizeof(d->job));
    d->as = core_strdup(as);
    d->when = when;
    d->implicit = implicit;
}

static void find_in_uri(void *arg, const char *pointer, const char *text)
{
    struct finder *f = arg;
    struct lh_uri uri;

    if (lh_uri_parse(text, &uri, NULL) == 0 && uri.scheme == LH_URI_JOB)
        add_dep(f, pointer, uri.authority, LH_WHEN_OK, true);
}

void submit_find_deps(struct core *c, struct entry *e, json_t *errors, const char *prefix,
                      struct entry *const *batch, unsigned n_batch)
{
    struct finder f = {
        .c = c, .e = e, .errors = errors, .prefix = prefix, .batch = batch, .n_batch = n_batch};
    const struct lh_job *job = e->pub.job;

    for (unsigned i = 0; i < job->n_after; i++) {
        char pointer[32];

        (void)snprintf(pointer, sizeof(pointer), "/after/%u/job", i);
        add_dep(&f, pointer, job->after[i].job, job->after[i].when, false);
    }
    each_uri(job, find_in_uri, &f);
}

/* ---- submitting ------------------------------------------------------------------------------ */

static unsigned n_unfinished(const struct core *c)
{
    unsigned n = 0;

    for (int s = 0; !lh_job_is_final((enum lh_job_state)s); s++)
        n += c->count[s];
    return n;
}

/* Makes entries that nothing knows yet, and finds what they refer to. */
static void make_entries(struct core *c, const struct core_event *ev, struct entry **batch,
                         json_t *errors)
{
    for (unsigned i = 0; i < ev->u.submit.n_jobs; i++) {
        struct core_new_job *new = &ev->u.submit.jobs[i];
        struct entry *e = batch[i] = core_alloc(sizeof(*e));
        struct core_job *j = &e->pub;
        char prefix[16] = "";

        memcpy(j->id, new->id, sizeof(j->id));
        j->job = new->job;
        new->job = NULL;
        j->principal = core_strdup(ev->u.submit.principal);
        j->submitted_ms = c->wall_ms;
        j->state = j->job->hold ? LH_JOB_HELD : LH_JOB_BLOCKED;
        if (ev->u.submit.pipeline)
            (void)snprintf(prefix, sizeof(prefix), "/%u", i);
        submit_find_deps(c, e, errors, prefix, batch, i);
    }
}

static void insert(struct core *c, struct entry *e)
{
    struct core_job *j = &e->pub;
    struct change_event *ev;
    bool doomed = false;

    j->number = c->last_number + 1;
    j->revision = 0; /* not in the log yet: notes stay quiet */
    if (j->state == LH_JOB_HELD) {
        copy_text(j->reason, sizeof(j->reason), "user");
        copy_text(j->detail, sizeof(j->detail), "Submitted on hold; waits until it is released.");
    }
    entry_insert(c, e);
    retire_hold_deps(c, e, 1);
    if (j->state == LH_JOB_HELD)
        list_move(c, e, LIST_HELD);
    else if (!(doomed = queue_is_doomed(c, e)))
        queue_enter(c, e); /* the first reason goes into the row itself */
    j->revision = 1;
    ev = log_event(c, "job.submitted", j->id, 0,
                   json_pack("{s:I,s:s,s:s,s:s,s:s,s:s,s:s,s:I}", "number", (json_int_t)j->number,
                             "name", j->job->name, "kind", lh_kind_name(j->job->kind), "state",
                             lh_job_state_name(j->state), "reason", j->reason, "detail", j->detail,
                             "principal", j->principal, "revision", (json_int_t)j->revision));
    change_row_add(ev, "job", row_job(e));
    if (doomed)
        queue_enter(c, e);
}

void submit_step(struct core *c, const struct core_event *ev)
{
    unsigned n = ev->u.submit.n_jobs;
    struct entry **batch = core_alloc(n * sizeof(struct entry *));
    json_t *errors = json_array(), *ids;
    bool taken = false;

    assert(n > 0);
    make_entries(c, ev, batch, errors);
    if (replay(c, ev)) {
        ;
    } else if (json_array_size(errors) > 0) {
        refuse(c, 422, "bad_job", "%s", lh_json_str(json_array_get(errors, 0), "detail", ""));
        c->fx->errors = json_incref(errors);
    } else if (ev->u.submit.dry_run) {
        c->fx->status = 200;
        c->fx->body = dry_run(c, batch, n);
    } else if (n_unfinished(c) + n > c->config.queue_max) {
        refuse(c, 429, "queue_full",
               "%u jobs wait or run already, the most that this coordinator takes; try later",
               n_unfinished(c));
    } else {
        taken = true;
        ids = json_array();
        for (unsigned i = 0; i < n; i++) {
            insert(c, batch[i]);
            (void)json_array_append_new(ids, json_string(batch[i]->pub.id));
        }
        if (ev->u.submit.key)
            idem_store(c, ev, ids);
        c->fx->status = 201;
        c->fx->body = ids;
    }
    for (unsigned i = 0; i < n && !taken; i++)
        entry_free(batch[i]);
    free(batch);
    json_decref(errors);
}
