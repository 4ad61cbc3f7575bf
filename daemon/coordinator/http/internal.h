/* internal.h - what the files of http/ share: the server, its connections, requests and streams.
 *
 * Owners. A connection lives from libmicrohttpd's STARTED to its CLOSED notice. A request has two
 * owners, libmicrohttpd (until its COMPLETED notice) and the handler (from the call of the handler
 * until it answers); the last one frees it. So a client may go away, or the server stop, while a
 * handler works. A stream likewise: libmicrohttpd's response, and the handler until closed or
 * http_stream_end.
 */
#pragma once
#include "daemon/coordinator/http/http.h"
#include "daemon/coordinator/metrics/metrics.h"
#include "proto/base/arena.h"
#include "proto/base/buf.h"
#include <microhttpd.h>
#include <sys/socket.h>

#define HTTP_HEADER_MAX                                                                            \
    ((size_t)16 * 1024) /* the whole header block: ten times what browsers send */
#define HTTP_URI_MAX ((size_t)8 * 1024)
#define HTTP_PARAMS_MAX 64   /* query parameters */
#define HTTP_HEADERS_MAX 100 /* header fields */
#define HTTP_ARENA_MAX                                                                             \
    ((size_t)256 * 1024) /* copies of header and URI, each at most HTTP_HEADER_MAX */
/* The connection's memory in libmicrohttpd. Its own error pages are HTML, so it is far above
 * HTTP_HEADER_MAX: what is between the two gets our problem document. Pages that are not touched
 * cost nothing. */
#define HTTP_POOL_BYTES ((size_t)96 * 1024)
/* An oversized body is read and dropped up to here before 413 is answered, so that the client reads
 * the answer instead of a reset; beyond, the connection is cut. */
#define HTTP_DISCARD_MAX ((uint64_t)64 << 20)
#define HTTP_SWEEP_MS 250
#define HTTP_STREAM_MAX ((size_t)256 * 1024)
#define HTTP_PING_MS 15000
#define HTTP_SLOWEST_BYTES_MS                                                                      \
    4096 /* an answer may take idle_ms, plus a millisecond for each 4 KiB */
#define HTTP_TOKENS_MAX 4096

struct http_token {
    enum http_role role;
    char *name;
    char sha256[65];
};

enum connection_phase {
    CONN_IDLE,      /* waits for the first request, or for the next one */
    CONN_RECEIVING, /* the request line is there: the rest is due within request_ms */
    CONN_WAITING,   /* the handler has the request; suspended once it has not answered at once */
    CONN_SENDING,   /* the answer is on its way */
    CONN_STREAM,    /* server-sent events */
};

struct connection {
    struct connection *prev, *next;
    struct http_server *server;
    struct MHD_Connection *mhd;
    int fd;
    enum connection_phase phase;
    uint64_t deadline_ms; /* of IDLE, RECEIVING, SENDING */
    bool served;          /* it has had an answer: the next request may wait for idle_ms */
    bool suspended;       /* by us: libmicrohttpd leaves it alone until it is resumed */
    bool cut;             /* its socket is shut down; libmicrohttpd will see it and close */
    bool local_peer;      /* loopback or a unix socket */
    struct http_request *request;
};

struct param {
    const char *name, *value;
};

struct http_request {
    struct http_server *server; /* NULL once libmicrohttpd is done with the request */
    struct connection *conn;    /* NULL likewise */
    struct lh_arena arena;
    char id[40];
    const char *route; /* for the counters */
    uint64_t started_ns;

    /* request line */
    const char *raw_uri; /* a copy */
    const char *uri_at;  /* libmicrohttpd's own bytes: compared by framing.c, never read later */
    size_t uri_len;
    char *method, *path;
    unsigned n_params;
    struct param *params;
    unsigned n_headers;
    struct param *headers;
    struct lh_buf body;
    uint64_t discarded; /* bytes of a body that is too large or not wanted */
    const char *principal;
    enum http_role role;

    /* a refusal found before the body was read, answered after it */
    int refuse_status;
    const char *refuse_code, *refuse_text;

    unsigned n_extra;
    struct param extra[8]; /* http_set_header */

