/* server.c - the server: libmicrohttpd in external epoll mode, driven by the libuv loop.
 *
 * libmicrohttpd's epoll descriptor sits in a uv_poll; after each run its own timeout says whether
 * it has more to do at once. All its callbacks come from MHD_run on the loop thread. Its timeouts
 * are off: they restart with each byte, so a client that drips would hold a connection for ever.
 * connection.c has the deadlines.
 */
#include "daemon/coordinator/http/internal.h"
#include "proto/base/clock.h"
#include "proto/base/fs.h"
#include "proto/base/log.h"
#include "proto/base/str.h"
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TLS_FILE_MAX ((size_t)1 << 20)
#define AGAIN_MAX 8 /* runs in a row; then the loop gets a millisecond for other things */

static void server_on_again(uv_timer_t *h);

void server_run(struct http_server *s)
{
    MHD_UNSIGNED_LONG_LONG timeout = 0;

    assert(!s->running);
    s->running = true;
    (void)MHD_run(s->daemon);
    s->running = false;
    if (MHD_get_timeout(s->daemon, &timeout) != MHD_YES) {
        s->n_again = 0;
        return;
    }
    /* It asks for another run at once while a connection may have more, and for ever while a TLS
     * handshake waits for its client. libuv runs a timer of 0 that is started anew from its own
     * callback before anything else. */
    if (timeout == 0 && ++s->n_again > AGAIN_MAX)
        timeout = 1;
    (void)uv_timer_start(&s->again, server_on_again, timeout, 0);
}

void server_kick(struct http_server *s)
{
    if (!uv_is_closing((uv_handle_t *)&s->again))
        (void)uv_timer_start(&s->again, server_on_again, 0, 0);
}

static void server_on_ready(uv_poll_t *h, int status, int events)
{
    struct http_server *s = h->data;

    (void)status;
    (void)events;
    s->n_again = 0;
    server_run(s);
}

static void server_on_again(uv_timer_t *h)
{
    server_run(h->data);
}

static void server_on_sweep(uv_timer_t *h)
{
    struct http_server *s = h->data;
    uint64_t now = lh_mono_ns();
    double lag = (double)(now - s->swept_ns) * 1e-9 - HTTP_SWEEP_MS * 1e-3;

    s->swept_ns = now;
    metrics_set(s->m_lag, "", lag > 0 ? lag : 0);
    connection_sweep(s);
}

/* libmicrohttpd's own notes: mostly what bad clients did. */
static void server_on_log(void *cls, const char *fmt, va_list ap) LH_PRINTF(2, 0);
static void server_on_log(void *cls, const char *fmt, va_list ap)
{
    char text[512];
    size_t len;

    (void)cls;
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    len = strlen(text);
    while (len > 0 && text[len - 1] == '\n')
        text[--len] = 0;
    lh_debug("http.library", "text=\"%s\"", text);
}

/* libmicrohttpd decodes the path in place before the handler sees it; uri.c does that on its own
 * copy. */
static size_t server_no_unescape(void *cls, struct MHD_Connection *c, char *s)
{
    (void)cls;
    (void)c;
    return strlen(s);
}

static int load_tls(struct http_server *s, struct lh_err *reterr)
{
    size_t len;
    int r;

    if (!s->config.tls_cert && !s->config.tls_key)
        return 0;
    if (!s->config.tls_cert || !s->config.tls_key)
        return lh_err_set(reterr, LH_EINPUT, "TLS needs both a certificate and a key file");
    r = lh_read_file(s->config.tls_cert, TLS_FILE_MAX, &s->tls_cert, &len, reterr);
    if (r == 0)
        r = lh_read_file(s->config.tls_key, TLS_FILE_MAX, &s->tls_key, &len, reterr);
    return r;
}

