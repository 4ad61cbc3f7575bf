/* app.c - longhauld's wiring: the loop, the core, the store and the HTTP server, from their start
 * to an orderly stop, and what is looked at on every tick. Changes take the road of step.c.
 */
#include "daemon/coordinator/app_parts.h"
#include "proto/base/clock.h"
#include "proto/base/fs.h"
#include "proto/base/log.h"
#include "proto/base/str.h"
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#define STOP_MAX_MS 15000 /* the node of --standalone, and a disk that has no room */

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

/* ---- time ------------------------------------------------------------------------------------ */

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

    if (problem) { /* a new start finds out what is on disk */
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
    struct core_event ev = {.type = CORE_EV_TICK, .u.tick.committed_seq = a->committed_seq};
    uint64_t now = lh_mono_ms(), due = a->tick_ms + a->config->tick_ms;

    if (a->tick_ms && now > due)
        a->lag_max_ms = LH_MAX(a->lag_max_ms, now - due);
    a->tick_ms = now;
    look_at_store(a);
    if (!a->stopping)
        app_step(a, &ev, NULL, NULL);
    audience_run(a);
    dry_runs_tick(a);
    outboxes_flush(a);
    progress_flush(a);
    audience_sweep(a, false);
    if (a->standalone && !a->stopping)
        standalone_tick(a->standalone);
    notify_tick(a);
    if (a->stopping)
        finish_stop(a);
}

/* ---- start and stop -------------------------------------------------------------------------- */

static void address_path(const struct app *a, char *buf, size_t cap)
{
    (void)snprintf(buf, cap, "%s/address", a->config->state);
}

void app_remove_address(const struct app *a)
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
    app_remove_address(a);
    if (a->standalone)
        standalone_stop(a->standalone);
    outboxes_close(a);
    dry_runs_tick(a);
    audience_run(a);
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
    bool late;

    store_stats(a->store, &stats);
    late = a->mode == STORE_DAMAGED || lh_mono_ms() - a->stopping_ms >= STOP_MAX_MS;
    if (stats.queued > 0 && !late)
        return;
    if (!a->http_stopped) { /* only now: what was being committed has got its answer */
        a->http_stopped = true;
        http_server_stop(a->http);
        return;
    }
    if (!standalone_is_gone(a->standalone) && lh_mono_ms() - a->stopping_ms < STOP_MAX_MS)
        return;
    uv_close((uv_handle_t *)&a->tick, on_handle_closed);
    uv_close((uv_handle_t *)&a->sigterm, on_handle_closed);
    uv_close((uv_handle_t *)&a->sigint, on_handle_closed);
    uv_close((uv_handle_t *)&a->sighup, on_handle_closed);
    uv_close((uv_handle_t *)&a->sigchld, on_handle_closed);
}

static void on_signal(uv_signal_t *h, int signum)
{
    struct app *a = h->data;

    if (signum == SIGHUP)
        setup_reload(a);
    else if (signum == SIGCHLD && a->standalone)
        standalone_child(a->standalone);
    else if (signum != SIGCHLD)
        app_quit(a, 0);
}

static int start_handles(struct app *a, struct lh_err *reterr)
{
    struct {
        uv_signal_t *h;
        int signum;
    } const signals[] = {
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

static void on_checked(void *arg, const char *problem)
{
    struct app *a = arg;

    if (problem)
        app_warn(a, "store.damaged", "quick_check: %s", problem);
    else
        lh_info("store.checked", "result=ok");
}

static int start(struct app *a, struct lh_err *reterr)
{
    int rc = setup_try_address(a, reterr);

    if (rc == 0)
        rc = setup_load(a, reterr);
    if (rc == 0)
        rc = setup_listen(a, reterr); /* before the epoch is spent: a port in use changes nothing */
    if (rc == 0)
        rc = store_start(a->store, a->loop, reterr);
    if (rc == 0)
        rc = outboxes_new(a, &a->outboxes, reterr);
    if (rc == 0)
        rc = progress_new(&a->progress, reterr);
    if (rc == 0)
        rc = dry_runs_new(&a->dry_runs, reterr);
    if (rc == 0)
        rc = archive_new(&a->archive, reterr);
    if (rc == 0)
        rc = start_handles(a, reterr);
    if (rc == 0 && a->config->standalone)
        rc = standalone_start(a, &a->standalone, reterr);
    if (rc == 0)
        rc = write_address(a, reterr);
    if (rc < 0)
        return rc;
    if (a->config->standalone && a->config->realtime) {
        struct sched_param first = {.sched_priority = 1};

        (void)sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK,
                                 &first); /* not for what we start */
    }
    a->ready = true;
    a->watchdog_ms = notify_watchdog_ms();
    notify_ready(a);
    store_check(a->store, on_checked, a);
    lh_info("app.ready", "address=%s state=%s cluster=%s epoch=%llu", http_server_address(a->http),
            a->config->state, store_cluster(a->store), (unsigned long long)store_epoch(a->store));
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
    struct app a = {.loop = &loop,
                    .config = config,
                    .config_path = config_path,
                    .passed_fd = notify_listen_fd(),
                    .started_ms = lh_now_ms(),
                    .started_mono_ms = lh_mono_ms()};
    int rc = uv_loop_init(&loop);

    if (rc < 0)
        return lh_err_set(reterr, rc, "start the event loop");
    rc = start(&a, reterr);
    if (rc == 0)
        while (a.handles_open > 0)
            (void)uv_run(&loop, UV_RUN_ONCE);
    else if (a.store && a.http)
        app_remove_address(&a);
    standalone_free(a.standalone);
    store_close(a.store); /* first: its last answers need the HTTP server */
    http_server_free(a.http);
    outboxes_free(a.outboxes);
    dry_runs_free(a.dry_runs);
    archive_free(a.archive);
    progress_free(a.progress);
    audience_sweep(&a, true);
    uv_walk(&loop, close_handle, &a); /* after a start that failed half-way */
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    (void)uv_loop_close(&loop);
    core_free(a.core);
    if (rc == 0)
        lh_info("app.stopped", "exit=%d", a.exit_code);
    return rc < 0 ? rc : a.exit_code;
}
