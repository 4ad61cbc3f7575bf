/* app.c - longhauld's wiring: the loop, the core, the store and the HTTP server.
 *
 * Every change takes one road: app_step runs the core (memory changes at once), queues the change set, and what others
 * may see of it (answers, commands to nodes, the feed) waits for the commit. Steps commit in their order, so memory is
 * never behind the disk and nobody hears of what is not on it.
 */
#include "daemon/coordinator/app_parts.h"
#include "proto/base/clock.h"
#include "proto/base/fault.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/log.h"
#include "proto/base/str.h"
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define STOP_MAX_MS 15000 /* the node of --standalone, and a disk that has no room */

struct waiter {
    struct waiter *next;
    uint64_t ticket, revision, until_ms;
    char job[CORE_ID_MAX];
    app_changed_fn *changed;
    void *arg;
    bool due;
};
struct feed {
    struct feed *next;
    uint64_t ticket;
    app_feed_fn *fn;
    void *arg;
    bool closed; /* while a send is under way */
};

void app_warn(struct app *a, const char *event, const char *fmt, ...)
{
    struct app_warning *w = &a->warnings[a->n_warnings++ % APP_WARNINGS_MAX];
    va_list ap;

    w->time_ms = lh_now_ms();
    va_start(ap, fmt);
    (void)vsnprintf(w->text, sizeof(w->text), fmt, ap);
    va_end(ap);
    lh_utf8_trim(w->text);
    lh_warn(event, "%s", w->text);
}

const struct core *app_core(const struct app *a)
{
    return a->core;
}

const char *app_job_dir(const struct app *a, const char *job, char *buf, size_t cap)
{
    (void)snprintf(buf, cap, "%s/jobs/%s", a->config->state, job);
    return buf;
}

uint64_t app_last_seq(const struct app *a)
{
    return core_last_seq(a->core);
}

/* ---- one step -------------------------------------------------------------------------------------------------- */

struct step {
    struct app *app;
    struct core_effects fx;
    unsigned n_events;
    struct step_event { uint64_t seq; char type[CHANGE_TYPE_MAX], job[CHANGE_ID_MAX]; char *text; } *events;
    app_step_fn *done;
    void *arg;
};

static void wake_waiters(struct app *a, const char *job)
{
    const struct core_job *j = NULL;

    for (struct waiter *w = a->waiters; w; w = w->next) {
        if (w->due || strcmp(w->job, job) != 0)
            continue;
        if (!j)
            j = core_find_job(a->core, job);
        w->due = !j || j->revision > w->revision;
    }
}

static void run_waiters(struct app *a)
{
    uint64_t now = lh_mono_ms();

    for (struct waiter **at = &a->waiters; *at;) {
        struct waiter *w = *at;

        if (!w->due && now < w->until_ms && !a->stopping) {
            at = &w->next;
            continue;
        }
        *at = w->next;
        w->changed(w->arg);
        free(w);
        at = &a->waiters; /* the callback may have changed the list */
    }
}

static void step_on_commit(void *arg)
{
    struct step *s = arg;
    struct app *a = s->app;

    lh_fault("app.committed");
    for (unsigned i = 0; i < s->fx.n_commands; i++) {
        outboxes_deliver(a, s->fx.commands[i].node, s->fx.commands[i].body);
        s->fx.commands[i].body = NULL;
    }
    for (unsigned i = 0; i < s->n_events; i++) {
        app_feed_send(a, s->events[i].seq, s->events[i].type, s->events[i].job, s->events[i].text);
        if (s->events[i].job[0])
            wake_waiters(a, s->events[i].job);
        free(s->events[i].text);
    }
    if (s->done)
        s->done(s->arg, &s->fx);
    if (s->n_events > 0)
        run_waiters(a);
    if (s->fx.n_commands > 0)
        outboxes_flush(a);
    free(s->events);
    core_effects_release(&s->fx);
    free(s);
}