static int start_daemon(struct http_server *s, struct lh_err *reterr)
{
    struct MHD_OptionItem tls[] = {{MHD_OPTION_HTTPS_MEM_CERT, 0, s->tls_cert},
                                   {MHD_OPTION_HTTPS_MEM_KEY, 0, s->tls_key},
                                   {MHD_OPTION_END, 0, NULL}};
    struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;

    if (s->tls_cert)
        flags |= MHD_USE_TLS;
    /* Strict level 0: what level 1 adds (Host, spaces in the URI) framing.c refuses with a problem
     * document, where libmicrohttpd would answer HTML. */
    s->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, request_on_data, s, MHD_OPTION_EXTERNAL_LOGGER, server_on_log, s,
        MHD_OPTION_LISTEN_SOCKET, s->listen_fd, MHD_OPTION_CONNECTION_LIMIT,
        s->config.connections_max, MHD_OPTION_CONNECTION_MEMORY_LIMIT, HTTP_POOL_BYTES,
        MHD_OPTION_CONNECTION_TIMEOUT, 0u, MHD_OPTION_STRICT_FOR_CLIENT, 0,
        MHD_OPTION_URI_LOG_CALLBACK, request_on_uri, s, MHD_OPTION_UNESCAPE_CALLBACK,
        server_no_unescape, s, MHD_OPTION_NOTIFY_COMPLETED, request_on_completed, s,
        MHD_OPTION_NOTIFY_CONNECTION, connection_notify, s, MHD_OPTION_ARRAY,
        s->tls_cert ? tls : none, MHD_OPTION_END);
    if (!s->daemon)
        return lh_err_set(reterr, LH_EINPUT,
                          s->tls_cert ? "the HTTP server does not start; are '%s' and '%s' a "
                                        "PEM certificate and its key?"
                                      : "the HTTP server does not start%s%s",
                          s->tls_cert ? s->config.tls_cert : "",
                          s->tls_cert ? s->config.tls_key : "");
    return 0;
}

static int start_handles(struct http_server *s, struct lh_err *reterr)
{
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    int r;

    if (!info)
        return lh_err_set(reterr, LH_EINTERNAL, "libmicrohttpd has no epoll descriptor");
    s->poll.data = s->again.data = s->sweep.data = s;
    r = uv_poll_init(s->loop, &s->poll, info->epoll_fd);
    if (r < 0)
        return lh_err_set(reterr, r, "watch the HTTP server's descriptor");
    (void)uv_timer_init(s->loop, &s->again);
    (void)uv_timer_init(s->loop, &s->sweep);
    s->handles_open = 3;
    (void)uv_poll_start(&s->poll, UV_READABLE, server_on_ready);
    s->swept_ns = lh_mono_ns();
    (void)uv_timer_start(&s->sweep, server_on_sweep, HTTP_SWEEP_MS, HTTP_SWEEP_MS);
    server_run(s);
    return 0;
}

static int make_metrics(struct http_server *s)
{
    s->metrics = metrics_new();
    if (!s->metrics)
        return -ENOMEM;
    s->m_requests = metrics_family(s->metrics, METRICS_COUNTER, "longhaul_http_requests_total",
                                   "Answers by route and status code.");
    s->m_seconds = metrics_family(s->metrics, METRICS_HISTOGRAM, "longhaul_http_request_seconds",
                                  "Time from the request line to the answer.");
    s->m_connections =
        metrics_family(s->metrics, METRICS_GAUGE, "longhaul_http_connections", "Open connections.");
    s->m_cut = metrics_family(s->metrics, METRICS_COUNTER, "longhaul_http_connections_cut_total",
                              "Connections that the server cut, by reason.");
    s->m_streams =
        metrics_family(s->metrics, METRICS_GAUGE, "longhaul_sse_clients", "Open event streams.");
    s->m_dropped = metrics_family(s->metrics, METRICS_COUNTER, "longhaul_sse_dropped_total",
                                  "Event streams dropped because the client read too slowly.");
    s->m_lag = metrics_family(s->metrics, METRICS_GAUGE, "longhaul_loop_lag_seconds",
                              "How late the loop ran its last timer.");
    metrics_set(s->m_connections, "", 0);
    metrics_set(s->m_streams, "", 0);
    metrics_add(s->m_dropped, "", 0);
    return s->m_lag ? 0 : -ENOMEM;
}

