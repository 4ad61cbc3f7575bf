/* uri.c - the request target: splits path and query, and decodes both strictly.
 *
 * libmicrohttpd's own decoding is switched off or not read: it drops repeated parameters' order and
 * lets %00 through. Called once a request, before the header is looked at.
 */
#include "daemon/coordinator/http/internal.h"
#include "proto/base/str.h"
#include <string.h>

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* A decoded copy of text[0..n), or NULL: a broken %, a control character, not UTF-8, no memory. */
static char *decode(struct lh_arena *arena, const char *text, size_t n, bool query)
{
    char *out = lh_arena_alloc(arena, n + 1);
    size_t len = 0;

    if (!out)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c == '%') {
            int high = i + 2 < n ? hex(text[i + 1]) : -1;
            int low = i + 2 < n ? hex(text[i + 2]) : -1;

            if (high < 0 || low < 0)
                return NULL;
            c = (unsigned char)(high * 16 + low);
            i += 2;
        } else if (c == '+' && query) {
            c = ' ';
        } else if (c <= ' ' || c == 0x7f || c == '"' || c == '<' || c == '>') {
            return NULL; /* must be encoded */
        }
        if (c < ' ' || c == 0x7f)
            return NULL;
        out[len++] = (char)c;
    }
    out[len] = 0;
    return lh_utf8_valid(out, len) ? out : NULL;
}

static bool split_query(struct http_request *q, const char *query)
{
    q->params = lh_arena_alloc(&q->arena, HTTP_PARAMS_MAX * sizeof(q->params[0]));
    if (!q->params)
        return false;
    while (*query) {
        size_t n = strcspn(query, "&");
        const char *equals = memchr(query, '=', n);
        size_t name_len = equals ? (size_t)(equals - query) : n;

        if (n > 0) {
            struct param *p = &q->params[q->n_params];

            if (q->n_params == HTTP_PARAMS_MAX)
                return false;
            p->name = decode(&q->arena, query, name_len, true);
            p->value = equals ? decode(&q->arena, equals + 1, n - name_len - 1, true) : "";
            if (!p->name || !p->value)
                return false;
            q->n_params++;
        }
        query += n;
        if (*query == '&')
            query++;
    }
    return true;
}

bool uri_split(struct http_request *q)
{
    const char *uri = q->raw_uri;
    size_t path_len = strcspn(uri, "?#");

    if (uri[0] != '/') {
        /* The absolute form, which every server must take: "http://host/path". */
        const char *at = lh_starts_with(uri, "http://")    ? uri + 7
                         : lh_starts_with(uri, "https://") ? uri + 8
                                                           : NULL;

        at = at ? strchr(at, '/') : NULL;
        if (!at)
            return false;
        uri = at;
        path_len = strcspn(uri, "?#");
    }
    if (strchr(uri, '#'))
        return false;
    q->path = decode(&q->arena, uri, path_len, false);
    if (!q->path)
        return false;
    return uri[path_len] != '?' || split_query(q, uri + path_len + 1);
}
