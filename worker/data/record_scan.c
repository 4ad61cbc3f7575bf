/* record_scan.c - see record_scan.h. */
#include "worker/data/record_scan.h"
#include <string.h>

/* A byte inside a record; true when it ends the record. */
static bool inside(struct record_scan *s, char c)
{
    if (s->escaped) {
        s->escaped = false;
    } else if (s->in_string) {
        s->escaped = c == '\\';
        s->in_string = c != '"';
    } else if (c == '"') {
        s->in_string = true;
    } else if (c == '{' || c == '[') {
        s->depth++;
    } else if (c == '}' || c == ']') {
        s->depth--;
        return s->depth == 0;
    }
    return false;
}

/* A byte between records; false when it cannot stand there. */
static bool between(struct record_scan *s, char c)
{
    bool wanted = s->state == RECORD_START || s->state == RECORD_FIRST ||
                  s->state == RECORD_WANTED || s->state == RECORD_BEHIND_ONE;

    if (strchr(" \t\r\n", c) && c != '\0')
        return true;
    if (c == '{' && wanted) {
        s->state = RECORD_INSIDE;
        s->depth = 1;
        return true;
    }
    if (c == '[' && s->state == RECORD_START) {
        s->state = RECORD_FIRST;
        s->list = true;
        return true;
    }
    if (c == ',' && s->state == RECORD_BEHIND) {
        s->state = RECORD_WANTED;
        return true;
    }
    if (c == ']' && (s->state == RECORD_BEHIND || s->state == RECORD_FIRST)) {
        s->state = RECORD_CLOSED;
        return true;
    }
    return false;
}

/* Most bytes are the text of a string: steps over what cannot end it. */
static size_t plain(const struct record_scan *s, const char *text, size_t n)
{
    const char *quote, *slash;

    if (!s->in_string || s->escaped || n == 0)
        return 0;
    quote = memchr(text, '"', n);
    n = quote ? (size_t)(quote - text) : n;
    slash = n ? memchr(text, '\\', n) : NULL;
    return slash ? (size_t)(slash - text) : n;
}

size_t record_scan(struct record_scan *s, const char *text, size_t n, size_t *ret_end,
                   uint64_t *ret_records)
{
    size_t at = 0;

    *ret_end = 0;
    *ret_records = 0;
    while (at < n) {
        if (s->state == RECORD_INSIDE)
            at += plain(s, text + at, n - at);
        if (at == n)
            break;
        if (s->state != RECORD_INSIDE) {
            if (!between(s, text[at]))
                return at;
        } else if (inside(s, text[at])) {
            s->state = s->list ? RECORD_BEHIND : RECORD_BEHIND_ONE;
            *ret_end = at + 1;
            ++*ret_records;
        }
        at++;
    }
    return n;
}

bool record_scan_whole(const struct record_scan *s)
{
    return s->state == RECORD_CLOSED || s->state == RECORD_BEHIND_ONE || s->state == RECORD_START;
}