    struct MHD_Response *response; /* the answer, until it is queued */
    int status;
    bool begun;        /* the header was looked at */
    bool in_handler;   /* the handler is on the stack: an answer is queued when it returns */
    bool mhd_done;     /* libmicrohttpd has dropped the request */
    bool handler_owns; /* the handler has not answered yet */
    bool answered;     /* an answer was given, by the handler or (when stopping) by the server */
    void (*cancelled)(void *arg);
    void *cancelled_arg;
    void (*tick)(void *arg);
    void *tick_arg;
    struct http_stream *stream;
};

struct http_stream {
    struct http_request *request; /* NULL once libmicrohttpd is done */
    struct lh_buf out;
    uint64_t ping_ms; /* when the next comment is due */
    bool ended;       /* by the handler: close when out is empty */
    bool mhd_done, handler_done;
    void (*closed)(void *arg);
    void *closed_arg;
};

struct http_server {
    uv_loop_t *loop;
    struct http_config config;
    struct http_token *tokens;
    unsigned n_tokens;
    http_handler_fn *handler;
    void *handler_arg;
    struct MHD_Daemon *daemon;
    int listen_fd;
    char *unix_path; /* to remove at the end */
    int port;
    char host[256]; /* as configured, for the Host check of local callers */
    char address[320];
    char id_prefix[9];
    uint64_t n_requests;
    unsigned n_connections;
    struct connection connections; /* head of a ring */
    uv_poll_t poll;                /* libmicrohttpd's epoll descriptor */
    uv_timer_t again;              /* when it has more to do at once */
    uv_timer_t sweep;              /* deadlines, disconnects, pings */
    unsigned n_again;              /* runs in a row that wanted another */
    unsigned handles_open;
    bool running, stopping;
    char *tls_cert, *tls_key;
    struct metrics *metrics;
    struct metrics_family *m_requests, *m_seconds, *m_connections, *m_cut, *m_streams, *m_dropped,
        *m_lag;
    uint64_t swept_ns; /* when the sweep ran last: how late it comes is the loop's lag */
};

/* server.c */
void server_run(
    struct http_server *s); /* lets libmicrohttpd work now; not from inside one of its callbacks */
void server_kick(struct http_server *s); /* the same, from the loop, soon */

/* listen.c: opens the socket of config->listen; fills port, host, address, unix_path. */
LH_MUST_CHECK int listen_open(struct http_server *s, int *ret_fd, struct lh_err *reterr);
bool sockaddr_is_local(const struct sockaddr *sa);

/* connection.c */
void connection_notify(void *cls, struct MHD_Connection *mhd, void **socket_context,
                       enum MHD_ConnectionNotificationCode code);
void connection_phase_set(struct connection *c, enum connection_phase phase, uint64_t bytes);
void connection_cut(struct connection *c, const char *why); /* shuts the socket down */
void connection_suspend(struct connection *c);
void connection_resume(struct connection *c);
void connection_sweep(struct http_server *s);

/* request.c: libmicrohttpd's callbacks. */
void *request_on_uri(void *cls, const char *uri, struct MHD_Connection *mhd);
enum MHD_Result request_on_data(void *cls, struct MHD_Connection *mhd, const char *url,
                                const char *method, const char *version, const char *data,
                                size_t *size, void **context);
void request_on_completed(void *cls, struct MHD_Connection *mhd, void **context,
                          enum MHD_RequestTerminationCode code);
void request_release(struct http_request *q); /* frees it when neither owner is left */

/* uri.c: splits and decodes q->raw_uri; false: not a URI we take. */
LH_MUST_CHECK bool uri_split(struct http_request *q);

/* framing.c: sets q->refuse_* when the header is ambiguous or broken; true: answer at once and
 * close. */
LH_MUST_CHECK bool framing_check(struct http_request *q, struct MHD_Connection *mhd,
                                 const char *method, const char *version);

/* auth.c */
LH_MUST_CHECK int auth_load(struct http_server *s, struct lh_err *reterr);
void auth_release(struct http_server *s);
void auth_check(struct http_request *q); /* sets role and principal, or a refusal */

/* answer.c */
void answer_refusal(struct http_request *q);
void answer_unavailable(struct http_request *q); /* 503 while stopping */
void answer_give(struct http_request *q, int status, struct MHD_Response *response, size_t bytes);
void answer_common_headers(const struct http_request *q, struct MHD_Response *response);
enum MHD_Result answer_queue(struct http_request *q); /* hands q->response to libmicrohttpd */

/* stream.c */
void stream_on_sweep(struct http_stream *st, uint64_t now_ms);
void stream_on_gone(struct http_stream *st); /* the client is gone: calls closed */
