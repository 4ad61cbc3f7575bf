/* connection.c - deadlines and the end of connections: what libmicrohttpd leaves open.
 *
 *   IDLE ──request line──► RECEIVING ──body complete──► WAITING ──answer──► SENDING ──sent──► IDLE
 *                                                          └──http_stream_open──► STREAM
 *
 * IDLE, RECEIVING and SENDING have absolute deadlines. WAITING and STREAM connections are suspended
 * most of the time, libmicrohttpd does not look at them then, so a client that leaves is noticed by
 * the sweep's poll(). A connection is ended by shutdown() of its socket: libmicrohttpd sees the end
 * of file, and closes.
 */
#include "daemon/coordinator/http/internal.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include <assert.h>
#include <poll.h>
#include <stdlib.h>

#define SWEEP_BATCH 256

static void connection_open(struct http_server *s, struct MHD_Connection *mhd,
                            void **socket_context)
{
    const union MHD_ConnectionInfo *info;
    struct connection *c = calloc(1, sizeof(*c));

    if (!c)
        return; /* request_on_uri finds no connection and refuses */
    c->server = s;
    c->mhd = mhd;
    info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    c->fd = info ? info->connect_fd : -1;
    info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    c->local_peer = info && info->client_addr && sockaddr_is_local(info->client_addr);
    c->phase = CONN_IDLE;
    c->deadline_ms = lh_mono_ms() + s->config.request_ms;
    c->prev = s->connections.prev;
    c->next = &s->connections;
    c->prev->next = c;
    s->connections.prev = c;
    *socket_context = c;
    metrics_set(s->m_connections, "", ++s->n_connections);
}

void connection_notify(void *cls, struct MHD_Connection *mhd, void **socket_context,
                       enum MHD_ConnectionNotificationCode code)
{
    struct http_server *s = cls;
    struct connection *c = *socket_context;

    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        connection_open(s, mhd, socket_context);
        return;
    }
    if (!c)
        return;
    assert(!c->request);
    c->prev->next = c->next;
    c->next->prev = c->prev;
    /* At its limit libmicrohttpd does not listen; it takes that up only in a run of its own. */
    if (s->n_connections >= s->config.connections_max)
        server_kick(s);
    metrics_set(s->m_connections, "", --s->n_connections);
    free(c);
    *socket_context = NULL;
}

void connection_phase_set(struct connection *c, enum connection_phase phase, uint64_t bytes)
{
    const struct http_config *config = &c->server->config;
    uint64_t now = lh_mono_ms();

    switch (phase) {
    case CONN_IDLE:
        c->served = true;
        c->deadline_ms = now + config->idle_ms;
        break;
    case CONN_RECEIVING:
        /* The first request's deadline counts from the accept: it is running already. */
        if (c->served)
            c->deadline_ms = now + config->request_ms;
        break;
    case CONN_SENDING:
        c->deadline_ms = now + config->idle_ms + bytes / HTTP_SLOWEST_BYTES_MS;
        break;
    case CONN_WAITING:
    case CONN_STREAM:
        break;
    }
    c->phase = phase;
}

void connection_cut(struct connection *c, const char *why)
{
    char labels[64];

    if (c->cut)
        return;
    c->cut = true;
    if (c->fd >= 0)
        (void)shutdown(c->fd, SHUT_RDWR);
    metrics_add(c->server->m_cut,
                metrics_labels(labels, sizeof(labels), 1, &(const char *){"reason"}, &why), 1);
    lh_debug("http.cut", "reason=%s request=%s", why, c->request ? c->request->id : "-");
    connection_resume(c);
    server_kick(c->server);
}

void connection_suspend(struct connection *c)
{
    assert(!c->suspended);
    c->suspended = true;
    MHD_suspend_connection(c->mhd);
}

void connection_resume(struct connection *c)
{
    if (!c->suspended)
        return;
    c->suspended = false;
    MHD_resume_connection(c->mhd);
    server_kick(c->server);
}

static void check_gone(struct connection **watched, struct pollfd *fds, nfds_t n)
{
    if (n == 0 || poll(fds, n, 0) <= 0)
        return;
    for (nfds_t i = 0; i < n; i++)
        if (fds[i].revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL))
            connection_cut(watched[i], "gone");
}

void connection_sweep(struct http_server *s)
{
    struct connection *watched[SWEEP_BATCH];
    struct pollfd fds[SWEEP_BATCH];
    uint64_t now = lh_mono_ms();
    nfds_t n = 0;

    for (struct connection *c = s->connections.next; c != &s->connections; c = c->next) {
        if (c->cut)
            continue;
        if (c->phase == CONN_WAITING || c->phase == CONN_STREAM) {
            if (c->phase == CONN_STREAM && c->request && c->request->stream)
                stream_on_sweep(c->request->stream, now);
            if (c->phase == CONN_WAITING && c->request && c->request->tick &&
                c->request->handler_owns)
                c->request->tick(c->request->tick_arg);
            watched[n] = c;
            fds[n++] = (struct pollfd){.fd = c->fd, .events = POLLRDHUP};
            if (n == SWEEP_BATCH) {
                check_gone(watched, fds, n);
                n = 0;
            }
        } else if (now >= c->deadline_ms) {
            connection_cut(c, c->phase == CONN_IDLE && c->served ? "idle"
                              : c->phase == CONN_SENDING         ? "slow_reader"
                                                                 : "slow_request");
        }
    }
    check_gone(watched, fds, n);
}
