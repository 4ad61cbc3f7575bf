/* events.c - the event log: lists, and the stream of server-sent events.
 *
 * A stream first reads the log from where the client stopped, page by page, then goes over to the
 * live feed. Between the two it must neither lose nor repeat an event, so the feed is opened first:
 * what it brings while pages are read is only noted, and the log is read again until it has had
 * that.
 *
 *   OPENING ──first page──► READING ──caught up──► LIVE        the client leaves: the feed is
 * closed; └──gone: 410                                            a page under way ends the stream
 * when it comes
 */
#include "daemon/coordinator/api/api.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EVENTS_LIMIT_MAX 500
#define TYPES_MAX 201

/* ---- lists ---------------------------------------------------------------------------------- */

struct event_list {
    struct app *app;
    struct http_request *q;
    char job[CORE_ID_MAX]; /* "": of all jobs */
    bool from_start;       /* the client named no event: from the oldest that is kept */
    unsigned limit;
    uint64_t after;
    char types[TYPES_MAX];
};

/* types: names with commas; a name that ends in '*' stands for all that begin so. "" admits all. */
static bool type_admitted(const char *types, const char *type)
{
    if (!*types)
        return true;
    while (*types) {
        size_t n = strcspn(types, ",");

        if (n > 0 && types[n - 1] == '*' ? strncmp(types, type, n - 1) == 0
                                         : strlen(type) == n && strncmp(types, type, n) == 0)
            return true;
        types += n;
        if (*types == ',')
            types++;
    }
    return false;
}

static bool take_types(struct api_call *c, char types[static TYPES_MAX])
{
    const char *given = http_query(c->q, "types");

    types[0] = 0;
    if (given && (!*given || strlen(given) >= TYPES_MAX ||
                  strspn(given, "abcdefghijklmnopqrstuvwxyz0123456789_.,*") != strlen(given))) {
        api_bad_param(c, "types",
                      "takes types of events separated by commas, 200 characters at most");
        return false;
    }
    if (given)
        (void)snprintf(types, TYPES_MAX, "%s", given);
    return true;
}

/* Where to begin: Last-Event-ID (browsers send it by themselves), else ?after=, else `otherwise`.
 */
static bool take_start(struct api_call *c, uint64_t otherwise, uint64_t *ret_after)
{
    const char *id = http_header(c->q, "Last-Event-ID");
    int64_t value;

    if (!api_param_u64(c, "after", 0, INT64_MAX, otherwise, ret_after))
        return false;
    if (!id)
        return true;
    if (strspn(id, "0123456789") == strlen(id) && lh_parse_i64(id, 0, INT64_MAX, &value)) {
        *ret_after = (uint64_t)value;
        return true;
    }
    http_answer_problem(c->q, 400, "bad_event_id", NULL,
                        "Last-Event-ID takes the number of an event");
    return false;
}

static void answer_gone(struct http_request *q, uint64_t oldest)
{
    char number[24];

    (void)snprintf(number, sizeof(number), "%llu", (unsigned long long)oldest);
    http_set_header(q, "X-Longhaul-Oldest", number);
    http_answer_problem(q, 410, "events_gone", NULL,
                        "events before %s are no longer kept; list the jobs, and go on after %llu",
                        number, (unsigned long long)oldest - 1);
}

static void list_read(struct event_list *l);

static void list_on_events(void *arg, json_t *events, uint64_t gone)
{
    struct event_list *l = arg;
    json_t *kept = json_array();
    const json_t *e;
    size_t i;

    if (gone && l->from_start) {
        json_decref(kept);
        json_decref(events);
        l->after = gone - 1;
        list_read(l);
        return;
    }
    if (gone) {
        answer_gone(l->q, gone);
        json_decref(kept);
    } else if (!events) {
        http_answer_problem(l->q, 503, "unreadable", NULL, "the event log cannot be read now");
        json_decref(kept);
    } else {
        json_array_foreach(events, i, e)
        {
            l->after = (uint64_t)lh_json_i64(e, "seq", (int64_t)l->after);
            if (type_admitted(l->types, lh_json_str(e, "type", "")))
                (void)json_array_append(kept, (json_t *)(uintptr_t)e);
        }
        http_answer_json(
            l->q, 200, json_pack("{s:o, s:I}", "events", kept, "next_after", (json_int_t)l->after),
            NULL);
    }
    json_decref(events);
    free(l);
}

static void list_read(struct event_list *l)
{
    app_events(l->app, l->after, l->limit, l->job[0] ? l->job : NULL, list_on_events, l);
}

static void list_events(struct api_call *c, const char *job)
{
    uint64_t after, limit;
    struct event_list *l;

    if (!take_start(c, 0, &after) ||
        !api_param_u64(c, "limit", 1, EVENTS_LIMIT_MAX, EVENTS_LIMIT_MAX, &limit))
        return;
    l = calloc(1, sizeof(*l));
    if (!l) {
        http_answer_problem(c->q, 503, "no_memory", NULL, "no memory for this request");
        return;
    }
    if (!take_types(c, l->types)) {
        free(l);
        return;
    }
    l->app = c->app;
    l->q = c->q;
    (void)snprintf(l->job, sizeof(l->job), "%s", job ? job : "");
    l->from_start = !http_header(c->q, "Last-Event-ID") && !http_query(c->q, "after");
    l->limit = (unsigned)limit;
    l->after = after;
    list_read(l);
}

void api_job_events(struct api_call *c)
{
    const struct core_job *j = api_find_job(c);

    if (j && api_only(c, "application/json"))
        list_events(c, j->id);
}

