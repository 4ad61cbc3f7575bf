/* files.c - what an attempt's files hold: logs by byte offset, and the journal's numbers.
 *
 * Both files only grow, so an offset stays good for ever. A read is bounded; a client comes back
 * with the offset of the answer. With follow=1 a read at the end waits for more, for at most `wait`
 * seconds.
 */
#include "daemon/coordinator/api/api.h"
#include "proto/base/buf.h"
#include "proto/base/clock.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOGS_BYTES_MAX ((uint64_t)1 << 20)
#define METRICS_BYTES_MAX ((size_t)2 << 20) /* of the journal, a request: some 5000 reports */
#define METRICS_LINES_MAX 5000

struct log_read {
    struct app *app;
    struct http_request *q;
    char job[CORE_ID_MAX];
    uint64_t attempt, offset, limit, until_ms;
    char path[1200];
};

/* The attempt of ?attempt=, by default the newest; NULL after an answer. */
static const struct core_attempt *find_attempt(struct api_call *c, const struct core_job *j)
{
    uint64_t number;

    if (!api_param_u64(c, "attempt", 1, INT64_MAX, 0, &number))
        return NULL;
    if (j->n_attempts == 0) {
        http_answer_problem(c->q, 404, "no_attempt", NULL, "job '%s' has not been started yet",
                            c->segment[2]);
        return NULL;
    }
    if (number == 0)
        return &j->attempts[j->n_attempts - 1];
    for (unsigned i = 0; i < j->n_attempts; i++)
        if (j->attempts[i].number == number)
            return &j->attempts[i];
    http_answer_problem(c->q, 404, "no_attempt", NULL, "job '%s' has no attempt %llu",
                        c->segment[2], (unsigned long long)number);
    return NULL;
}

static bool attempt_is_over(const struct app *a, const char *job, uint64_t attempt)
{
    const struct core_job *j = core_find_job(app_core(a), job);

    for (unsigned i = 0; j && i < j->n_attempts; i++)
        if (j->attempts[i].number == attempt)
            return lh_attempt_is_final(j->attempts[i].state);
    return true;
}