static void config_defaults(struct http_config *c)
{
    if (!c->body_max)
        c->body_max = (size_t)1 << 20;
    if (!c->connections_max)
        c->connections_max = 1024;
    if (!c->request_ms)
        c->request_ms = 10000;
    if (!c->idle_ms)
        c->idle_ms = 60000;
}

static void server_release(struct http_server *s)
{
    auth_release(s);
    metrics_free(s->metrics);
    if (s->unix_path)
        (void)unlink(s->unix_path);
    free(s->unix_path);
    free(s->tls_cert);
    free(s->tls_key);
    free(s);
}

int http_server_new(uv_loop_t *loop, const struct http_config *config, http_handler_fn *handler,
                    void *arg, struct http_server **ret_server, struct lh_err *reterr)
{
    struct http_server *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return lh_err_set(reterr, -ENOMEM, "the HTTP server");
    s->loop = loop;
    s->config = *config;
    config_defaults(&s->config);
    s->handler = handler;
    s->handler_arg = arg;
    s->listen_fd = -1;
    s->connections.prev = s->connections.next = &s->connections;
    lh_random_hex(4, s->id_prefix);
    r = make_metrics(s);
    if (r < 0)
        (void)lh_err_set(reterr, r, "the HTTP server");
    if (r == 0)
        r = load_tls(s, reterr);
    if (r == 0)
        r = auth_load(s, reterr);
    if (r == 0)
        r = listen_open(s, &s->listen_fd, reterr);
    if (r == 0)
        r = start_daemon(s, reterr);
    if (r == 0)
        r = start_handles(s, reterr);
    if (r < 0) {
        if (s->daemon)
            MHD_stop_daemon(s->daemon);
        else if (s->listen_fd >= 0)
            (void)close(s->listen_fd);
        server_release(s);
        return r;
    }
    *ret_server = s;
    return 0;
}

int http_server_try(const struct http_config *config, struct lh_err *reterr)
{
    struct http_server s = {.config = *config, .listen_fd = -1};
    int r;

    s.tls_cert = (char *)(uintptr_t)config->tls_cert; /* only looked at: not plain */
    r = config->listen_fd > 2 ? 0 : listen_open(&s, &s.listen_fd, reterr);
    if (s.listen_fd >= 0)
        (void)close(s.listen_fd);
    if (s.unix_path)
        (void)unlink(s.unix_path);
    free(s.unix_path);
    return r;
}

void http_server_stop(struct http_server *s)
{
    struct connection *c, *next;

    if (s->stopping)
        return;
    s->stopping = true;
    if (MHD_quiesce_daemon(s->daemon) >= 0)
        (void)close(s->listen_fd);
    s->listen_fd = -1;
    for (c = s->connections.next; c != &s->connections; c = next) {
        next = c->next;
        if (c->phase == CONN_IDLE || c->phase == CONN_STREAM)
            connection_cut(c, "stopping");
        else if (c->phase == CONN_WAITING && c->request && !c->request->answered)
            answer_unavailable(c->request);
    }
    server_kick(s);
}

static void server_on_closed(uv_handle_t *h)
{
    struct http_server *s = h->data;

    assert(s->handles_open > 0);
    if (--s->handles_open == 0)
        server_release(s);
}

void http_server_free(struct http_server *s)
{
    if (!s)
        return;
    http_server_stop(s);
    /* Two runs send the 503s; then each run closes what was cut, resumed connections need a second
     * one. */
    for (int i = 0; i < 10 && s->connections.next != &s->connections; i++) {
        for (struct connection *c = s->connections.next; i >= 2 && c != &s->connections;
             c = c->next)
            connection_cut(c, "stopping");
        server_run(s);
    }
    uv_close((uv_handle_t *)&s->poll, server_on_closed);
    uv_close((uv_handle_t *)&s->again, server_on_closed);
    uv_close((uv_handle_t *)&s->sweep, server_on_closed);
    MHD_stop_daemon(s->daemon);
    s->daemon = NULL;
}

int http_server_port(const struct http_server *s)
{
    return s->port;
}

const char *http_server_address(const struct http_server *s)
{
    return s->address;
}

struct metrics *http_server_metrics(struct http_server *s)
{
    return s->metrics;
}