static void keep_events(struct step *s)
{
    struct change_set *set = &s->fx.changes;

    s->n_events = set->n_events;
    s->events = calloc(set->n_events ? set->n_events : 1, sizeof(*s->events));
    if (!s->events)
        abort();
    for (unsigned i = 0; i < set->n_events; i++) {
        json_t *o = change_event_json(&set->events[i]);

        s->events[i].seq = set->events[i].seq;
        memcpy(s->events[i].type, set->events[i].type, sizeof(s->events[i].type));
        memcpy(s->events[i].job, set->events[i].job, sizeof(s->events[i].job));
        s->events[i].text = lh_json_text(o, 0);
        json_decref(o);
    }
}

static void log_events(const struct change_set *set)
{
    for (unsigned i = 0; i < set->n_events; i++) {
        const struct change_event *e = &set->events[i];

        if (lh_starts_with(e->type, "node."))
            lh_info(e->type, "node=%s state=%s", lh_json_str(e->data, "node", ""), lh_json_str(e->data, "state", ""));
        else
            lh_info(e->type, "job=%s attempt=%llu reason=%s detail=\"%s\"", e->job, (unsigned long long)e->attempt,
                    lh_json_str(e->data, "reason", lh_json_str(e->data, "stop_reason", "")),
                    lh_json_str(e->data, "detail", lh_json_str(e->data, "node", "")));
    }
}

void app_step(struct app *a, struct core_event *ev, app_step_fn *done, void *arg)
{
    struct step *s = calloc(1, sizeof(*s));
    uint64_t begin = lh_mono_ns();

    if (!s)
        abort();
    s->app = a;
    s->done = done;
    s->arg = arg;
    ev->now_ms = lh_mono_ms();
    ev->wall_ms = lh_now_ms();
    if (getrandom(&ev->random, sizeof(ev->random), GRND_NONBLOCK) < 0)
        ev->random = begin;
    core_step(a->core, ev, &s->fx);
    a->cycle_max_s = LH_MAX(a->cycle_max_s, (double)(lh_mono_ns() - begin) / 1e9);
    if (!done && s->fx.changes.n_events == 0 && s->fx.n_commands == 0) { /* most ticks and polls */
        core_effects_release(&s->fx);
        free(s);
        return;
    }
    log_events(&s->fx.changes);
    keep_events(s);
    lh_fault("app.decided");
    store_put(a->store, &s->fx.changes, step_on_commit, s);
}

/* ---- submit and action ----------------------------------------------------------------------------------------- */

struct call {
    app_done_fn *done;
    void *arg;
    struct app_answer answer;
    char detail[640];
};

