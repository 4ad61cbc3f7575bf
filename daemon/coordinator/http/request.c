/* request.c - one request from libmicrohttpd's callbacks to the handler, and what handlers may ask
 * of it.
 *
 * libmicrohttpd calls request_on_uri with the request line, request_on_data first without data (the
 * header is there), then with the body's pieces, then without data again (complete), and once more
 * when a suspended connection goes on. A refusal found early is answered only when the body has
 * been read, unless the body's end cannot be told or the client waits for a 100: an answer before
 * the end makes libmicrohttpd close, and the reset that follows can overtake the answer.
 */
#include "daemon/coordinator/http/internal.h"
#include "proto/base/clock.h"
#include "proto/base/str.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

void *request_on_uri(void *cls, const char *uri, struct MHD_Connection *mhd)
{
    struct http_server *s = cls;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct connection *c = info ? info->socket_context : NULL;
    struct http_request *q;

    if (!c || c->cut || !uri)
        return NULL;
    q = calloc(1, sizeof(*q));
    if (!q)
        return NULL;
    lh_arena_init(&q->arena, HTTP_ARENA_MAX);
    q->server = s;
    q->conn = c;
    q->route = "other";
    q->principal = "";
    q->started_ns = lh_mono_ns();
    q->uri_at = uri;
    q->uri_len = strlen(uri);
    q->raw_uri = lh_arena_strdup(&q->arena, uri);
    (void)snprintf(q->id, sizeof(q->id), "%s-%llx", s->id_prefix,
                   (unsigned long long)++s->n_requests);
    lh_buf_init(&q->body, s->config.body_max);
    assert(!c->request);
    c->request = q;
    connection_phase_set(c, CONN_RECEIVING, 0);
    return q;
}

