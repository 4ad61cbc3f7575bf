/* audience.c - who hears of commits: requests that wait for a job to change, and the live feed.
 *
 * Both are short lists, bounded by the HTTP server's connections. Callbacks may open and close
 * others: a waiter is out of its list before it is called, a feed is only marked and swept later.
 */
#include "daemon/coordinator/app_parts.h"
#include "proto/base/clock.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

void audience_wake(struct app *a, const char *job)
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

void audience_run(struct app *a)
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

uint64_t app_wait_job(struct app *a, const char *job, uint64_t revision, unsigned wait_s,
                      app_changed_fn *changed, void *arg)
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

void app_events(struct app *a, uint64_t after_seq, unsigned limit, const char *job,
                app_events_fn *done, void *arg)
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

void audience_sweep(struct app *a, bool all)
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
    audience_sweep(a, false);
    for (struct feed *f = a->feeds; f; f = f->next)
        if (!f->closed)
            f->fn(f->arg, seq, type, job, data);
}
