/* event.c - the worker's journal: writing it without ever stopping the work, reading it by offset.
 *
 * Written by one thread of one rank; read by the shim and the node daemon while it grows. A line is
 * written with one write(2) in append mode, so a reader sees whole lines or a tail without its
 * newline, never a mix. A full disk loses reports, not training; a line that was cut short by one
 * is closed before the next.
 */
#include "proto/event.h"
#include "proto/base/clock.h"
#include "proto/base/json.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A line is a few hundred bytes; the largest, a start report with its plan, a few KiB. */
#define LINE_MAX_BYTES ((size_t)1 << 20)
#define READ_BYTES 4096

struct lh_reporter {
    int fd, beat_fd, rank; /* fd -1: drops everything */
    bool torn;             /* the last write was cut short: its line has no newline */
};

static int open_in(const char *dir, int rank, const char *suffix, int flags, struct lh_err *reterr)
{
    char path[4096];
    int fd;

    if (snprintf(path, sizeof(path), "%s/rank-%d.%s", dir, rank, suffix) >= (int)sizeof(path))
        return lh_err_set(reterr, -ENAMETOOLONG, "open the journal in '%s'", dir);
    fd = open(path, flags | O_CREAT | O_CLOEXEC, 0666);
    return fd < 0 ? lh_err_set(reterr, -errno, "open the journal '%s'", path) : fd;
}

/* A rank that was killed while it wrote leaves a line without its end; ours must not be glued to
 * it. */
static bool ends_torn(int fd)
{
    off_t size = lseek(fd, 0, SEEK_END);
    char last = '\n';

    return size > 0 && pread(fd, &last, 1, size - 1) == 1 && last != '\n';
}

int lh_reporter_open(const char *dir, int rank, struct lh_reporter **ret_reporter,
                     struct lh_err *reterr)
{
    struct lh_reporter *r = calloc(1, sizeof(*r));

    if (!r)
        return lh_err_set(reterr, -ENOMEM, "open the journal");
    *r = (struct lh_reporter){.fd = -1, .beat_fd = -1, .rank = rank};
    if (dir) {
        int rc;

        r->fd = open_in(dir, rank, "jsonl", O_RDWR | O_APPEND, reterr);
        r->beat_fd = r->fd < 0 ? -1 : open_in(dir, rank, "beat", O_WRONLY, reterr);
        if (r->fd < 0 || r->beat_fd < 0) {
            rc = r->fd < 0 ? r->fd : r->beat_fd;
            lh_reporter_close(r);
            return rc;
        }
        r->torn = ends_torn(r->fd);
    }
    *ret_reporter = r;
    return 0;
}

void lh_reporter_close(struct lh_reporter *r)
{
    if (!r)
        return;
    if (r->fd >= 0)
        (void)close(r->fd);
    if (r->beat_fd >= 0)
        (void)close(r->beat_fd);
    free(r);
}

/* The head members first, in this order, so that a journal reads well with plain tools. */
static json_t *make_line(const struct lh_reporter *r, const char *type, json_t *data)
{
    char now[LH_RFC3339_MAX];
    json_t *line = json_pack("{s:s, s:s, s:i}", "type", type, "time", lh_rfc3339(lh_now_ms(), now),
                             "rank", r->rank);

    if (line && data && json_object_update_missing(line, data) < 0) {
        json_decref(line);
        line = NULL;
    }
    json_decref(data);
    return line;
}

void lh_report(struct lh_reporter *r, const char *type, json_t *data)
{
    LH_CLEANUP(lh_json_decrefp) json_t *line = NULL;
    char *text, *out;
    size_t len;
    ssize_t n;

    assert(r);
    if (r->fd < 0) {
        json_decref(data);
        return;
    }
    line = make_line(r, type, data);
    text = line ? lh_json_text(line, 0) : NULL;
    if (!text)
        return;
    len = strlen(text);
    out = malloc(len + 2);
    if (out && len < LINE_MAX_BYTES) {
        size_t lead = r->torn ? 1 : 0;

        out[0] = '\n';
        memcpy(out + lead, text, len);
        out[lead + len] = '\n';
        do
            n = write(r->fd, out, lead + len + 1);
        while (n < 0 && errno == EINTR);
        if (n > 0)
            r->torn = out[n - 1] != '\n';
    }
    free(out);
    free(text);
}

void lh_report_beat(struct lh_reporter *r)
{
    if (r->beat_fd >= 0)
        (void)futimens(r->beat_fd, NULL);
}

/* Length of the line at offset with its newline; 0: not complete yet. */
static int64_t line_length(int fd, uint64_t offset)
{
    char chunk[READ_BYTES];
    int64_t len = 0;

    for (;;) {
        ssize_t n = pread(fd, chunk, sizeof(chunk), (off_t)(offset + (uint64_t)len));
        const char *end;

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return 0;
        end = memchr(chunk, '\n', (size_t)n);
        if (end)
            return len + (end - chunk) + 1;
        len += n;
    }
}

static int read_line(int fd, uint64_t offset, size_t len, json_t **ret_line)
{
    char *text = malloc(len);
    size_t got = 0;
    int rc = text ? 0 : -ENOMEM;

    while (rc == 0 && got < len) {
        ssize_t n = pread(fd, text + got, len - got, (off_t)(offset + got));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = -errno;
        else if (n == 0)
            rc = -EIO; /* the journal was cut */
        else
            got += (size_t)n;
    }
    if (rc == 0) {
        json_t *line = NULL;

        if (lh_json_parse(text, len, 64, &line, NULL) == 0 && json_is_object(line)) {
            *ret_line = line;
            rc = 1;
        } else {
            json_decref(line);
        }
    }
    free(text);
    return rc;
}

int lh_journal_next(int fd, uint64_t *offset, json_t **ret_line)
{
    for (;;) {
        int64_t len = line_length(fd, *offset);
        int rc = 0;

        if (len <= 0)
            return (int)len;
        if ((uint64_t)len <= LINE_MAX_BYTES)
            rc = read_line(fd, *offset, (size_t)len, ret_line);
        if (rc < 0)
            return rc;
        *offset += (uint64_t)len;
        if (rc == 1)
            return 1;
    }
}