/* A client's own request id is kept when it is a plain word: it ties its log to ours. */
static void take_request_id(struct http_request *q)
{
    const char *given = http_header(q, "X-Request-Id");
    size_t n = given ? strlen(given) : 0;

    if (n == 0 || n >= sizeof(q->id))
        return;
    for (size_t i = 0; i < n; i++) {
        char c = given[i];

        if (!((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
              c == '-' || c == '_' || c == '.'))
            return;
    }
    memcpy(q->id, given, n + 1);
}

static void refuse(struct http_request *q, int status, const char *code, const char *text)
{
    if (q->refuse_status)
        return;
    q->refuse_status = status;
    q->refuse_code = code;
    q->refuse_text = text;
}

static void refuse_large(struct http_request *q)
{
    const char *text = lh_arena_printf(
        &q->arena, "the body has more than the %zu bytes that are taken (limits.body_bytes)",
        q->server->config.body_max);

    refuse(q, 413, "body_too_large", text ? text : "the body is larger than this server takes");
}

/* The header is complete. */
static enum MHD_Result request_begin(struct http_request *q, struct MHD_Connection *mhd,
                                     const char *method, const char *version)
{
    const char *length;
    int64_t n = 0;
    bool at_once;

    q->begun = true;
    q->method = lh_arena_strdup(&q->arena, method);
    if (!q->method || !q->raw_uri)
        return MHD_NO;
    at_once = framing_check(q, mhd, method, version);
    take_request_id(q);
    if (!at_once) {
        if (q->server->stopping)
            refuse(q, 503, "stopping", "the server is stopping; try again in a moment");
        if (!uri_split(q))
            refuse(q, 400, "bad_uri",
                   "the request target is not a valid URI: control characters, spaces and "
                   "bytes that are not UTF-8 are refused, also when percent-encoded");
        auth_check(q);
        length = http_header(q, "Content-Length");
        if (length &&
            (!lh_parse_i64(length, 0, INT64_MAX, &n) || (uint64_t)n > q->server->config.body_max))
            refuse_large(q);
        at_once = q->refuse_status && (http_header(q, "Expect") || (uint64_t)n > HTTP_DISCARD_MAX);
    }
    if (!at_once)
        return MHD_YES;
    http_set_header(q, "Connection", "close");
    answer_refusal(q);
    return answer_queue(q);
}

static enum MHD_Result request_take_body(struct http_request *q, const char *data, size_t *size)
{
    if (!q->refuse_status && lh_buf_append(&q->body, data, *size) < 0) {
        refuse_large(q);
        lh_buf_release(&q->body);
    }
    if (q->refuse_status) {
        q->discarded += *size;
        if (q->discarded > HTTP_DISCARD_MAX)
            return MHD_NO;
    }
    *size = 0;
    return MHD_YES;
}

static enum MHD_Result request_dispatch(struct http_request *q)
{
    struct http_server *s = q->server;

    connection_phase_set(q->conn, CONN_WAITING, 0);
    if (q->refuse_status) {
        answer_refusal(q);
        return answer_queue(q);
    }
    q->in_handler = true;
    q->handler_owns = true;
    s->handler(s->handler_arg, q);
    q->in_handler = false;
    if (q->response)
        return answer_queue(q);
    if (q->conn->cut)
        return MHD_NO;
    connection_suspend(q->conn);
    return MHD_YES;
}

enum MHD_Result request_on_data(void *cls, struct MHD_Connection *mhd, const char *url,
                                const char *method, const char *version, const char *data,
                                size_t *size, void **context)
{
    struct http_request *q = *context;

    (void)cls;
    (void)url;
    if (!q || q->conn->cut)
        return MHD_NO;
    if (!q->begun)
        return request_begin(q, mhd, method, version);
    if (*size > 0)
        return request_take_body(q, data, size);
    if (q->response)
        return answer_queue(q);
    if (q->conn->phase == CONN_RECEIVING)
        return request_dispatch(q);
    /* Resumed without an answer: only a cut does that. */
    return MHD_NO;
}

void request_on_completed(void *cls, struct MHD_Connection *mhd, void **context,
                          enum MHD_RequestTerminationCode code)
{
    struct http_request *q = *context;
    void (*cancelled)(void *arg);

    (void)cls;
    (void)mhd;
    if (!q)
        return;
    *context = NULL;
    q->conn->request = NULL;
    if (code == MHD_REQUEST_TERMINATED_COMPLETED_OK)
        connection_phase_set(q->conn, CONN_IDLE, 0);
    if (q->stream)
        stream_on_gone(q->stream);
    q->conn = NULL;
    q->server = NULL;
    q->mhd_done = true;
    if (q->response) {
        MHD_destroy_response(q->response);
        q->response = NULL;
    }
    cancelled = q->handler_owns ? q->cancelled : NULL;
    q->cancelled = NULL;
    if (cancelled)
        cancelled(q->cancelled_arg); /* may answer, which frees q */
    else
        request_release(q);
}

void request_release(struct http_request *q)
{
    if (!q->mhd_done || q->handler_owns)
        return;
    lh_arena_release(&q->arena);
    lh_buf_release(&q->body);
    free(q);
}

const char *http_method(const struct http_request *q)
{
    return q->method;
}

const char *http_path(const struct http_request *q)
{
    return q->path;
}

bool http_query_at(const struct http_request *q, unsigned i, const char **ret_name,
                   const char **ret_value)
{
    if (i >= q->n_params)
        return false;
    *ret_name = q->params[i].name;
    *ret_value = q->params[i].value;
    return true;
}

const char *http_query(const struct http_request *q, const char *name)
{
    for (unsigned i = 0; i < q->n_params; i++)
        if (strcmp(q->params[i].name, name) == 0)
            return q->params[i].value;
    return NULL;
}

const char *http_header(const struct http_request *q, const char *name)
{
    for (unsigned i = 0; i < q->n_headers; i++)
        if (strcasecmp(q->headers[i].name, name) == 0)
            return q->headers[i].value;
    return NULL;
}

const void *http_body(const struct http_request *q, size_t *ret_len)
{
    *ret_len = q->body.len;
    return q->body.data;
}

const char *http_principal(const struct http_request *q)
{
    return q->principal;
}

enum http_role http_role(const struct http_request *q)
{
    return q->role;
}

const char *http_request_id(const struct http_request *q)
{
    return q->id;
}

struct metrics *http_metrics(const struct http_request *q)
{
    return q->server ? q->server->metrics : NULL;
}

void http_set_route(struct http_request *q, const char *route)
{
    q->route = route;
}

void http_set_header(struct http_request *q, const char *name, const char *value)
{
    struct param *p = &q->extra[q->n_extra];

    assert(q->n_extra < LH_ARRAY_LEN(q->extra));
    p->name = lh_arena_strdup(&q->arena, name);
    p->value = lh_arena_strdup(&q->arena, value);
    if (p->name && p->value)
        q->n_extra++;
}

void http_on_cancel(struct http_request *q, void (*cancelled)(void *arg), void *arg)
{
    q->cancelled = cancelled;
    q->cancelled_arg = arg;
}

void http_on_tick(struct http_request *q, void (*tick)(void *arg), void *arg)
{
    q->tick = tick;
    q->tick_arg = arg;
}
