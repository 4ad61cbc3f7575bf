/* units.c - see units.h. */
#include "worker/data/units.h"
#include "proto/base/str.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define UNIT_BYTES_MAX ((size_t)1 << 30) /* one line, or a document that cannot be cut */

bool unit_is_lines(const char *path)
{
    return lh_ends_with(path, ".jsonl") || lh_ends_with(path, ".jsonl.gz") ||
           lh_ends_with(path, ".jsonl.zst");
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

/* Bytes up to the last place where the text may be cut; 0: nowhere. */
static size_t last_cut(const char *text, size_t n, bool lines)
{
    if (lines) {
        const char *newline = n ? memrchr(text, '\n', n) : NULL;

        return newline ? (size_t)(newline - text) + 1 : 0;
    }
    for (size_t i = n; i-- > 2;) {
        if (letter(text[i]) && text[i - 1] == ' ' && letter(text[i - 2]))
            return i - 1;
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
    if (n > u->cap) {
        char *more = realloc(u->text, n);

        if (!more)
            return lh_err_set(reterr, -ENOMEM, "read '%s'", r->list->paths[r->file]);
        u->text = more;
        u->cap = n;
    }
    memcpy(u->text, r->rest, n);
    memmove(r->rest, r->rest + n, r->rest_n - n);
    r->rest_n -= n;
    u->path = r->list->paths[r->file];
    u->len = n;
    u->offset = r->offset;
    u->first_line = r->line;
    u->ends_document = r->eof && r->rest_n == 0;
    u->done_bytes = r->before_bytes + text_stream_position(r->stream);
    r->offset += n;
    for (size_t i = 0; u->lines && i < n; i++)
        r->line += u->text[i] == '\n';
    if (u->ends_document) {
        r->before_bytes = u->done_bytes;
        text_stream_close(r->stream);
        r->stream = NULL;
        r->file++;
    }
    return 1;
}

static int open_next(struct unit_reader *r, struct lh_err *reterr)
{
    r->eof = false;
    r->rest_n = 0;
    r->offset = 0;
    r->line = 1;
    return text_stream_open(r->list->paths[r->file], &r->stream, reterr);
}

int unit_next(struct unit_reader *r, struct unit *u, struct lh_err *reterr)
{
    const char *path;
    int rc = 0;

    if (r->file == r->list->n)
        return 0;
    path = r->list->paths[r->file];
    if (!r->stream)
        rc = open_next(r, reterr);
    u->lines = unit_is_lines(path);
    for (size_t target = r->target; rc == 0; target *= 2) {
        size_t n;

        if (target > UNIT_BYTES_MAX)
            return lh_err_set(
                reterr, LH_EINPUT, "'%s': %s beginning at line %llu is longer than %zu bytes", path,
                u->lines ? "a line" : "a document", (unsigned long long)r->line, UNIT_BYTES_MAX);
        rc = fill(r, target, reterr);
        if (rc < 0)
            break;
        if (r->eof && r->offset + r->rest_n == 0)
            return lh_err_set(reterr, LH_EINPUT, "'%s' is empty", path);
        if (r->eof)
            return hand_out(r, r->rest_n, u, reterr);
        n = u->lines || r->cut_documents ? last_cut(r->rest, r->rest_n, u->lines) : 0;
        if (n > 0)
            return hand_out(r, n, u, reterr);
    }
    return rc;
}
