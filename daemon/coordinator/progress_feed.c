/* progress_feed.c - new lines of journals become `job.progress` on the feed, at most one a second a
 * job.
 *
 * Progress is no transition: it has no seq, enters no database and may be missed. The newest line
 * of a job that came too soon is kept and sent by the next tick after its second, so the last
 * report always arrives. Step lines also go to STATE/jobs/ID/metrics.jsonl, with the attempt's
 * number.
 */
#include "daemon/coordinator/app_parts.h"
#include "proto/base/clock.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PERIOD_MS 1000
#define LINE_MAX_BYTES ((uint64_t)256 * 1024) /* a start line with its plan is a few KiB */

struct track {
    struct track *next;
    char job[CORE_ID_MAX];
    uint64_t attempt;
    uint64_t read;    /* of the journal: behind the last whole line that was looked at */
    uint64_t sent_ms; /* monotonic */
    char *held;       /* the newest report that waits for its second, or NULL */
};
struct progress {
    struct track *tracks; /* of jobs whose journals grew since the start; few are live at a time */
};

int progress_new(struct progress **ret, struct lh_err *reterr)
{
    struct progress *p = calloc(1, sizeof(*p));

    if (!p)
        return lh_err_set(reterr, -ENOMEM, "start");
    *ret = p;
    return 0;
}

void progress_free(struct progress *p)
{
    if (!p)
        return;
    while (p->tracks) {
        struct track *t = p->tracks;

        p->tracks = t->next;
        free(t->held);
        free(t);
    }
    free(p);
}

static struct track *track_of(struct progress *p, const char *job, uint64_t attempt, uint64_t from)
{
    struct track *t;

    for (t = p->tracks; t; t = t->next)
        if (strcmp(t->job, job) == 0)
            break;
    if (!t) {
        t = calloc(1, sizeof(*t));
        if (!t)
            return NULL;
        (void)snprintf(t->job, sizeof(t->job), "%s", job);
        t->next = p->tracks;
        p->tracks = t;
        t->attempt = attempt;
        t->read = from;
    }
    if (t->attempt != attempt) {
        t->attempt = attempt;
        t->read = from;
    }
    return t;
}

static void send_or_hold(struct app *a, struct track *t, char *text)
{
    uint64_t now = lh_mono_ms();

    free(t->held);
    t->held = NULL;
    if (t->sent_ms && now - t->sent_ms < PERIOD_MS) {
        t->held = text;
        return;
    }
    t->sent_ms = now;
    app_feed_send(a, 0, "job.progress", t->job, text);
    free(text);
}

static void append_metrics(struct app *a, const struct track *t, json_t *line)
{
    char path[4300], dir[4200];
    json_t *copy = json_copy(line);
    char *text;

    (void)json_object_set_new(copy, "attempt", json_integer((json_int_t)t->attempt));
    text = lh_json_text(copy, 0);
    (void)snprintf(path, sizeof(path), "%s/metrics.jsonl",
                   app_job_dir(a, t->job, dir, sizeof(dir)));
    if (text) {
        size_t n = strlen(text);

        text[n] = '\n'; /* over the final 0: the length goes along */
        (void)!lh_append_file(path, text, n + 1, NULL);
    }
    free(text);
    json_decref(copy);
}

static void take_line(struct app *a, struct track *t, const char *text, size_t len)
{
    LH_CLEANUP(lh_json_decrefp) json_t *line = NULL;
    json_t *event;
    const char *type;
    bool measured;
    char *out;

    if (lh_json_parse(text, len, 32, &line, NULL) < 0 || !json_is_object(line))
        return;
    type = lh_json_str(line, "type", "");
    measured =
        strcmp(type, "step") == 0 || strcmp(type, "eval") == 0 || strcmp(type, "passkey") == 0;
    if (!measured && strcmp(type, "phase") != 0 && strcmp(type, "warning") != 0)
        return;
    if (measured)
        append_metrics(a, t, line);
    event =
        json_pack("{s:n,s:s,s:s,s:s,s:I,s:O}", "seq", "time", lh_json_str(line, "time", ""), "type",
                  "job.progress", "job", t->job, "attempt", (json_int_t)t->attempt, "data", line);
    out = event ? lh_json_text(event, 0) : NULL;
    json_decref(event);
    if (out)
        send_or_hold(a, t, out);
}

void progress_grown(struct app *a, const char *job, uint64_t attempt, const char *path,
                    uint64_t from, uint64_t to)
{
    struct track *t = track_of(a->progress, job, attempt, from);
    int fd = t ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    char *buf = NULL, *at, *end;
    ssize_t n = -1;

    if (fd >= 0 && to > t->read && to - t->read <= LINE_MAX_BYTES + ((uint64_t)1 << 20))
        buf = malloc((size_t)(to - t->read));
    if (buf)
        n = pread(fd, buf, (size_t)(to - t->read), (off_t)t->read);
    for (at = buf; n > 0 && (end = memchr(at, '\n', (size_t)(buf + n - at))); at = end + 1)
        take_line(a, t, at, (size_t)(end - at));
    if (n > 0)
        t->read += (uint64_t)(at - buf);
    else if (t)
        t->read = to; /* a line without end, or unreadable: go on behind it */
    free(buf);
    if (fd >= 0)
        (void)close(fd);
}

void progress_flush(struct app *a)
{
    uint64_t now = lh_mono_ms();

    for (struct track **at = &a->progress->tracks; *at;) {
        struct track *t = *at;
        const struct core_job *j = core_find_job(a->core, t->job);

        if (t->held && now - t->sent_ms >= PERIOD_MS) {
            t->sent_ms = now;
            app_feed_send(a, 0, "job.progress", t->job, t->held);
            free(t->held);
            t->held = NULL;
        }
        if (!t->held && (!j || lh_job_is_final(j->state)) && now - t->sent_ms > 60000) {
            *at = t->next;
            free(t);
            continue;
        }
        at = &t->next;
    }
}
