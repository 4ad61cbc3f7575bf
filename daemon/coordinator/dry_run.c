/* dry_run.c - the preflights of jobs that are not submitted: asked of the nodes that the gang would
 * use, and answered in the same request.
 *
 * A dry run changes nothing, so the core has no part in it beyond the placement: no row, no event,
 * no memory of it after a restart. Bounded in number, in time, and on each node, where preflights
 * of real jobs go first by having places of their own.
 *
 *     dry_run_start ─ an ask for each job and node ─ sent, two at a time a node ─ report ─ done
 */
#include "daemon/coordinator/app_parts.h"
#include "proto/base/clock.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SENT_A_NODE_MAX 2u
#define NODE_MARGIN_MS                                                                             \
    2000 /* a node gives up after us, so that the answer is our 504 and not its giving up */

struct dry_run {
    struct dry_run *next;
    json_t *jobs;  /* the answer, as it fills */
    unsigned left; /* asks that are not answered */
    uint64_t until_ms;
    app_done_fn *done;
    void *arg;
};

/* One job on one node. */
struct ask {
    struct ask *next;
    struct dry_run *run;
    size_t index; /* of the job */
    char node[CORE_NODE_NAME_MAX];
    json_t *command;
};

struct dry_runs {
    struct dry_run *runs;
    struct ask *waiting; /* in the order of their arrival */
    struct ask *sent;
    unsigned n;
};

int dry_runs_new(struct dry_runs **ret, struct lh_err *reterr)
{
    struct dry_runs *d = calloc(1, sizeof(*d));

    if (!d)
        return lh_err_set(reterr, -ENOMEM, "start");
    *ret = d;
    return 0;
}

static void *alloc(size_t n)
{
    void *p = calloc(1, n);

    if (!p)
        abort();
    return p;
}

/* Frees the asks of a run (NULL: of all) in one list. */
static void drop_asks(struct ask **list, const struct dry_run *run)
{
    for (struct ask **at = list; *at;) {
        struct ask *k = *at;

        if (run && k->run != run) {
            at = &k->next;
            continue;
        }
        *at = k->next;
        json_decref(k->command);
        free(k);
    }
}

void dry_runs_free(struct dry_runs *d)
{
    if (!d)
        return;
    drop_asks(&d->waiting, NULL);
    drop_asks(&d->sent, NULL);
    while (d->runs) {
        struct dry_run *run = d->runs;

        d->runs = run->next;
        json_decref(run->jobs);
        free(run);
    }
    free(d);
}

/* ---- the answer ------------------------------------------------------------------------------ */

static void run_end(struct app *a, struct dry_run *run, struct app_answer *answer)
{
    struct dry_runs *d = a->dry_runs;
    struct dry_run **at = &d->runs;

    drop_asks(&d->waiting, run);
    drop_asks(&d->sent, run);
    while (*at != run)
        at = &(*at)->next;
    *at = run->next;
    d->n--;
    run->done(run->arg, answer);
    json_decref(run->jobs);
    free(run);
}

static void run_refuse(struct app *a, struct dry_run *run, int status, const char *code,
                       const char *detail)
{
    struct app_answer answer = {.status = status, .code = code, .detail = detail};

    run_end(a, run, &answer);
}

static void run_finish(struct app *a, struct dry_run *run)
{
    struct app_answer answer = {.status = 200, .body = json_incref(run->jobs)};
    size_t i;
    json_t *o;

    json_array_foreach(run->jobs, i, o) if (!json_is_null(json_object_get(
                                                o, "problem"))) /* a plan of some nodes is none */
        (void) json_object_set_new(o, "plan", json_null());
    run_end(a, run, &answer);
}

/* ---- asking ---------------------------------------------------------------------------------- */

static bool has_room(const struct dry_runs *d, const char *node)
{
    unsigned n = 0;

    for (const struct ask *k = d->sent; k; k = k->next)
        n += strcmp(k->node, node) == 0;
    return n < SENT_A_NODE_MAX;
}

static void send_asks(struct app *a)
{
    struct dry_runs *d = a->dry_runs;
    uint64_t now = lh_mono_ms();
    bool any = false;

    for (struct ask **at = &d->waiting; *at;) {
        struct ask *k = *at;
        json_t *command;

        if (k->run->until_ms <= now || !has_room(d, k->node)) {
            at = &k->next;
            continue;
        }
        command = json_copy(k->command);
        (void)json_object_set_new(
            command, "limit_ms",
            json_integer((json_int_t)(k->run->until_ms - now + NODE_MARGIN_MS)));
        outboxes_deliver(a, k->node, command);
        *at = k->next;
        k->next = d->sent;
        d->sent = k;
        any = true;
    }
    if (any)
        outboxes_flush(a);
}

/* Adds the asks of one job at *end; the new end. */
static struct ask **ask_job(struct ask **end, struct dry_run *run, size_t index)
{
    json_t *o = json_array_get(run->jobs, index), *inputs = json_object_get(o, "inputs"), *member;
    char id[CORE_ID_MAX];
    size_t i;

