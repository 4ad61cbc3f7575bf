/* api_app.c - see api_app.h. */
#include "tests/unit/api_app.h"
#include "daemon/coordinator/metrics/metrics.h"
#include "proto/base/clock.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/sha256.h"
#include "proto/base/str.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EVENTS_MAX 4096

struct wait {
    struct wait *next;
    uint64_t ticket, until_ms, revision;
    char job[CORE_ID_MAX];
    app_changed_fn *changed;
    void *arg;
};
struct feed {
    struct feed *next;
    uint64_t ticket;
    app_feed_fn *feed;
    void *arg;
};
/* An answer is given from the loop, never from inside the call: as after a commit. */
struct later {
    uv_timer_t timer;
    app_done_fn *done;
    app_events_fn *events_done;
    void *arg;
    struct app_answer answer;
    char code[64], detail[320];
    json_t *events;
    uint64_t gone;
};
struct app {
    uv_loop_t loop;
    pthread_t thread;
    uv_async_t stop;
    uv_timer_t tick;
    struct http_server *server;
    struct core *core;
    char dir[512];
    json_t *events[EVENTS_MAX];
    unsigned n_events;
    struct wait *waits;
    struct feed *feeds;
    uint64_t tickets;
};

static void check(bool good, const char *what)
{
    if (!good) {
        fprintf(stderr, "api_app: %s\n", what);
        abort();
    }
}

static void wake_waits(struct app *a)
{
    struct wait **at = &a->waits;

    while (*at) {
        struct wait *w = *at;
        const struct core_job *j = core_find_job(a->core, w->job);

        if (j && j->revision <= w->revision && !lh_job_is_final(j->state) &&
            lh_mono_ms() < w->until_ms) {
            at = &w->next;
            continue;
        }
        *at = w->next;
        w->changed(w->arg);
        free(w);
        at = &a->waits; /* the callback may have changed the list */
    }
}

static void commit(struct app *a, struct core_effects *fx)
{
    for (unsigned i = 0; i < fx->changes.n_events; i++) {
        json_t *event = change_event_json(&fx->changes.events[i]);
        char *text = lh_json_text(event, 0);

        check(a->n_events < EVENTS_MAX && text, "too many events");
        a->events[a->n_events++] = event;
        for (struct feed *f = a->feeds, *next; f; f = next) {
            next = f->next;
            f->feed(f->arg, fx->changes.events[i].seq, fx->changes.events[i].type,
                    fx->changes.events[i].job, text);
        }
        free(text);
    }
}

static void step(struct app *a, struct core_event *ev, struct core_effects *fx)
{
    ev->now_ms = lh_mono_ms();
    ev->wall_ms = lh_now_ms();
    core_step(a->core, ev, fx);
    commit(a, fx);
    wake_waits(a);
}

static void later_on_closed(uv_handle_t *h)
{
    free(h->data);
}

static void later_on_timer(uv_timer_t *t)
{
    struct later *l = t->data;

    if (l->done)
        l->done(l->arg, &l->answer);
    else
        l->events_done(l->arg, l->events, l->gone);
    uv_close((uv_handle_t *)t, later_on_closed);
}

static struct later *later_new(struct app *a, void *arg)
{
    struct later *l = calloc(1, sizeof(*l));

    check(l != NULL, "no memory");
    l->arg = arg;
    l->timer.data = l;
    check(uv_timer_init(&a->loop, &l->timer) == 0 &&
              uv_timer_start(&l->timer, later_on_timer, 1, 0) == 0,
          "timer");
    return l;
}

static void answer_later(struct app *a, struct core_effects *fx, app_done_fn *done, void *arg)
{
    struct later *l = later_new(a, arg);

    l->done = done;
    l->answer = (struct app_answer){.status = fx->status,
                                    .body = json_incref(fx->body),
                                    .errors = json_incref(fx->errors),
                                    .replayed = fx->replayed,
                                    .code = l->code,
                                    .detail = l->detail};
    (void)snprintf(l->code, sizeof(l->code), "%s", fx->code ? fx->code : "");
    (void)snprintf(l->detail, sizeof(l->detail), "%s", fx->detail);
}

/* ---- app.h ---------------------------------------------------------------------------------- */

const struct core *app_core(const struct app *a)
{
    return a->core;
}

const struct core_job *app_find_job(struct app *a, const char *what)
{
    return core_find_job(a->core, what);
}

const struct core_job *app_next_job(struct app *a, uint64_t below, bool *ret_archived)
{
    *ret_archived = false;
    return core_next_job(a->core, below, true);
}

const char *app_job_dir(const struct app *a, const char *job, char *buf, size_t cap)
{
    (void)snprintf(buf, cap, "%s/jobs/%s", a->dir, job);
    return buf;
}

