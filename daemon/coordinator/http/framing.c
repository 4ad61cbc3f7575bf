/* framing.c - refuses requests whose header another program could read differently than
 * libmicrohttpd does.
 *
 * libmicrohttpd 0.9.75 takes bare LF as line ends, unfolds continued lines, stops values at NUL,
 * and takes the first of several Content-Length or Transfer-Encoding fields. Most of that can be
 * seen in the fields it hands out. What cannot (bare LF, folding, NUL) is seen by where they lie:
 * it parses in place, in one buffer, writing a 0 over each colon and line end. So in a plain
 * request each string begins exactly where the one before it ends, plus its separator; anything
 * else moves one of them. Only addresses are compared, and nothing is read between the strings but
 * the blanks behind a colon. Later versions (>= 0.9.76) refuse these requests themselves and may
 * lay the strings out differently, so the comparison is made with 0.9.75 only.
 * tests/unit/test_http.c sends all of these over real sockets, so that a change of layout is seen.
 */
#include "daemon/coordinator/http/internal.h"
#include <stdint.h>
#include <string.h>
#include <strings.h>

#define LAYOUT_KNOWN "0.9.75"

struct scan {
    struct http_request *q;
    uintptr_t next; /* where the next field must begin */
    bool layout;    /* everything lies where it must so far */
    bool bad_name, bad_value, too_many;
    unsigned n_host, n_length, n_coding;
    const char *coding;
};

static bool is_token(const char *s, size_t n)
{
    if (n == 0)
        return false;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        bool alnum = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');

        if (!alnum && (c == 0 || !strchr("!#$%&'*+-.^_`|~", c)))
            return false;
    }
    return true;
}

static bool is_value(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];

        if ((c < ' ' && c != '\t') || c == 0x7f)
            return false;
    }
    return true;
}

static bool blanks_between(const char *from, const char *to)
{
    for (; from < to; from++)
        if (*from != ' ' && *from != '\t')
            return false;
    return true;
}

static void scan_layout(struct scan *sc, const char *name, size_t name_len, const char *value,
                        size_t value_len)
{
    uintptr_t colon = (uintptr_t)name + name_len;
    uintptr_t at = (uintptr_t)value;

    if (!sc->layout)
        return;
    sc->layout = (uintptr_t)name == sc->next && at > colon && at - colon <= HTTP_HEADER_MAX &&
                 blanks_between(name + name_len + 1, value);
    sc->next = at + value_len + 2;
}

static enum MHD_Result scan_field(void *cls, enum MHD_ValueKind kind, const char *name,
                                  size_t name_len, const char *value, size_t value_len)
{
    struct scan *sc = cls;
    struct http_request *q = sc->q;
    struct param *p;

    (void)kind;
    if (!value)
        value = "";
    scan_layout(sc, name, name_len, value, value_len);
    sc->bad_name |= !is_token(name, name_len);
    sc->bad_value |= !is_value(value, value_len);
    if (q->n_headers == HTTP_HEADERS_MAX) {
        sc->too_many = true;
        return MHD_YES;
    }
    p = &q->headers[q->n_headers++];
    p->name = lh_arena_printf(&q->arena, "%.*s", (int)name_len, name);
    p->value = lh_arena_printf(&q->arena, "%.*s", (int)value_len, value);
    if (!p->name || !p->value) {
        q->n_headers--;
        sc->too_many = true;
        return MHD_YES;
    }
    sc->n_host += strcasecmp(p->name, "Host") == 0;
    sc->n_length += strcasecmp(p->name, "Content-Length") == 0;
    if (strcasecmp(p->name, "Transfer-Encoding") == 0) {
        sc->n_coding++;
        sc->coding = p->value;
    }
    return MHD_YES;
}

static bool refuse(struct http_request *q, int status, const char *code, const char *text)
{
    q->refuse_status = status;
    q->refuse_code = code;
    q->refuse_text = text;
    return true;
}

static bool check_fields(struct http_request *q, const struct scan *sc, bool http_1_0)
{
    if (sc->bad_name)
        return refuse(q, 400, "bad_header",
                      "a header field name has a character that is not allowed there");
    if (sc->bad_value)
        return refuse(q, 400, "bad_header", "a header field value has a control character");
    if (sc->n_host > 1 || (sc->n_host == 0 && !http_1_0))
        return refuse(q, 400, "bad_host", "a request needs exactly one Host header");
    if (sc->n_length > 1)
        return refuse(q, 400, "bad_framing", "Content-Length is there more than once");
    if (sc->n_length > 0 && sc->n_coding > 0)
        return refuse(q, 400, "bad_framing",
                      "Content-Length and Transfer-Encoding exclude each other");
    if (sc->n_coding > 1 || (sc->n_coding == 1 && http_1_0))
        return refuse(q, 400, "bad_framing",
                      "Transfer-Encoding is there more than once, or in HTTP/1.0");
    if (sc->n_coding == 1 && strcasecmp(sc->coding, "chunked") != 0)
        return refuse(q, 501, "transfer_encoding", "the only transfer encoding here is chunked");
    return false;
}

bool framing_check(struct http_request *q, struct MHD_Connection *mhd, const char *method,
                   const char *version)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    size_t header_size = info ? info->header_size : 0;
    size_t method_len = strlen(method);
    size_t version_len = strlen(version);
    struct scan sc = {.q = q};

    q->headers = lh_arena_alloc(&q->arena, HTTP_HEADERS_MAX * sizeof(q->headers[0]));
    if (!q->headers)
        return refuse(q, 503, "no_memory", "no memory for this request");
    sc.layout = q->uri_at == method + method_len + 1 && version == q->uri_at + q->uri_len + 1 &&
                version_len == strlen("HTTP/1.1");
    sc.next = (uintptr_t)version + version_len + 2;
    (void)MHD_get_connection_values_n(mhd, MHD_HEADER_KIND, scan_field, &sc);
    if (header_size > HTTP_HEADER_MAX || sc.too_many)
        return refuse(q, 431, "header_too_large", "the header has more than 16 KiB or 100 fields");
    if (q->uri_len > HTTP_URI_MAX)
        return refuse(q, 414, "uri_too_long", "the request target has more than 8 KiB");
    if (!is_token(method, method_len))
        return refuse(q, 400, "bad_request_line",
                      "the method has a character that is not allowed there");
    if (strchr(q->raw_uri, ' '))
        return refuse(q, 400, "bad_request_line", "the request line has more than two spaces");
    if (check_fields(q, &sc, strcmp(version, "HTTP/1.0") == 0))
        return true;
    if (strcmp(MHD_get_version(), LAYOUT_KNOWN) != 0)
        return false;
    if (!sc.layout || sc.next + 2 != (uintptr_t)method + header_size)
        return refuse(q, 400, "bad_header",
                      "the header has a bare LF, a continued line, a NUL or a request line that is "
                      "not plain");
    return false;
}