    if (!inputs)
        return end;
    lh_id_new("d", id);
    json_array_foreach(json_object_get(o, "placement"), i, member)
    {
        struct ask *k = *end = alloc(sizeof(*k));

        k->run = run;
        k->index = index;
        (void)snprintf(k->node, sizeof(k->node), "%s", lh_json_str(member, "node", ""));
        k->command = json_pack("{s:s,s:s,s:O,s:O,s:b}", "type", "preflight", "job", id, "spec",
                               json_object_get(o, "spec"), "inputs", inputs, "dry_run", 1);
        end = &k->next;
        run->left++;
    }
    (void)json_object_del(o, "inputs");
    return end;
}

void dry_run_start(struct app *a, json_t *jobs, app_done_fn *done, void *arg)
{
    struct dry_runs *d = a->dry_runs;
    struct dry_run *run = alloc(sizeof(*run));
    struct ask **end = &d->waiting;

    run->jobs = jobs;
    run->until_ms = lh_mono_ms() + a->config->dry_run_ms;
    run->done = done;
    run->arg = arg;
    run->next = d->runs;
    d->runs = run;
    if (++d->n > a->config->dry_runs_max) {
        run_refuse(a, run, 503, "busy",
                   "as many dry runs as this coordinator takes (limits.dry_runs) are under way; "
                   "try again");
        return;
    }
    while (*end)
        end = &(*end)->next;
    for (size_t i = 0; i < json_array_size(jobs); i++)
        end = ask_job(end, run, i);
    if (run->left == 0)
        run_finish(a, run);
    else
        send_asks(a);
}

/* ---- what nodes say -------------------------------------------------------------------------- */

static void take_problem(json_t *o, const char *node, const json_t *problem)
{
    char detail[1024];

    if (!json_is_null(json_object_get(o, "problem")))
        return; /* the first one is told */
    (void)snprintf(detail, sizeof(detail), "%s",
                   lh_json_str(problem, "detail", "the preflight failed without saying why"));
    lh_utf8_trim(detail);
    (void)json_object_set_new(
        o, "problem",
        json_pack("{s:s,s:s,s:s,s:s,s:s}", "code", lh_json_str(problem, "code", "preflight"),
                  "class", lh_json_str(problem, "class", "app"), "pointer",
                  lh_json_str(problem, "pointer", ""), "detail", detail, "node", node));
}

void dry_run_report(struct app *a, const char *node, const json_t *report)
{
    const char *id = lh_json_str(report, "job", "");
    struct ask **at = &a->dry_runs->sent, *k;
    const json_t *plan = json_object_get(report, "plan");
    struct dry_run *run;
    json_t *o;

    while ((k = *at) &&
           (strcmp(k->node, node) != 0 || strcmp(lh_json_str(k->command, "job", ""), id) != 0))
        at = &k->next;
    if (!k)
        return; /* of a real job, or too late */
    run = k->run;
    o = json_array_get(run->jobs, k->index);
    if (!lh_json_bool(report, "ok", 0))
        take_problem(o, node, json_object_get(report, "problem"));
    else if (json_is_null(json_object_get(o, "plan"))) /* the head's, or whoever is first */
        (void)json_object_set_new(o, "plan",
                                  json_is_object(plan) ? json_deep_copy(plan) : json_object());
    *at = k->next;
    json_decref(k->command);
    free(k);
    if (--run->left == 0)
        run_finish(a, run);
    send_asks(a);
}

void dry_run_registered(struct app *a, const char *node)
{
    struct dry_runs *d = a->dry_runs;

    for (struct ask **at = &d->sent; *at;) {
        struct ask *k = *at;

        if (strcmp(k->node, node) != 0) {
            at = &k->next;
            continue;
        }
        *at = k->next;
        k->next = d->waiting;
        d->waiting = k;
    }
    send_asks(a);
}

/* ---- time ------------------------------------------------------------------------------------ */

static void run_late(struct app *a, struct dry_run *run)
{
    const struct dry_runs *d = a->dry_runs;
    const char *node = "", *what = "";
    char detail[320];

    for (const struct ask *k = d->waiting; k; k = k->next)
        if (k->run == run) {
            node = k->node;
            what = "has not begun";
        }
    for (const struct ask *k = d->sent; k; k = k->next)
        if (k->run == run) {
            node = k->node;
            what = "has not ended";
        }
    (void)snprintf(detail, sizeof(detail),
                   "the preflight on node %s %s within %llu s (timers.dry_run_ms); try again, or "
                   "submit the job: its preflight may take longer",
                   node, what, (unsigned long long)(a->config->dry_run_ms + 999) / 1000);
    run_refuse(a, run, 504, "preflight_timeout", detail);
}

void dry_runs_tick(struct app *a)
{
    uint64_t now = lh_mono_ms();
    struct dry_run *next;

    for (struct dry_run *run = a->dry_runs->runs; run; run = next) {
        next = run->next;
        if (a->stopping)
            run_refuse(a, run, 503, "stopping",
                       "longhauld is stopping; try again when it has started");
        else if (run->until_ms <= now)
            run_late(a, run);
    }
    if (!a->stopping)
        send_asks(a);
}