static void set_number(struct http_request *q, const char *name, uint64_t value)
{
    char text[24];

    (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    http_set_header(q, name, text);
}

/* Answers and returns true, or returns false when there is nothing beyond the offset yet. */
static bool log_answer(struct log_read *r, bool may_wait)
{
    int fd = open(r->path, O_RDONLY | O_CLOEXEC);
    struct stat st = {0};
    bool over =
        attempt_is_over(r->app, r->job, r->attempt); /* before the read: then it is all there */
    char *bytes;
    ssize_t n = 0;

    if (fd >= 0 && fstat(fd, &st) < 0)
        st.st_size = 0;
    if (r->offset > (uint64_t)st.st_size) {
        http_answer_problem(r->q, 416, "offset_too_large", NULL, "the log has %lld bytes so far",
                            (long long)st.st_size);
        goto out;
    }
    if (r->offset == (uint64_t)st.st_size && may_wait && !over) {
        if (fd >= 0)
            (void)close(fd);
        return false;
    }
    bytes = malloc(r->limit);
    if (bytes && fd >= 0)
        n = pread(fd, bytes, r->limit, (off_t)r->offset);
    if (!bytes || n < 0) {
        http_answer_problem(r->q, 503, "unreadable", NULL, "the log cannot be read: %s",
                            strerror(bytes ? errno : ENOMEM));
    } else {
        set_number(r->q, "X-Longhaul-Offset", r->offset + (uint64_t)n);
        http_set_header(r->q, "X-Longhaul-End",
                        over && r->offset + (uint64_t)n == (uint64_t)st.st_size ? "true" : "false");
        http_answer_bytes(r->q, 200, "text/plain; charset=utf-8", bytes, (size_t)n, NULL);
    }
    free(bytes);
out:
    if (fd >= 0)
        (void)close(fd);
    return true;
}

static void log_on_tick(void *arg)
{
    struct log_read *r = arg;

    if (log_answer(r, lh_mono_ms() < r->until_ms))
        free(r);
}

static void log_on_cancel(void *arg)
{
    struct log_read *r = arg;

    http_answer_problem(r->q, 503, "cancelled", NULL, "the client has gone");
    free(r);
}

/* rank: a number below the gang's slots, or launch for mpirun's own output. */
static bool take_rank(struct api_call *c, const struct core_job *j, char *file, size_t cap)
{
    const char *rank = http_query(c->q, "rank");
    int64_t number = 0;

    if (rank && strcmp(rank, "launch") == 0) {
        (void)snprintf(file, cap, "launch.log");
        return true;
    }
    if (rank && !lh_parse_i64(rank, 0, INT32_MAX, &number)) {
        api_bad_param(c, "rank",
                      "must be a rank's number, or launch for the launcher's own output");
        return false;
    }
    if (number >= j->job->resources.slots) {
        http_answer_problem(c->q, 404, "no_rank", NULL, "job '%s' has %lld ranks, the first is 0",
                            c->segment[2], (long long)j->job->resources.slots);
        return false;
    }
    (void)snprintf(file, cap, "%lld.log", (long long)number);
    return true;
}

void api_job_logs(struct api_call *c)
{
    const struct core_job *j = api_find_job(c);
    const struct core_attempt *t;
    struct log_read *r;
    uint64_t wait_s;
    char file[32];
    bool follow;

    if (!j || !api_only(c, "text/plain") || !api_param_bool(c, "follow", &follow) ||
        !take_rank(c, j, file, sizeof(file)))
        return;
    t = find_attempt(c, j);
    r = t ? calloc(1, sizeof(*r)) : NULL;
    if (!r) {
        if (t)
            http_answer_problem(c->q, 503, "no_memory", NULL, "no memory for this request");
        return;
    }
    if (!api_param_u64(c, "offset", 0, INT64_MAX, 0, &r->offset) ||
        !api_param_u64(c, "limit", 1, LOGS_BYTES_MAX, LOGS_BYTES_MAX, &r->limit) ||
        !api_param_u64(c, "wait", 0, API_WAIT_MAX_S, 30, &wait_s)) {
        free(r);
        return;
    }
    r->app = c->app;
    r->q = c->q;
    (void)snprintf(r->job, sizeof(r->job), "%s", j->id);
    r->attempt = t->number;
    r->until_ms = lh_mono_ms() + wait_s * 1000;
    api_attempt_file(c->app, j, t->number, file, r->path, sizeof(r->path));
    if (log_answer(r, follow && wait_s > 0)) {
        free(r);
        return;
    }
    http_set_route(c->q, "/v1/jobs/{id}/logs?follow");
    http_on_cancel(c->q, log_on_cancel, r);
    http_on_tick(c->q, log_on_tick, r);
}

/* ---- the journal's numbers ------------------------------------------------------------------ */

static bool wanted(const char *types, const char *type)
{
    size_t n = strlen(type);

    while (*types) {
        size_t len = strcspn(types, ",");

        if (len == n && strncmp(types, type, n) == 0)
            return true;
        types += len;
        if (*types == ',')
            types++;
    }
    return false;
}

/* Copies the wanted whole lines of text[0..len) to out; *ret_used is what was looked at. */
static int filter_lines(const char *text, size_t len, const char *types, uint64_t limit,
                        struct lh_buf *out, size_t *ret_used)
{
    size_t at = 0;
    uint64_t n = 0;
    int rc = 0;

    while (rc == 0 && n < limit) {
        const char *end = memchr(text + at, '\n', len - at);
        size_t line_len = end ? (size_t)(end - text) - at : 0;
        json_t *line = NULL;

        if (!end)
            break;
        if (lh_json_parse(text + at, line_len, 8, &line, NULL) == 0 &&
            wanted(types, lh_json_str(line, "type", ""))) {
            rc = lh_buf_append(out, text + at, line_len + 1);
            n++;
        }
        json_decref(line);
        at += line_len + 1;
    }
    *ret_used = at;
    return rc;
}

void api_job_metrics(struct api_call *c)
{
    const struct core_job *j = api_find_job(c);
    const char *types = http_query(c->q, "types");
    const struct core_attempt *t;
    uint64_t offset, limit;
    struct lh_buf out;
    char path[1200];
    size_t used = 0;
    char *text;
    ssize_t n = 0;
    int fd;

    if (!j || !api_only(c, "application/x-ndjson") ||
        !api_param_u64(c, "offset", 0, INT64_MAX, 0, &offset) ||
        !api_param_u64(c, "limit", 1, METRICS_LINES_MAX, METRICS_LINES_MAX, &limit))
        return;
    if (types && (!*types || strlen(types) > 200 ||
                  strspn(types, "abcdefghijklmnopqrstuvwxyz_,") != strlen(types))) {
        api_bad_param(c, "types",
                      "takes types of reports separated by commas, 200 characters at most");
        return;
    }
    t = find_attempt(c, j);
    if (!t)
        return;
    api_attempt_file(c->app, j, t->number, "events.jsonl", path, sizeof(path));
    text = malloc(METRICS_BYTES_MAX);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (text && fd >= 0)
        n = pread(fd, text, METRICS_BYTES_MAX, (off_t)offset);
    if (fd >= 0)
        (void)close(fd);
    lh_buf_init(&out, METRICS_BYTES_MAX);
    if (!text || n < 0 ||
        filter_lines(text, (size_t)n, types ? types : "step,eval,passkey", limit, &out, &used) <
            0) {
        http_answer_problem(c->q, 503, "unreadable", NULL, "the journal cannot be read");
    } else {
        set_number(c->q, "X-Longhaul-Offset", offset + used);
        http_answer_bytes(c->q, 200, "application/x-ndjson", out.data ? out.data : "", out.len,
                          NULL);
    }
    lh_buf_release(&out);
    free(text);
}
