/* stream.c - server-sent events: a bounded buffer between the sender and one client.
 *
 * The response reads from the buffer and suspends its connection when it is empty; http_stream_send
 * fills it and resumes. A client that lets it fill up is cut: the daemon never waits for a reader.
 */
#include "daemon/coordinator/http/internal.h"
#include "proto/base/clock.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define STREAM_BLOCK_BYTES ((size_t)16 * 1024)
/* Sent at once: the header goes out with it, and browsers wait so long before they come back. */
#define STREAM_HELLO "retry: 2000\n\n"

static void stream_release(struct http_stream *st)
{
    if (!st->mhd_done || !st->handler_done)
        return;
    lh_buf_release(&st->out);
    free(st);
}

static ssize_t stream_on_read(void *cls, uint64_t pos, char *buf, size_t max)
{
    struct http_stream *st = cls;
    size_t n = LH_MIN(max, st->out.len);

    (void)pos;
    if (!st->request || st->request->conn->cut)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (n > 0) {
        memcpy(buf, st->out.data, n);
        lh_buf_consume(&st->out, n);
        return (ssize_t)n;
    }
    if (st->ended)
        return MHD_CONTENT_READER_END_OF_STREAM;
    connection_suspend(st->request->conn);
    return 0;
}

int http_stream_open(struct http_request *q, void (*closed)(void *arg), void *arg,
                     struct http_stream **ret_stream)
{
    struct http_stream *st;
    struct MHD_Response *response;

    if (q->mhd_done || q->answered)
        return -ECONNRESET;
    st = calloc(1, sizeof(*st));
    if (!st)
        return -ENOMEM;
    lh_buf_init(&st->out, HTTP_STREAM_MAX);
    response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK_BYTES,
                                                 stream_on_read, st, NULL);
    if (!response || lh_buf_append(&st->out, STREAM_HELLO, strlen(STREAM_HELLO)) < 0) {
        if (response)
            MHD_destroy_response(response);
        lh_buf_release(&st->out);
        free(st);
        return -ENOMEM;
    }
    (void)MHD_add_response_header(response, "Content-Type", "text/event-stream");
    /* Proxies that buffer would hold events back. */
    (void)MHD_add_response_header(response, "X-Accel-Buffering", "no");
    st->request = q;
    st->closed = closed;
    st->closed_arg = arg;
    st->ping_ms = lh_mono_ms() + HTTP_PING_MS;
    q->stream = st;
    metrics_add(q->server->m_streams, "", 1);
    answer_give(q, 200, response, 0);
    *ret_stream = st;
    return 0;
}

static int put_event(struct lh_buf *out, uint64_t id, const char *event, const char *data)
{
    int r = 0;

    if (id)
        r = lh_buf_printf(out, "id: %llu\n", (unsigned long long)id);
    if (r == 0 && event && *event)
        r = lh_buf_printf(out, "event: %s\n", event);
    while (r == 0) {
        size_t n = strcspn(data, "\n");

        r = lh_buf_printf(out, "data: %.*s\n", (int)n, data);
        data += n;
        if (!*data)
            break;
        data++;
    }
    return r == 0 ? lh_buf_append(out, "\n", 1) : r;
}

void http_stream_send(struct http_stream *st, uint64_t id, const char *event, const char *data)
{
    if (!st->request || st->ended || st->request->conn->cut)
        return;
    if (put_event(&st->out, id, event, data) < 0) {
        metrics_add(st->request->server->m_dropped, "", 1);
        connection_cut(st->request->conn, "slow_stream");
        return;
    }
    st->ping_ms = lh_mono_ms() + HTTP_PING_MS;
    connection_resume(st->request->conn);
}

void http_stream_end(struct http_stream *st)
{
    assert(!st->handler_done);
    st->handler_done = true;
    st->ended = true;
    st->closed = NULL;
    if (st->request)
        connection_resume(st->request->conn);
    stream_release(st);
}

void stream_on_sweep(struct http_stream *st, uint64_t now_ms)
{
    if (now_ms < st->ping_ms || st->ended)
        return;
    st->ping_ms = now_ms + HTTP_PING_MS;
    /* Only into an empty buffer: a client that reads nothing is not helped by a ping. */
    if (st->out.len == 0 && lh_buf_append(&st->out, ": ping\n\n", 8) == 0)
        connection_resume(st->request->conn);
}

void stream_on_gone(struct http_stream *st)
{
    void (*closed)(void *arg) = st->closed;

    metrics_add(st->request->server->m_streams, "", -1);
    st->mhd_done = true;
    st->request = NULL;
    st->closed = NULL;
    if (closed && !st->handler_done) {
        st->handler_done = true;
        closed(st->closed_arg);
    }
    stream_release(st);
}
