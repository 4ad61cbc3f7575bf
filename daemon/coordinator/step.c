/* step.c - the one road that every change takes.
 *
 * app_step runs the core (memory changes at once), queues the change set, and what others may see
 * of it (answers, commands to nodes, the feed) waits for the commit. Steps commit in their order,
 * so memory is never behind the disk and nobody hears of what is not on it.
 */
#include "daemon/coordinator/app_parts.h"
#include "proto/base/clock.h"
#include "proto/base/fault.h"
#include "proto/base/json.h"
#include "proto/base/log.h"
#include "proto/base/str.h"
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

struct step {
    struct app *app;
    struct core_effects fx;
    unsigned n_events;
    struct step_event {
        uint64_t seq;
        char type[CHANGE_TYPE_MAX], job[CHANGE_ID_MAX];
        char *text;
    } * events;
    app_step_fn *done;
    void *arg;
};

static void step_on_commit(void *arg)
{
    struct step *s = arg;
    struct app *a = s->app;

    lh_fault("app.committed");
    for (unsigned i = 0; i < s->fx.n_commands; i++) {
        outboxes_deliver(a, s->fx.commands[i].node, s->fx.commands[i].body);
        s->fx.commands[i].body = NULL;
    }
    if (s->n_events > 0)
        a->committed_seq = s->events[s->n_events - 1].seq;
    for (unsigned i = 0; i < s->n_events; i++) {
        app_feed_send(a, s->events[i].seq, s->events[i].type, s->events[i].job, s->events[i].text);
        if (s->events[i].job[0])
            audience_wake(a, s->events[i].job);
        free(s->events[i].text);
    }
    if (s->done)
        s->done(s->arg, &s->fx);
    if (s->n_events > 0)
        audience_run(a);
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
            lh_info(e->type, "node=%s state=%s", lh_json_str(e->data, "node", ""),
                    lh_json_str(e->data, "state", ""));
        else
            lh_info(e->type, "job=%s attempt=%llu reason=%s detail=\"%s\"", e->job,
                    (unsigned long long)e->attempt,
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
