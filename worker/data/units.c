/* units.c - see units.h. */
#include "worker/data/units.h"
#include "proto/base/str.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UNIT_BYTES_MAX ((size_t)1 << 30) /* one line, or a document that cannot be cut */

enum unit_kind unit_kind_of(const char *path, bool records)
{
    static const char *const packings[] = {"", ".gz", ".zst"};

    for (unsigned i = 0; i < LH_ARRAY_LEN(packings); i++) {
        char lines[16], json[16];

        (void)snprintf(lines, sizeof(lines), ".jsonl%s", packings[i]);
        (void)snprintf(json, sizeof(json), ".json%s", packings[i]);
        if (lh_ends_with(path, lines))
            return UNIT_LINES;
        if (records && lh_ends_with(path, json))
            return UNIT_RECORDS;
    }
    return UNIT_PLAIN;
}

void unit_reader_release(struct unit_reader *r)
{
    text_stream_close(r->stream);
    free(r->rest);
    r->stream = NULL;
    r->rest = NULL;
}

static bool letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* U+5000 to U+9FFF, ideographs all, by their first byte. */
static bool ideograph(char c)
{
    return (uint8_t)c >= 0xe5 && (uint8_t)c <= 0xe9;
}

/* A letter that begins a line behind one that does not end in white space: ideographs are written
 * without spaces. */
static bool begins_line(const char *text, size_t i)
{
    const char *end = text + i - 1; /* of the line before */
    bool full_stop;

    if (*end != '\n' || !(letter(text[i]) || ideograph(text[i])))
        return false;
    if (end[-1] > ' ' && end[-1] < 0x7f)
        return true;
    full_stop = i > 3 && memcmp(end - 3, "\xe3\x80\x82", 3) == 0;
    return full_stop || (i > 3 && ideograph(end[-3]));
}

/* Bytes up to the last newline; 0: there is none. */
static size_t last_line(const char *text, size_t n)
{
    const char *newline = n ? memrchr(text, '\n', n) : NULL;

    return newline ? (size_t)(newline - text) + 1 : 0;
}

/* Bytes up to the last place where a document may be cut; 0: nowhere. */
static size_t last_cut(const char *text, size_t n, bool lines)
{
    for (size_t i = n; i-- > 2;) {
        if (letter(text[i]) && text[i - 1] == ' ' && letter(text[i - 2]))
            return i - 1;
        if (lines && begins_line(text, i))
            return i;
    }
    return 0;
}

static int grow_rest(struct unit_reader *r, size_t target, struct lh_err *reterr)
{
    char *more;

    if (target <= r->rest_cap)
        return 0;
    more = realloc(r->rest, target);
    if (!more)
        return lh_err_set(reterr, -ENOMEM, "read '%s'", r->list->paths[r->file]);
    r->rest = more;
    r->rest_cap = target;
    return 0;
}

static int fill(struct unit_reader *r, size_t target, struct lh_err *reterr)
{
    int rc = grow_rest(r, target, reterr);

    while (rc == 0 && !r->eof && r->rest_n < target) {
        size_t n;

        rc = text_stream_read(r->stream, r->rest + r->rest_n, target - r->rest_n, &n, reterr);
        if (rc == 0) {
            r->rest_n += n;
            r->eof = n == 0;
        }
    }
    return rc;
}

static int hand_out(struct unit_reader *r, size_t n, struct unit *u, struct lh_err *reterr)
{
    if (n > u->cap || !u->text) { /* text is never NULL, not of an empty file either */
        char *more = realloc(u->text, LH_MAX(n, (size_t)1));

        if (!more)
            return lh_err_set(reterr, -ENOMEM, "read '%s'", r->list->paths[r->file]);
        u->text = more;
        u->cap = n;
    }
    if (n > 0) {
        memcpy(u->text, r->rest, n);
        memmove(r->rest, r->rest + n, r->rest_n - n);
    }
    r->rest_n -= n;
    u->path = r->list->paths[r->file];
    u->len = n;
    u->offset = r->offset;
    u->first = r->next;
    u->ends_document = r->eof && r->rest_n == 0;
    u->done_bytes = r->before_bytes + text_stream_position(r->stream);
    r->offset += n;
    for (size_t i = 0; u->kind == UNIT_LINES && i < n; i++)
        r->next += u->text[i] == '\n';
    if (u->kind == UNIT_RECORDS) {
        r->next += r->n_records;
        r->scanned -= n;
        r->records_end = 0;
        r->n_records = 0;
    }
    if (u->ends_document) {
        r->before_bytes = u->done_bytes;
        text_stream_close(r->stream);
        r->stream = NULL;
        r->file++;
        u->after = (struct unit_place){.file = r->file};
    } else {
        u->after = (struct unit_place){
            .file = r->file, .offset = r->offset, .next = r->next, .list = r->scan.list};
    }
    u->after.before_bytes = r->before_bytes;
    u->after.done_bytes = u->done_bytes;
    return 1;
}

