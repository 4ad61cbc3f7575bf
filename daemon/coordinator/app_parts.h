/* app_parts.h - what the files around app.c share among themselves; app.h is what others may ask of them.
 *
 *   HTTP request ─► core_step ─► store_put ─(COMMIT)─► commands to outboxes, feed, waiters, the answer
 */
#pragma once
#include "daemon/coordinator/app.h"
#include "daemon/coordinator/config.h"
#include "daemon/coordinator/store/store.h"
#include <uv.h>

#define APP_WARNINGS_MAX 10

struct outboxes;
struct standalone;
struct waiter;
struct feed;
struct progress;
struct dry_runs;
struct archive;

struct app_warning {
    uint64_t time_ms;
    char text[256];
};

struct app {
    uv_loop_t *loop;
    struct config *config;
    const char *config_path; /* for HUP, or NULL */
    int passed_fd;           /* a socket from systemd, or -1 */
    struct core *core;
    struct store *store;
    struct http_server *http;
    struct outboxes *outboxes;
    struct standalone *standalone;
    struct waiter *waiters;
    struct feed *feeds;
    struct progress *progress;
    struct dry_runs *dry_runs;
    struct archive *archive;
    uint64_t committed_seq; /* the newest event on disk */
    uint64_t next_ticket;
    uv_timer_t tick;
    uv_signal_t sigterm, sigint, sighup, sigchld;
    unsigned handles_open; /* of the five above */
    bool ready, stopping, http_stopped, superseded /* a node has obeyed a higher epoch of this cluster */;
    int exit_code;
    uint64_t stopping_ms;

    uint64_t started_ms, started_mono_ms;
    uint64_t tick_ms;              /* monotonic: the last one */
    uint64_t lag_max_ms;           /* of the loop, since the last status */
    uint64_t beat, beat_ms;        /* the writer's, and when it last changed */
    uint64_t watchdog_ms, watchdog_sent_ms, watchdog_beat;
    double commit_max_s;           /* since the last status */
    double cycle_max_s;            /* longest core_step since the last status */
    enum store_mode mode;
    struct app_warning warnings[APP_WARNINGS_MAX];
    unsigned n_warnings; /* ever */
};

/* ---- step.c: one step of the core. done is called after its commit, with the effects (body may be taken out). */
typedef void app_step_fn(void *arg, struct core_effects *fx);
void app_step(struct app *a, struct core_event *ev, app_step_fn *done, void *arg); /* fills in the times */

/* ---- app.c */
void app_warn(struct app *a, const char *event, const char *fmt, ...) LH_PRINTF(3, 4);
void app_quit(struct app *a, int exit_code); /* begins an orderly stop */
void app_remove_address(const struct app *a); /* DIR/address */

/* ---- setup.c */
LH_MUST_CHECK int setup_try_address(const struct app *a, struct lh_err *reterr);
LH_MUST_CHECK int setup_load(struct app *a, struct lh_err *reterr);
LH_MUST_CHECK int setup_listen(struct app *a, struct lh_err *reterr);
void setup_reload(struct app *a); /* HUP: timers and limits of the queue, what is kept; the rest needs a restart */

/* ---- audience.c */
void app_feed_send(struct app *a, uint64_t seq, const char *type, const char *job, const char *data);
void audience_wake(struct app *a, const char *job); /* marks who waits for it, when it has changed enough */
void audience_run(struct app *a);                   /* calls whoever is marked, or has waited long enough */
void audience_sweep(struct app *a, bool all);       /* frees closed feeds */

/* ---- node_api.c */
json_t *node_answer(const struct app *a); /* with the members that every answer to a node has */

/* ---- outboxes.c */
LH_MUST_CHECK int outboxes_new(struct app *a, struct outboxes **ret, struct lh_err *reterr);
void outboxes_free(struct outboxes *o);
void outboxes_deliver(struct app *a, const char *node, json_t *command /* stolen; NULL: reset */);
/* Answers q, at once or within wait_ms, with what is to be told after the command of seq ack. */
void outboxes_poll(struct app *a, const char *node, struct http_request *q, uint64_t ack, uint64_t wait_ms);
void outboxes_flush(struct app *a); /* answers polls that have something, or have waited long enough */
void outboxes_close(struct app *a); /* answers all polls */

/* ---- archive.c: jobs that the core has let go; app_find_job and app_next_job */
LH_MUST_CHECK int archive_new(struct archive **ret, struct lh_err *reterr);
void archive_free(struct archive *v);
void archive_recall(struct app *a, const char *name); /* into the core, because something will refer to it */

/* ---- dry_run.c: preflights for jobs that are not submitted */
LH_MUST_CHECK int dry_runs_new(struct dry_runs **ret, struct lh_err *reterr);
void dry_runs_free(struct dry_runs *d);
/* jobs (stolen): the core's answer to a dry run. done comes later, once, with the plans or a refusal. */
void dry_run_start(struct app *a, json_t *jobs, app_done_fn *done, void *arg);
void dry_run_report(struct app *a, const char *node, const json_t *report); /* one of type preflight */
void dry_run_registered(struct app *a, const char *node);                   /* its commands were dropped */
void dry_runs_tick(struct app *a);                                          /* answers those that waited too long */

/* ---- node_files.c */
void node_file_put(struct app *a, struct http_request *q);

/* ---- progress_feed.c: new lines of journals become job.progress */
LH_MUST_CHECK int progress_new(struct progress **ret, struct lh_err *reterr);
void progress_free(struct progress *p);
void progress_grown(struct app *a, const char *job, uint64_t attempt, const char *path, uint64_t from, uint64_t to);
void progress_flush(struct app *a); /* what the limit of one a second held back */

/* ---- standalone.c */
LH_MUST_CHECK int standalone_start(struct app *a, struct standalone **ret, struct lh_err *reterr);
void standalone_child(struct standalone *s);         /* SIGCHLD */
void standalone_tick(struct standalone *s);          /* restarts after a pause */
void standalone_stop(struct standalone *s);          /* asks it to end */
bool standalone_is_gone(const struct standalone *s); /* also for NULL */
void standalone_free(struct standalone *s);          /* kills what is left */

/* ---- notify.c: systemd, without effect elsewhere */
void notify_ready(struct app *a);
void notify_tick(struct app *a);
void notify_stopping(void);
void notify_reloading(bool begin);
int notify_listen_fd(void); /* from socket activation, or -1 */
uint64_t notify_watchdog_ms(void);

/* ---- run by main.c */
LH_MUST_CHECK int app_run(struct config *config, const char *config_path, struct lh_err *reterr); /* exit code, or negative */
