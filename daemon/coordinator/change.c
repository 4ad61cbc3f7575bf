/* change.c - building change sets; see change.h. Used by the core, which makes them, and by step.c. */
#include "daemon/coordinator/change.h"
#include "proto/base/clock.h"
#include "proto/base/json.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void change_set_release(struct change_set *set)
{
    for (unsigned i = 0; i < set->n_events; i++) {
        struct change_event *e = &set->events[i];

        for (unsigned k = 0; k < e->n_rows; k++)
            json_decref(e->rows[k].row);
        free(e->rows);
        json_decref(e->data);
    }
    free(set->events);
    json_decref(set->idem);
    memset(set, 0, sizeof(*set));
}

struct change_event *change_event_add(struct change_set *set, uint64_t seq, uint64_t time_ms,
                                      const char *type, const char *job, uint64_t attempt,
                                      json_t *data)
{
    struct change_event *e;

    if (set->n_events == set->cap_events) {
        set->cap_events = set->cap_events ? 2 * set->cap_events : 4;
        set->events = realloc(set->events, set->cap_events * sizeof(*set->events));
        if (!set->events)
            abort();
    }
    e = &set->events[set->n_events++];
    memset(e, 0, sizeof(*e));
    e->seq = seq;
    e->time_ms = time_ms;
    (void)snprintf(e->type, sizeof(e->type), "%s", type);
    (void)snprintf(e->job, sizeof(e->job), "%s", job ? job : "");
    e->attempt = attempt;
    e->data = data ? data : json_object();
    return e;
}

void change_row_add(struct change_event *e, const char *table, json_t *row)
{
    assert(row);
    e->rows = realloc(e->rows, (e->n_rows + 1) * sizeof(*e->rows));
    if (!e->rows)
        abort();
    e->rows[e->n_rows].table = table;
    e->rows[e->n_rows].row = row;
    e->n_rows++;
}

char *change_rows_text(const struct change_event *e)
{
    json_t *all = json_array();
    char *text;

    for (unsigned i = 0; i < e->n_rows; i++)
        (void)json_array_append_new(all, json_pack("[s,O]", e->rows[i].table, e->rows[i].row));
    text = lh_json_text(all, 0);
    json_decref(all);
    if (!text)
        abort();
    return text;
}

json_t *change_event_json(const struct change_event *e)
{
    char time[LH_RFC3339_MAX];
    json_t *o = json_pack("{s:I,s:s,s:s}", "seq", (json_int_t)e->seq, "time",
                          lh_rfc3339(e->time_ms, time), "type", e->type);

    (void)json_object_set_new(o, "job", e->job[0] ? json_string(e->job) : json_null());
    (void)json_object_set_new(o, "attempt",
                              e->attempt ? json_integer((json_int_t)e->attempt) : json_null());
    (void)json_object_set(o, "data", e->data);
    return o;
}
