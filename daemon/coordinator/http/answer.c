/* answer.c - answers: JSON, bytes and RFC 9457 problems, with the headers that each of them has.
 *
 * Handlers may answer from inside the handler, or later from anywhere on the loop; in the second
 * case the connection is suspended and resumed here. An answer to a client that left, or that the
 * stopping server has answered, is dropped.
 */
#include "daemon/coordinator/http/internal.h"
#include "proto/base/clock.h"
#include "proto/base/json.h"
#include "proto/base/log.h"
#include "proto/base/str.h"
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *status_title(int status)
{
    const char *title = MHD_get_reason_phrase_for((unsigned)status);

    return title ? title : "Error";
}

void answer_common_headers(const struct http_request *q, struct MHD_Response *response)
{
    (void)MHD_add_response_header(response, "X-Request-Id", q->id);
    (void)MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    for (unsigned i = 0; i < q->n_extra; i++)
        (void)MHD_add_response_header(response, q->extra[i].name, q->extra[i].value);
    if (!MHD_get_response_header(response, "Cache-Control"))
        (void)MHD_add_response_header(response, "Cache-Control", "no-store");
}

/* "Name: value" lines of the caller. */
static void add_headers(struct MHD_Response *response, const char *const *headers)
{
    for (; headers && *headers; headers++) {
        const char *colon = strstr(*headers, ": ");
        char name[64];

        assert(colon);
        assert((size_t)(colon - *headers) < sizeof(name));
        memcpy(name, *headers, (size_t)(colon - *headers));
        name[colon - *headers] = 0;
        (void)MHD_add_response_header(response, name, colon + 2);
    }
}

enum MHD_Result answer_queue(struct http_request *q)
{
    struct http_server *s = q->server;
    const char *names[] = {"route", "code"};
    char code[8], labels[160];
    enum MHD_Result r;

    (void)snprintf(code, sizeof(code), "%d", q->status);
    metrics_add(s->m_requests,
                metrics_labels(labels, sizeof(labels), 2, names, (const char *[]){q->route, code}),
                1);
    metrics_observe(s->m_seconds, metrics_labels(labels, sizeof(labels), 1, names, &q->route),
                    (double)(lh_mono_ns() - q->started_ns) * 1e-9);
    lh_debug("http.answer", "request=%s method=%s path=%s status=%d principal=%s", q->id, q->method,
             q->path ? q->path : "-", q->status, q->principal);
    r = MHD_queue_response(q->conn->mhd, (unsigned)q->status, q->response);
    MHD_destroy_response(q->response);
    q->response = NULL;
    return r;
}

void answer_give(struct http_request *q, int status, struct MHD_Response *response, size_t bytes)
{
    q->handler_owns = false;
    if (q->mhd_done || q->answered || !response) {
        if (response)
            MHD_destroy_response(response);
        if (!response && !q->mhd_done && !q->answered)
            connection_cut(q->conn, "no_memory");
        request_release(q);
        return;
    }
    q->answered = true;
    q->status = status;
    q->response = response;
    answer_common_headers(q, response);
    connection_phase_set(q->conn, q->stream ? CONN_STREAM : CONN_SENDING, bytes);
    connection_resume(q->conn);
}

static void answer_text(struct http_request *q, int status, const char *content_type, char *text,
                        size_t len, const char *const *headers)
{
    struct MHD_Response *response =
        text ? MHD_create_response_from_buffer(len, text, MHD_RESPMEM_MUST_FREE) : NULL;

    if (!response)
        free(text);
    if (response && content_type)
        (void)MHD_add_response_header(response, "Content-Type", content_type);
    if (response)
        add_headers(response, headers);
    answer_give(q, status, response, len);
}

void http_answer_json(struct http_request *q, int status, json_t *body, const char *const *headers)
{
    char *text = body ? lh_json_text(body, 0) : NULL;

    json_decref(body);
    answer_text(q, status, "application/json", text, text ? strlen(text) : 0, headers);
}

void http_answer_bytes(struct http_request *q, int status, const char *content_type,
                       const void *bytes, size_t len, const char *const *headers)
{
    char *copy = malloc(len + 1);

    if (copy && len > 0)
        memcpy(copy, bytes, len);
    answer_text(q, status, content_type, copy, len, headers);
}

static void answer_problem(struct http_request *q, int status, const char *code, json_t *errors,
                           const char *detail)
{
    char type[128], instance[80];
    json_t *body;
    char *text;

    (void)snprintf(type, sizeof(type), "urn:longhaul:problem:%s", code);
    (void)snprintf(instance, sizeof(instance), "urn:longhaul:request:%s", q->id);
    body = json_pack("{s:s, s:s, s:i, s:s, s:s, s:s}", "type", type, "title", status_title(status),
                     "status", status, "code", code, "detail", detail, "instance", instance);
    if (body && errors)
        (void)json_object_set(body, "errors", errors);
    if (status == 503 || status == 429) {
        if (body)
            (void)json_object_set_new(body, "retry_after_s", json_integer(1));
        http_set_header(q, "Retry-After", "1");
    }
    if (status == 401)
        http_set_header(q, "WWW-Authenticate", "Bearer");
    json_decref(errors);
    text = body ? lh_json_text(body, 0) : NULL;
    json_decref(body);
    answer_text(q, status, "application/problem+json", text, text ? strlen(text) : 0, NULL);
}

void http_answer_problem(struct http_request *q, int status, const char *code, json_t *errors,
                         const char *fmt, ...)
{
    char detail[1024];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(detail, sizeof(detail), fmt, ap);
    va_end(ap);
    /* A cut at the end of the buffer may split a character; the problem must stay UTF-8. */
    for (size_t n = strlen(detail); n > 0 && !lh_utf8_valid(detail, n);)
        detail[--n] = 0;
    answer_problem(q, status, code, errors, detail);
}

void answer_refusal(struct http_request *q)
{
    assert(!q->handler_owns);
    answer_problem(q, q->refuse_status, q->refuse_code, NULL, q->refuse_text);
}

/* The handler has q and has not answered: the client gets 503 now, the handler's answer will be
 * dropped. */
void answer_unavailable(struct http_request *q)
{
    void (*cancelled)(void *arg) = q->cancelled;

    assert(q->handler_owns);
    answer_problem(q, 503, "stopping", NULL, "the server is stopping; try again in a moment");
    q->handler_owns = true; /* it still is the handler's to answer */
    q->cancelled = NULL;
    if (cancelled)
        cancelled(q->cancelled_arg);
}