void app_submit(struct app *a, const json_t *body, const char *fingerprint, const char *key,
                const char *principal, bool dry_run, app_done_fn *done, void *arg)
{
    size_t n = json_is_array(body) ? json_array_size(body) : 1;
    struct core_effects fx = {.errors = json_array()};
    struct core_new_job *jobs = calloc(n + 1, sizeof(*jobs));
    struct core_event ev = {.type = CORE_EV_SUBMIT};
    size_t good = 0;

    check(jobs != NULL, "no memory");
    for (size_t i = 0; i < n; i++) {
        const json_t *spec = json_is_array(body) ? json_array_get(body, i) : body;
        struct lh_problems problems = {0};

        if (lh_job_parse(spec, &jobs[good].job, &problems, NULL) == 0) {
            lh_id_new("job_", jobs[good++].id);
            continue;
        }
        for (unsigned k = 0; k < problems.n; k++)
            (void)json_array_append_new(
                fx.errors, json_pack("{s:s, s:s, s:s}", "pointer", problems.at[k].pointer, "code",
                                     problems.at[k].code, "detail", problems.at[k].detail));
    }
    if (n == 0 || n > CORE_PIPELINE_MAX || json_array_size(fx.errors) > 0) {
        fx.status = 422;
        fx.code = "bad_job";
        (void)snprintf(
            fx.detail, sizeof(fx.detail), "%s",
            lh_json_str(json_array_get(fx.errors, 0), "detail", "a pipeline has 1 to 256 jobs"));
        answer_later(a, &fx, done, arg);
        for (size_t i = 0; i < good; i++)
            lh_job_free(jobs[i].job);
        json_decref(fx.errors);
        free(jobs);
        return;
    }
    json_decref(fx.errors);
    ev.u.submit.jobs = jobs;
    ev.u.submit.n_jobs = (unsigned)n;
    ev.u.submit.pipeline = json_is_array(body);
    ev.u.submit.dry_run = dry_run;
    ev.u.submit.principal = principal;
    ev.u.submit.key = key;
    ev.u.submit.fingerprint = fingerprint;
    step(a, &ev, &fx);
    answer_later(a, &fx, done, arg);
    core_effects_release(&fx);
    free(jobs);
}

void app_action(struct app *a, const char *job, const char *action, uint64_t if_match,
                const char *principal, app_done_fn *done, void *arg)
{
    struct core_event ev = {.type = CORE_EV_ACTION};
    struct core_effects fx;

    ev.u.action.job = job;
    ev.u.action.action = action;
    ev.u.action.principal = principal;
    ev.u.action.if_match = if_match;
    step(a, &ev, &fx);
    answer_later(a, &fx, done, arg);
    core_effects_release(&fx);
}

uint64_t app_wait_job(struct app *a, const char *job, uint64_t revision, unsigned wait_s,
                      app_changed_fn *changed, void *arg)
{
    struct wait *w = calloc(1, sizeof(*w));

    check(w != NULL, "no memory");
    w->ticket = ++a->tickets;
    w->until_ms = lh_mono_ms() + wait_s * 1000u;
    w->revision = revision;
    (void)snprintf(w->job, sizeof(w->job), "%s", job);
    w->changed = changed;
    w->arg = arg;
    w->next = a->waits;
    a->waits = w;
    return w->ticket;
}

void app_wait_cancel(struct app *a, uint64_t ticket)
{
    for (struct wait **at = &a->waits; *at; at = &(*at)->next)
        if ((*at)->ticket == ticket) {
            struct wait *w = *at;

            *at = w->next;
            free(w);
            return;
        }
}

void app_events(struct app *a, uint64_t after_seq, unsigned limit, const char *job,
                app_events_fn *done, void *arg)
{
    struct later *l = later_new(a, arg);

    l->events_done = done;
    l->events = json_array();
    for (unsigned i = 0; i < a->n_events && json_array_size(l->events) < limit; i++) {
        const json_t *e = a->events[i];

        if ((uint64_t)lh_json_i64(e, "seq", 0) > after_seq &&
            (!job || strcmp(lh_json_str(e, "job", ""), job) == 0))
            (void)json_array_append(l->events, a->events[i]);
    }
}

uint64_t app_feed_open(struct app *a, app_feed_fn *feed, void *arg)
{
    struct feed *f = calloc(1, sizeof(*f));

    check(f != NULL, "no memory");
    f->ticket = ++a->tickets;
    f->feed = feed;
    f->arg = arg;
    f->next = a->feeds;
    a->feeds = f;
    return f->ticket;
}

void app_feed_close(struct app *a, uint64_t ticket)
{
    for (struct feed **at = &a->feeds; *at; at = &(*at)->next)
        if ((*at)->ticket == ticket) {
            struct feed *f = *at;

            *at = f->next;
            free(f);
            return;
        }
}

uint64_t app_last_seq(const struct app *a)
{
    return core_last_seq(a->core);
}

json_t *app_status(struct app *a)
{
    return json_pack("{s:s, s:f, s:i, s:s, s:{s:i}, s:{s:i}, s:{s:i}, s:{s:i}, s:[]}", "version",
                     LH_VERSION, "uptime_s", 1.5, "epoch", 1, "mode", "normal", "jobs", "queued",
                     (int)core_count_jobs(a->core, LH_JOB_QUEUED), "nodes", "up",
                     (int)core_n_nodes(a->core), "slots", "total", 4, "database", "bytes", 0,
                     "warnings");
}