/* ---- the stream ----------------------------------------------------------------------------- */

struct event_stream {
    struct app *app;
    struct http_request *q;     /* until the stream is open */
    struct http_stream *stream; /* NULL: not open yet, or closed */
    char job[CORE_ID_MAX];      /* "": of all jobs */
    char types[TYPES_MAX];
    uint64_t sent;  /* the last sequence number that was looked at */
    uint64_t noted; /* the newest that the feed brought while pages were read */
    uint64_t
        covered; /* what was noted when the page was asked for: the page has it, if it is wanted */
    uint64_t ticket; /* of the feed; 0: none */
    bool reading;    /* a page is under way: its callback frees after a close */
    bool closed;
};

static void stream_read(struct event_stream *s);

static void stream_drop(struct event_stream *s)
{
    if (s->ticket)
        app_feed_close(s->app, s->ticket);
    s->ticket = 0;
    s->stream = NULL;
    s->closed = true;
    if (!s->reading)
        free(s);
}

static void stream_on_closed(void *arg)
{
    stream_drop(arg);
}

static bool stream_wants(const struct event_stream *s, const char *type, const char *job)
{
    return (!s->job[0] || (job && strcmp(s->job, job) == 0)) && type_admitted(s->types, type);
}

static void stream_on_feed(void *arg, uint64_t seq, const char *type, const char *job,
                           const char *data)
{
    struct event_stream *s = arg;

    if (s->reading) {
        if (seq > s->noted)
            s->noted = seq;
        return;
    }
    if (seq > 0 && seq <= s->sent)
        return;
    if (seq > 0)
        s->sent = seq;
    if (s->stream && stream_wants(s, type, job))
        http_stream_send(s->stream, seq, type, data);
}

/* Opens the answer; false: it could not be, and s is gone. */
static bool stream_begin(struct event_stream *s)
{
    struct http_request *q = s->q;

    s->q = NULL;
    if (http_stream_open(q, stream_on_closed, s, &s->stream) == 0)
        return true;
    http_answer_problem(q, 503, "no_stream", NULL, "the stream cannot be opened now");
    stream_drop(s);
    return false;
}

static void stream_send_page(struct event_stream *s, const json_t *events)
{
    const json_t *e;
    size_t i;

    json_array_foreach(events, i, e)
    {
        const char *type = lh_json_str(e, "type", "");
        uint64_t seq = (uint64_t)lh_json_i64(e, "seq", 0);
        char *text;

        if (seq > s->sent)
            s->sent = seq;
        if (!stream_wants(s, type, lh_json_str(e, "job", "")))
            continue;
        text = lh_json_text(e, 0);
        if (text)
            http_stream_send(s->stream, seq, type, text);
        free(text);
    }
}

static void stream_on_page(void *arg, json_t *events, uint64_t gone)
{
    struct event_stream *s = arg;
    bool full = json_array_size(events) == EVENTS_LIMIT_MAX;

    s->reading = false;
    if (s->closed) {
        free(s);
    } else if ((gone || !events) && s->q) {
        struct http_request *q = s->q;

        stream_drop(s);
        if (gone)
            answer_gone(q, gone);
        else
            http_answer_problem(q, 503, "unreadable", NULL, "the event log cannot be read now");
    } else if (gone || !events) {
        /* Compacted while the client was catching up: it comes back, and is told 410. */
        struct http_stream *stream = s->stream;

        stream_drop(s);
        http_stream_end(stream);
    } else if (!s->q || stream_begin(s)) {
        stream_send_page(s, events);
        if (full || s->noted > s->covered)
            stream_read(s);
        else if (s->noted > s->sent)
            s->sent = s->noted;
    }
    json_decref(events);
}

static void stream_read(struct event_stream *s)
{
    s->reading = true;
    s->covered = s->noted;
    app_events(s->app, s->sent, EVENTS_LIMIT_MAX, s->job[0] ? s->job : NULL, stream_on_page, s);
}

static void stream_on_cancel(void *arg)
{
    struct event_stream *s = arg;
    struct http_request *q = s->q;

    s->q = NULL;
    stream_drop(s);
    http_answer_problem(q, 503, "cancelled", NULL, "the client has gone");
}

static void open_stream(struct api_call *c, const char *job)
{
    struct event_stream *s = calloc(1, sizeof(*s));
    bool given = http_header(c->q, "Last-Event-ID") || http_query(c->q, "after");

    if (!s) {
        http_answer_problem(c->q, 503, "no_memory", NULL, "no memory for this request");
        return;
    }
    if (!take_start(c, app_last_seq(c->app), &s->sent) || !take_types(c, s->types)) {
        free(s);
        return;
    }
    s->app = c->app;
    s->q = c->q;
    (void)snprintf(s->job, sizeof(s->job), "%s", job ? job : "");
    s->ticket = app_feed_open(c->app, stream_on_feed, s);
    http_on_cancel(c->q, stream_on_cancel, s);
    if (!given)
        (void)stream_begin(s);
    else
        stream_read(s);
}

void api_events(struct api_call *c)
{
    const char *job = http_query(c->q, "job");
    const struct core_job *j = NULL;

    if (job) {
        j = app_find_job(c->app, job);
        if (!j) {
            http_answer_problem(c->q, 404, "no_such_job", NULL, "there is no job '%s'", job);
            return;
        }
    }
    if (api_accepts_named(c->q, "application/json") &&
        !api_accepts_named(c->q, "text/event-stream"))
        list_events(c, j ? j->id : NULL);
    else if (api_only(c, "text/event-stream"))
        open_stream(c, j ? j->id : NULL);
}
