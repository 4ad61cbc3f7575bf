/* http.h - the HTTP server: libmicrohttpd on the libuv loop, with limits; knows nothing of jobs.
 *
 * Handlers run on the loop thread and answer now or later (after a commit, a long poll, never blocking). Bodies arrive
 * whole, bounded. What libmicrohttpd lets through is closed here: one absolute deadline a request (drip-fed headers
 * and bodies), an idle timer, quiet disconnects of suspended connections, ambiguous framing.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct http_server;
struct metrics;
struct http_request; /* one request, until it is answered */
struct http_stream;  /* an SSE connection */

enum http_auth { HTTP_AUTH_LOCAL, HTTP_AUTH_TOKEN };
struct http_config {
    const char *listen;       /* HOST:PORT, port 0 takes a free one; unix:/PATH */
    enum http_auth auth;      /* LOCAL: loopback and unix sockets act as operator without a token */
    const char *token_file;   /* lines "ROLE NAME SHA256-OF-TOKEN"; roles operator submitter viewer node; may be NULL with LOCAL */
    const char *tls_cert, *tls_key;
    bool insecure;            /* allow plain HTTP beyond loopback */
    size_t body_max;          /* 1 MiB */
    unsigned connections_max; /* 1024 */
    unsigned request_ms, idle_ms; /* 10 s to have sent a request; 60 s between requests */
    int listen_fd;            /* from socket activation, -1: none */
};

enum http_role { HTTP_ANON, HTTP_VIEWER, HTTP_SUBMITTER, HTTP_NODE, HTTP_OPERATOR };

/* Called once a complete request is there. The handler answers exactly once: http_answer*, or http_stream_open. */
typedef void http_handler_fn(void *arg, struct http_request *q);

LH_MUST_CHECK int http_server_new(uv_loop_t *loop, const struct http_config *config, http_handler_fn *handler, void *arg,
                                  struct http_server **ret_server, struct lh_err *reterr); /* -EADDRINUSE names the port */
/* Whether the address can be listened on now: opens the socket and closes it. */
LH_MUST_CHECK int http_server_try(const struct http_config *config, struct lh_err *reterr);
void http_server_stop(struct http_server *s); /* no new connections; answers what is waiting with 503 */
void http_server_free(struct http_server *s);
int http_server_port(const struct http_server *s);
/* "http://HOST:PORT" as clients on this machine reach it. */
const char *http_server_address(const struct http_server *s);
/* Where the server counts its answers and connections; others may add their own numbers. */
struct metrics *http_server_metrics(struct http_server *s);

/* The request. Strings live until it is answered. */
const char *http_method(const struct http_request *q);
const char *http_path(const struct http_request *q);                        /* decoded, without the query */
const char *http_query(const struct http_request *q, const char *name);     /* NULL when absent */
/* All query parameters in their order, also repeated ones; false beyond the last. A name without '=' has value "". */
bool http_query_at(const struct http_request *q, unsigned i, const char **ret_name, const char **ret_value);
const char *http_header(const struct http_request *q, const char *name);    /* NULL when absent */
const void *http_body(const struct http_request *q, size_t *ret_len);
const char *http_principal(const struct http_request *q); /* "local", a token's name, or "" */
enum http_role http_role(const struct http_request *q);
const char *http_request_id(const struct http_request *q);
struct metrics *http_metrics(const struct http_request *q);
/* The route's template for the counters ("/v1/jobs/{id}"): a static string. */
void http_set_route(struct http_request *q, const char *route);
/* A header of whatever answer follows; both are copied. */
void http_set_header(struct http_request *q, const char *name, const char *value);
/* cancelled is called (at most once, from the loop) when the client goes away before the answer; q stays valid until
 * it is answered, the answer is then dropped. */
void http_on_cancel(struct http_request *q, void (*cancelled)(void *arg), void *arg);
/* tick is called about four times a second from now on until q is answered or cancelled: for handlers that wait for a
 * file to grow. */
void http_on_tick(struct http_request *q, void (*tick)(void *arg), void *arg);

/* Answers; each takes q away. Extra headers: NULL or {"Name: value", ..., NULL}. body is stolen / copied. */
void http_answer_json(struct http_request *q, int status, json_t *body, const char *const *headers);
void http_answer_bytes(struct http_request *q, int status, const char *content_type, const void *bytes, size_t len,
                       const char *const *headers);
/* RFC 9457 problem+json: code is the stable machine name, title follows from the status; errors (array of
 * {pointer, code, detail}, stolen) may be NULL. */
void http_answer_problem(struct http_request *q, int status, const char *code, json_t *errors, const char *fmt, ...)
    LH_PRINTF(5, 6);

/* Server-sent events. closed is called once when the client is gone or was dropped (256 KiB unsent). A comment ping is
 * sent every 15 s by the server. */
LH_MUST_CHECK int http_stream_open(struct http_request *q, void (*closed)(void *arg), void *arg, struct http_stream **ret_stream);
/* id 0: without an id line. Drops the client instead of waiting when its buffer is full (closed follows). */
void http_stream_send(struct http_stream *s, uint64_t id, const char *event, const char *data);
void http_stream_end(struct http_stream *s);
