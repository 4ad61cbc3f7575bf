/* reports.c - see reports.h. One request is under way at a time; what comes meanwhile goes with the
 * next. */
#include "daemon/node/reports.h"
#include "daemon/node/held.h"
#include "daemon/node/link.h"
#include "proto/base/json.h"
#include "proto/base/log.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REPORTS_MAX 20000 /* four for each of 5000 attempts; more would be our own mistake */
#define BATCH_MAX 100
#define BATCH_BYTES (512u << 10) /* half of what a body may have; a single report may be larger */
#define TIMEOUT_MS 20000
#define AGAIN_MS 1000

struct waiting {
    struct waiting *next;
    char *id;
    json_t *report;
    size_t bytes; /* as text */
};
struct reports {
    struct node *node;
    struct waiting *first, **end;
    unsigned n;
    bool sending, more; /* more: something came while a request was under way */
    uv_timer_t timer;
};

struct reports *reports_new(struct node *n)
{
    struct reports *r = calloc(1, sizeof(*r));

    if (!r)
        return NULL;
    r->node = n;
    r->end = &r->first;
    (void)uv_timer_init(n->loop, &r->timer);
    r->timer.data = r;
    return r;
}

static void waiting_free(struct waiting *w)
{
    json_decref(w->report);
    free(w->id);
    free(w);
}

static void reports_on_closed(uv_handle_t *h)
{
    free(h->data);
}

void reports_free(struct reports *r)
{
    if (!r)
        return;
    while (r->first) {
        struct waiting *w = r->first;

        r->first = w->next;
        waiting_free(w);
    }
    uv_close((uv_handle_t *)&r->timer, reports_on_closed);
}

static struct waiting *find(const struct reports *r, const char *id)
{
    for (struct waiting *w = r->first; w; w = w->next)
        if (strcmp(w->id, id) == 0)
            return w;
    return NULL;
}

bool reports_waits(const struct reports *r, const char *id)
{
    return find(r, id) != NULL;
}

void reports_put(struct reports *r, const char *id, json_t *report)
{
    struct waiting *w = find(r, id);

    if (!report || (!w && r->n >= REPORTS_MAX)) {
        json_decref(report);
        lh_error("reports.lost", "id=%s waiting=%u", id, r->n);
        return;
    }
    (void)json_object_set_new(report, "id", json_string(id));
    if (w) {
        json_decref(w->report);
        w->report = report;
        w->bytes = json_dumpb(report, NULL, 0, JSON_COMPACT);
    } else {
        w = calloc(1, sizeof(*w));
        if (!w || !(w->id = strdup(id))) {
            free(w);
            json_decref(report);
            lh_error("reports.lost", "id=%s error=memory", id);
            return;
        }
        w->report = report;
        w->bytes = json_dumpb(report, NULL, 0, JSON_COMPACT);
        *r->end = w;
        r->end = &w->next;
        r->n++;
    }
    r->more = r->sending;
    reports_flush(r);
}

void reports_attempt(struct reports *r, const struct held *h, const char *type, const char *which,
                     json_t *data)
{
    char id[256];

    if (!data)
        data = json_object();
    (void)snprintf(id, sizeof(id), "%s/%" PRIu64 "/%s%s%s", h->job, h->number, type,
                   which[0] ? "/" : "", which);
    (void)json_object_set_new(data, "type", json_string(type));
    (void)json_object_set_new(data, "job", json_string(h->job));
    (void)json_object_set_new(data, "attempt", json_integer((json_int_t)h->number));
    reports_put(r, id, data);
}

static void reports_on_timer(uv_timer_t *t)
{
    reports_flush(t->data);
}

static void drop_done(struct reports *r, const json_t *done)
{
    const json_t *id;
    size_t i;

    json_array_foreach(done, i, id)
    {
        for (struct waiting **at = &r->first; *at; at = &(*at)->next) {
            struct waiting *w = *at;

            if (!json_is_string(id) || strcmp(w->id, json_string_value(id)) != 0)
                continue;
            *at = w->next;
            if (!*at)
                r->end = at;
            waiting_free(w);
            r->n--;
            break;
        }
    }
}

static void reports_on_answer(void *arg, const struct client_reply *reply)
{
    struct reports *r = arg;
    LH_CLEANUP(lh_json_decrefp) json_t *o = NULL;
    struct lh_err err;

    r->sending = false;
    o = link_answer(r->node->link, reply, &err);
    if (o) {
        drop_done(r, json_object_get(o, "done"));
    } else {
        lh_warn("reports.refused", "status=%d error=\"%s\"", reply->status, err.text);
        if (reply->status == 409)
            link_lost(r->node->link);
    }
    if (o && r->more)
        reports_flush(r);
    else if (r->first) /* refused, or not done yet: again, but not at once */
        (void)uv_timer_start(&r->timer, reports_on_timer, AGAIN_MS, 0);
}

void reports_flush(struct reports *r)
{
    struct lh_err err;
    json_t *list;
    unsigned n = 0;
    size_t bytes = 0;

    if (r->sending || !r->first || !link_is_up(r->node->link) || r->node->stopping)
        return;
    list = json_array();
    for (struct waiting *w = r->first; w && n < BATCH_MAX && bytes < BATCH_BYTES;
         w = w->next, n++) {
        (void)json_array_append(list, w->report);
        bytes += w->bytes;
    }
    r->sending = true;
    r->more = false;
    if (link_post(r->node->link, "reports", json_pack("{s:o}", "reports", list), TIMEOUT_MS,
                  reports_on_answer, r, &err) < 0) {
        r->sending = false;
        (void)uv_timer_start(&r->timer, reports_on_timer, AGAIN_MS, 0);
    }
}