static void call_on_step(void *arg, struct core_effects *fx)
{
    struct call *k = arg;

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
static void call_refuse(struct app *a, struct call *k, int status, const char *code, const char *fmt, ...)
    LH_PRINTF(5, 6);

static void call_refuse(struct app *a, struct call *k, int status, const char *code, const char *fmt, ...)
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

/* True when new work may be taken. A refusal while the writer is stuck on a full disk cannot wait for it. */
static bool admits(struct app *a, struct call *k, int *ret_now)
{
    enum store_mode mode = store_mode(a->store);

    *ret_now = 0;
    if (a->stopping) {
        call_refuse(a, k, 503, "stopping", "longhauld is stopping; try again when it has started");
        return false;
    }
    if (mode == STORE_OK)
        return true;
    k->answer.status = mode == STORE_DAMAGED ? 503 : 507;
    k->answer.code = mode == STORE_DAMAGED ? "read_only" : "disk_reserve";
    if (mode == STORE_DAMAGED)
        (void)snprintf(k->detail, sizeof(k->detail),
                       "the database is damaged, nothing new is taken; see the log of longhauld");
    else
        (void)snprintf(k->detail, sizeof(k->detail),
                       "the disk of the state directory '%.300s' is full up to the reserve of %llu MiB; running jobs go on; "
                       "free some space there, and new ones are taken again",
                       a->config->state, (unsigned long long)(a->config->reserve_bytes >> 20));
    *ret_now = 1;
    return false;
}

static void add_problems(json_t *errors, const struct lh_problems *p, const char *prefix)
{
    for (unsigned i = 0; i < p->n; i++) {
        char pointer[200];

        (void)snprintf(pointer, sizeof(pointer), "%s%s", prefix, p->at[i].pointer);
        (void)json_array_append_new(errors, json_pack("{s:s,s:s,s:s}", "pointer", pointer, "code", p->at[i].code,
                                                      "detail", p->at[i].detail));
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
            (void)json_array_append_new(errors, json_pack("{s:s,s:s,s:s}", "pointer", prefix, "code", "bad_value",
                                                          "detail", err.text));
    }
    free(problems);
    for (unsigned i = 0; i < n && json_array_size(errors) > 0; i++) {
        lh_job_free(jobs[i].job);
        jobs[i].job = NULL;
    }
}

static void answer_later_now(struct call *k)
{
    k->answer.detail = k->detail;
    k->done(k->arg, &k->answer);
    free(k);
}

void app_submit(struct app *a, const json_t *body, const char *fingerprint, const char *key, const char *principal,
                bool dry_run, app_done_fn *done, void *arg)
{
    struct call *k = call_new(done, arg);
    size_t n = json_is_array(body) ? json_array_size(body) : 1;
    struct core_new_job *jobs;
    json_t *errors;
    int now;

    if (!dry_run && !admits(a, k, &now)) {
        if (now)
            answer_later_now(k);
        return;
    }
    if (n == 0 || n > CORE_PIPELINE_MAX) {
        call_refuse(a, k, 422, "bad_job", "a pipeline is an array of 1 to %d jobs, this one has %zu", CORE_PIPELINE_MAX, n);
        return;
    }
    jobs = calloc(n, sizeof(*jobs));
    errors = json_array();
    if (!jobs || !errors)
        abort();
    parse_jobs(body, jobs, (unsigned)n, errors);
    if (json_array_size(errors) > 0) {
        k->answer.errors = errors;
        call_refuse(a, k, 422, "bad_job", "%s", lh_json_str(json_array_get(errors, 0), "detail", ""));
    } else {
        struct core_event ev = {
            .type = CORE_EV_SUBMIT,
            .u.submit = {.jobs = jobs, .n_jobs = (unsigned)n, .pipeline = json_is_array(body), .dry_run = dry_run,
                         .principal = principal, .key = key, .fingerprint = fingerprint}};

        json_decref(errors);
        app_step(a, &ev, call_on_step, k);
    }
    free(jobs);
}

void app_action(struct app *a, const char *job, const char *action, uint64_t if_match, const char *principal,
                app_done_fn *done, void *arg)
{
    struct call *k = call_new(done, arg);
    struct core_event ev = {
        .type = CORE_EV_ACTION,
        .u.action = {.job = job, .action = action, .principal = principal, .if_match = if_match}};

    if (store_mode(a->store) == STORE_DAMAGED)
        call_refuse(a, k, 503, "read_only", "the database is damaged, nothing can be changed; see the log of longhauld");
    else
        app_step(a, &ev, call_on_step, k);
}

/* ---- waiting, feeding, reading --------------------------------------------------------------------------------- */

uint64_t app_wait_job(struct app *a, const char *job, uint64_t revision, unsigned wait_s, app_changed_fn *changed,
                      void *arg)
{
    struct waiter *w = calloc(1, sizeof(*w));
    const struct core_job *j = core_find_job(a->core, job);

    if (!w)
        abort();
    w->ticket = ++a->next_ticket;
    w->revision = revision;
    w->until_ms = lh_mono_ms() + (uint64_t)wait_s * 1000;
    (void)snprintf(w->job, sizeof(w->job), "%s", j ? j->id : job);
    w->changed = changed;
    w->arg = arg;
    w->due = !j || j->revision > revision; /* called by the next tick, not from here */
    w->next = a->waiters;
    a->waiters = w;
    return w->ticket;
}

void app_wait_cancel(struct app *a, uint64_t ticket)
{
    for (struct waiter **at = &a->waiters; *at; at = &(*at)->next)
        if ((*at)->ticket == ticket) {
            struct waiter *w = *at;

            *at = w->next;
            free(w);
            return;
        }
}

void app_events(struct app *a, uint64_t after_seq, unsigned limit, const char *job, app_events_fn *done, void *arg)
{
    store_events(a->store, after_seq, limit, job, done, arg);
}

uint64_t app_feed_open(struct app *a, app_feed_fn *fn, void *arg)
{
    struct feed *f = calloc(1, sizeof(*f));

    if (!f)
        abort();
    f->ticket = ++a->next_ticket;
    f->fn = fn;
    f->arg = arg;
    f->next = a->feeds;
    a->feeds = f;
    return f->ticket;
}

/* Marked here, freed by the next send: the caller may be inside one. */
void app_feed_close(struct app *a, uint64_t ticket)
{
    for (struct feed *f = a->feeds; f; f = f->next)
        if (f->ticket == ticket)
            f->closed = true;
}

static void feeds_sweep(struct app *a, bool all)
{
    for (struct feed **at = &a->feeds; *at;) {
        struct feed *f = *at;

        if (!f->closed && !all) {
            at = &f->next;
            continue;
        }
        *at = f->next;
        free(f);
    }
}

void app_feed_send(struct app *a, uint64_t seq, const char *type, const char *job, const char *data)
{
    feeds_sweep(a, false);
    for (struct feed *f = a->feeds; f; f = f->next)
        if (!f->closed)
            f->fn(f->arg, seq, type, job, data);
}

/* ---- time ------------------------------------------------------------------------------------------------------ */

static void look_at_store(struct app *a)
{
    static const char *const texts[] = {
        [STORE_OK] = "the disk has room again, new work is taken",
        [STORE_LOW] = "the disk is full up to the reserve: read-only, no new work is taken",
        [STORE_FULL] = "the disk refuses writes: changes wait for room",
        [STORE_DAMAGED] = "the database is damaged: read-only",
    };
    enum store_mode mode = store_mode(a->store);
    const char *problem = store_problem(a->store);
    struct store_stats stats;

    if (problem) { /* nothing more can be made durable: what is on disk is found out by a new start */
        lh_error("store.failed", "error=\"%s\" state=%s", problem, a->config->state);
        (void)fflush(NULL);
        _exit(74);
    }
    if (mode != a->mode)
        app_warn(a, "store.mode", "%s", texts[mode]);
    a->mode = mode;
    store_stats(a->store, &stats);
    a->commit_max_s = LH_MAX(a->commit_max_s, stats.max_commit_s);
    if (stats.beat != a->beat) {
        a->beat = stats.beat;
        a->beat_ms = lh_mono_ms();
    }
}

static void finish_stop(struct app *a);

static void on_tick(uv_timer_t *t)
{
    struct app *a = t->data;
    struct core_event ev = {.type = CORE_EV_TICK};
    uint64_t now = lh_mono_ms(), due = a->tick_ms + a->config->tick_ms;

    if (a->tick_ms && now > due)
        a->lag_max_ms = LH_MAX(a->lag_max_ms, now - due);
    a->tick_ms = now;
    look_at_store(a);
    if (!a->stopping)
        app_step(a, &ev, NULL, NULL);
    run_waiters(a);
    outboxes_flush(a);
    progress_flush(a);
    feeds_sweep(a, false);
    if (a->standalone && !a->stopping)
        standalone_tick(a->standalone);
    notify_tick(a);
    if (a->stopping)
        finish_stop(a);
}

/* ---- start and stop -------------------------------------------------------------------------------------------- */

static void address_path(const struct app *a, char *buf, size_t cap)
{
    (void)snprintf(buf, cap, "%s/address", a->config->state);
}

static void remove_address(const struct app *a)
{
    char path[4200];

    address_path(a, path, sizeof(path));
    (void)unlink(path);
}

static int write_address(struct app *a, struct lh_err *reterr)
{
    char path[4200], text[600];
    int n = snprintf(text, sizeof(text), "%s\n", http_server_address(a->http));

    address_path(a, path, sizeof(path));
    return lh_write_file(path, text, (size_t)n, reterr);
}

void app_quit(struct app *a, int exit_code)
{
    if (a->stopping)
        return;
    lh_info("app.stopping", "exit=%d", exit_code);
    a->stopping = true;
    a->stopping_ms = lh_mono_ms();
    a->ready = false;
    a->exit_code = exit_code;
    notify_stopping();
    remove_address(a);
    if (a->standalone)
        standalone_stop(a->standalone);
    outboxes_close(a);
    run_waiters(a);
    http_server_stop(a->http);
}

static void on_handle_closed(uv_handle_t *h)
{
    struct app *a = h->data;

    a->handles_open--;
}

/* Waits for what was asked to end, but not for long; then lets the loop run out. */
static void finish_stop(struct app *a)
{
    struct store_stats stats;

    store_stats(a->store, &stats);
    if ((!standalone_is_gone(a->standalone) || stats.queued > 0) && lh_mono_ms() - a->stopping_ms < STOP_MAX_MS)
        return;
    uv_close((uv_handle_t *)&a->tick, on_handle_closed);
    uv_close((uv_handle_t *)&a->sigterm, on_handle_closed);
    uv_close((uv_handle_t *)&a->sigint, on_handle_closed);
    uv_close((uv_handle_t *)&a->sighup, on_handle_closed);
    uv_close((uv_handle_t *)&a->sigchld, on_handle_closed);
}

static void reload(struct app *a)
{
    struct config fresh;
    struct lh_err err = {.code = 0};
    int rc = 0;

    notify_reloading(true);
    config_init(&fresh);
    if (a->config_path)
        rc = config_load(&fresh, a->config_path, &err);
    if (rc < 0) {
        app_warn(a, "config.refused", "the configuration was not reloaded, the old one stays: %s", err.text);
    } else if (a->config_path) { /* timers and limits of the core; the rest needs a restart */
        fresh.core.store = a->config->store;
        fresh.core.ports = a->config->ports;
        a->config->core = fresh.core;
        a->config->heartbeat_ms = fresh.heartbeat_ms;
        core_configure(a->core, &a->config->core);
        lh_info("config.reloaded", "file=%s", a->config_path);
    }
    config_release(&fresh);
    notify_reloading(false);
}

static void on_signal(uv_signal_t *h, int signum)
{
    struct app *a = h->data;

    if (signum == SIGHUP)
        reload(a);
    else if (signum == SIGCHLD && a->standalone)
        standalone_child(a->standalone);
    else if (signum != SIGCHLD)
        app_quit(a, 0);
}

static int start_handles(struct app *a, struct lh_err *reterr)
{
    struct { uv_signal_t *h; int signum; } const signals[] = {
        {&a->sigterm, SIGTERM}, {&a->sigint, SIGINT}, {&a->sighup, SIGHUP}, {&a->sigchld, SIGCHLD}};
    int rc = uv_timer_init(a->loop, &a->tick);

    a->tick.data = a;
    a->handles_open = 1;
    for (size_t i = 0; i < LH_ARRAY_LEN(signals) && rc == 0; i++) {
        rc = uv_signal_init(a->loop, signals[i].h);
        signals[i].h->data = a;
        a->handles_open++;
        if (rc == 0)
            rc = uv_signal_start(signals[i].h, on_signal, signals[i].signum);
    }
    if (rc == 0)
        rc = uv_timer_start(&a->tick, on_tick, a->config->tick_ms, a->config->tick_ms);
    return rc < 0 ? lh_err_set(reterr, rc, "start the timers") : 0;
}

static int on_row(void *arg, const char *table, const json_t *row, struct lh_err *reterr)
{
    return core_load(arg, table, row, reterr);
}

static void on_checked(void *arg, const char *problem)
{
    struct app *a = arg;

    if (problem)
        app_warn(a, "store.damaged", "quick_check: %s", problem);
    else
        lh_info("store.checked", "result=ok");
}

static int load(struct app *a, struct lh_err *reterr)
{
    struct store_config config = {.dir = a->config->state,
                                  .reserve_bytes = a->config->reserve_bytes,
                                  .idem_keep_ms = a->config->core.idem_keep_ms};
    uint64_t seq = 0;
    int rc = store_open(&config, &a->store, reterr);

    if (rc < 0)
        return rc;
    remove_address(a); /* of a run that was killed; the lock is ours now */
    a->core = core_new(&a->config->core, lh_mono_ms(), lh_now_ms());
    rc = store_load(a->store, on_row, a->core, &seq, reterr);
    if (rc < 0)
        return rc;
    core_loaded(a->core, seq);
    return 0;
}

static void on_request(void *arg, struct http_request *q)
{
    api_request(arg, q);
}

static int listen_http(struct app *a, struct lh_err *reterr)
{
    const struct config *c = a->config;
    struct http_config http = {
        .listen = c->listen,
        .auth = c->auth,
        .token_file = c->token_file,
        .tls_cert = c->tls_cert,
        .tls_key = c->tls_key,
        .insecure = c->insecure,
        .body_max = (size_t)c->body_max_bytes,
        .connections_max = c->connections_max,
        .request_ms = c->request_ms,
        .idle_ms = c->idle_ms,
        .listen_fd = notify_listen_fd(),
    };

    int rc = http_server_new(a->loop, &http, on_request, a, &a->http, reterr);

    /* An address that is taken may be free later; a token file or key that cannot be read is configuration. */
    return rc < 0 && rc != -EADDRINUSE && rc != -EADDRNOTAVAIL ? LH_ESTATE : rc;
}

static int start(struct app *a, struct lh_err *reterr)
{
    int rc = load(a, reterr);

    if (rc == 0)
        rc = listen_http(a, reterr); /* before the epoch is spent: a port in use changes nothing */
    if (rc == 0)
        rc = store_start(a->store, a->loop, reterr);
    if (rc == 0)
        rc = outboxes_new(a, &a->outboxes, reterr);
    if (rc == 0)
        rc = progress_new(&a->progress, reterr);
    if (rc == 0)
        rc = start_handles(a, reterr);
    if (rc == 0 && a->config->standalone)
        rc = standalone_start(a, &a->standalone, reterr);
    if (rc == 0)
        rc = write_address(a, reterr);
    if (rc < 0)
        return rc;
    a->ready = true;
    a->watchdog_ms = notify_watchdog_ms();
    notify_ready(a);
    store_check(a->store, on_checked, a);
    lh_info("app.ready", "address=%s state=%s cluster=%s epoch=%llu", http_server_address(a->http), a->config->state,
            store_cluster(a->store), (unsigned long long)store_epoch(a->store));
    return 0;
}

static void close_handle(uv_handle_t *h, void *arg)
{
    struct app *a = arg;
    bool ours = h->data == a;

    if (ours && !uv_is_closing(h))
        uv_close(h, on_handle_closed);
}

int app_run(struct config *config, const char *config_path, struct lh_err *reterr)
{
    uv_loop_t loop;
    struct app a = {.loop = &loop, .config = config, .config_path = config_path, .started_ms = lh_now_ms(),
                    .started_mono_ms = lh_mono_ms()};
    int rc = uv_loop_init(&loop);

    if (rc < 0)
        return lh_err_set(reterr, rc, "start the event loop");
    rc = start(&a, reterr);
    if (rc == 0)
        while (a.handles_open > 0)
            (void)uv_run(&loop, UV_RUN_ONCE);
    else if (a.store && a.http)
        remove_address(&a);
    standalone_free(a.standalone);
    store_close(a.store); /* first: its last answers need the HTTP server */
    http_server_free(a.http);
    outboxes_free(a.outboxes);
    progress_free(a.progress);
    feeds_sweep(&a, true);
    uv_walk(&loop, close_handle, &a); /* after a start that failed half-way */
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    (void)uv_loop_close(&loop);
    core_free(a.core);
    if (rc == 0)
        lh_info("app.stopped", "exit=%d", a.exit_code);
    return rc < 0 ? rc : a.exit_code;
}