void unit_reader_begin(struct unit_reader *r, const struct unit_place *at)
{
    r->from = *at;
    r->file = at->file;
    r->before_bytes = at->before_bytes;
}

static int open_next(struct unit_reader *r, struct lh_err *reterr)
{
    const struct unit_place from = r->from;
    int rc;

    r->from = (struct unit_place){0};
    r->eof = false;
    r->rest_n = 0;
    r->offset = 0;
    r->next = 1;
    r->scan = (struct record_scan){0};
    r->scanned = r->records_end = 0;
    r->n_records = 0;
    rc = text_stream_open(r->list->paths[r->file], &r->stream, reterr);
    if (rc < 0 || from.offset == 0)
        return rc;
    r->offset = from.offset;
    r->next = from.next;
    r->scan.list = from.list; /* places lie right behind a record */
    r->scan.state = from.list ? RECORD_BEHIND : RECORD_BEHIND_ONE;
    return text_stream_skip(r->stream, from.offset, reterr);
}

/* Scans what has come since; LH_EINPUT when it is no list of records. */
static int scan_records(struct unit_reader *r, struct lh_err *reterr)
{
    size_t n = r->rest_n - r->scanned, end, done;
    uint64_t records;

    done = record_scan(&r->scan, r->rest + r->scanned, n, &end, &records);
    if (end > 0)
        r->records_end = r->scanned + end;
    r->n_records += records;
    if (done < n || (r->eof && !record_scan_whole(&r->scan)))
        return lh_err_set(
            reterr, LH_EINPUT, "'%s' is no list of records: %s at byte %llu, behind record %llu",
            r->list->paths[r->file], done < n ? "there is something else" : "it is cut short",
            (unsigned long long)(r->offset + r->scanned + done),
            (unsigned long long)(r->next + r->n_records - 1));
    r->scanned = r->rest_n;
    return 0;
}

/* Bytes that may be handed out before the end of the file; 0: none yet. */
static size_t ready_bytes(const struct unit_reader *r, enum unit_kind kind)
{
    if (kind == UNIT_RECORDS)
        return r->records_end;
    if (kind == UNIT_LINES)
        return last_line(r->rest, r->rest_n);
    return r->cut_documents ? last_cut(r->rest, r->rest_n, r->cut_lines) : 0;
}

int unit_next(struct unit_reader *r, struct unit *u, struct lh_err *reterr)
{
    static const char *const what[] = {
        [UNIT_PLAIN] = "a document", [UNIT_LINES] = "a line", [UNIT_RECORDS] = "a record"};
    const char *path;
    int rc = 0;

    if (r->file == r->list->n)
        return 0;
    path = r->list->paths[r->file];
    if (!r->stream)
        rc = open_next(r, reterr);
    u->kind = unit_kind_of(path, r->records);
    for (size_t target = r->target; rc == 0; target *= 2) {
        size_t n;

        if (target > UNIT_BYTES_MAX)
            return lh_err_set(reterr, LH_EINPUT, "'%s': %s (number %llu) is longer than %zu bytes",
                              path, what[u->kind], (unsigned long long)r->next, UNIT_BYTES_MAX);
        rc = fill(r, target, reterr);
        if (rc == 0 && u->kind == UNIT_RECORDS)
            rc = scan_records(r, reterr);
        if (rc < 0)
            break;
        if (r->eof && r->offset + r->rest_n == 0)
            return lh_err_set(reterr, LH_EINPUT, "'%s' is empty", path);
        if (r->eof)
            return hand_out(r, r->rest_n, u, reterr);
        n = ready_bytes(r, u->kind);
        if (n > 0)
            return hand_out(r, n, u, reterr);
    }
    return rc;
}