bool app_is_live(const struct app *a)
{
    (void)a;
    return true;
}

bool app_is_ready(const struct app *a, const char **ret_why)
{
    (void)a;
    (void)ret_why;
    return true;
}

void app_node_request(struct app *a, struct http_request *q)
{
    size_t len;
    const char *body = http_body(q, &len);
    json_t *request = NULL;
    struct core_event ev = {.type = CORE_EV_REGISTER};
    struct core_effects fx;
    const json_t *report;
    size_t i;

    check(lh_json_parse(body, len, 16, &request, NULL) == 0, "a node sent no JSON");
    if (strcmp(http_path(q), "/v1/node/register") == 0) {
        ev.u.reg.body = request;
        step(a, &ev, &fx);
        core_effects_release(&fx);
    }
    json_array_foreach(json_object_get(request, "reports"), i, report)
    {
        ev.type = CORE_EV_REPORT;
        ev.u.report.node = lh_json_str(request, "name", "");
        ev.u.report.report = report;
        step(a, &ev, &fx);
        core_effects_release(&fx);
    }
    json_decref(request);
    http_answer_json(q, 200, json_object(), NULL);
}

/* ---- life ----------------------------------------------------------------------------------- */

static void on_request(void *arg, struct http_request *q)
{
    api_request(arg, q);
}

static void on_tick(uv_timer_t *t)
{
    struct app *a = t->data;
    struct core_event ev = {.type = CORE_EV_TICK};
    struct core_effects fx;

    step(a, &ev, &fx);
    core_effects_release(&fx);
}

static void on_stop(uv_async_t *h)
{
    struct app *a = h->data;

    http_server_stop(a->server);
    http_server_free(a->server);
    uv_close((uv_handle_t *)&a->tick, NULL);
    uv_close((uv_handle_t *)&a->stop, NULL);
}

static void *run_loop(void *arg)
{
    struct app *a = arg;

    (void)uv_run(&a->loop, UV_RUN_DEFAULT);
    return NULL;
}

/* One token for each role; its secret is the role's name. */
static void write_tokens(const char *path)
{
    static const char *const roles[] = {"viewer", "submitter", "node", "operator"};
    char text[600] = "", hex[LH_SHA256_HEX];

    for (size_t i = 0; i < LH_ARRAY_LEN(roles); i++) {
        lh_sha256_hex(roles[i], strlen(roles[i]), hex);
        (void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s a-%s %s\n", roles[i],
                       roles[i], hex);
    }
    check(lh_write_file(path, text, strlen(text), NULL) == 0, "token file");
}

struct app *api_app_start(const char *dir)
{
    const struct core_config core_config = {.suspect_ms = 600000,
                                            .down_ms = 1200000,
                                            .lease_ms = 1800000,
                                            .prepare_ms = 3600000,
                                            .launch_ms = 120000,
                                            .stop_grace_ms = 10000,
                                            .retry_base_ms = 10000,
                                            .retry_max_ms = 600000,
                                            .stall_ms = 600000,
                                            .idem_keep_ms = 604800000,
                                            .queue_max = 100000,
                                            .store = "file:///tmp/",
                                            .ports = "20000-20100"};
    char tokens[600];
    const struct http_config config = {
        .listen = "127.0.0.1:0", .listen_fd = -1, .token_file = tokens};
    struct app *a = calloc(1, sizeof(*a));
    struct lh_err err;

    check(a != NULL, "no memory");
    (void)snprintf(a->dir, sizeof(a->dir), "%s", dir);
    (void)snprintf(tokens, sizeof(tokens), "%s/tokens", dir);
    write_tokens(tokens);
    check(uv_loop_init(&a->loop) == 0, "loop");
    a->core = core_new(&core_config, lh_mono_ms(), lh_now_ms());
    core_loaded(a->core, 0, 0);
    if (http_server_new(&a->loop, &config, on_request, a, &a->server, &err) < 0)
        check(false, err.text);
    a->stop.data = a->tick.data = a;
    check(uv_async_init(&a->loop, &a->stop, on_stop) == 0, "async");
    check(uv_timer_init(&a->loop, &a->tick) == 0 &&
              uv_timer_start(&a->tick, on_tick, 100, 100) == 0,
          "tick");
    check(pthread_create(&a->thread, NULL, run_loop, a) == 0, "thread");
    return a;
}

int api_app_port(const struct app *a)
{
    return http_server_port(a->server);
}

void api_app_stop(struct app *a)
{
    (void)uv_async_send(&a->stop);
    check(pthread_join(a->thread, NULL) == 0, "join");
    check(uv_loop_close(&a->loop) == 0, "a handle was left open");
    check(!a->waits && !a->feeds, "a wait or a feed was left behind");
    for (unsigned i = 0; i < a->n_events; i++)
        json_decref(a->events[i]);
    core_free(a->core);
    free(a);
}
