/* caplog.c - see caplog.h. A write that fails (a full disk) loses log lines, never the job. */
#include "daemon/shim/caplog.h"
#include "proto/base/attr.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void caplog_init(struct caplog *c, int fd, uint64_t written, uint64_t max_bytes, uint64_t now_ms)
{
    memset(c, 0, sizeof(*c));
    c->fd = fd;
    c->written = written;
    c->max_bytes = max_bytes;
    c->tokens = CAPLOG_BURST_BYTES;
    c->refilled_ms = now_ms;
}

static void put(struct caplog *c, const char *data, size_t n)
{
    while (n > 0) {
        ssize_t done = write(c->fd, data, n);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return;
        data += done;
        n -= (size_t)done;
        c->written += (uint64_t)done;
    }
}

static void tell_dropped(struct caplog *c)
{
    char line[120];
    int n;

    if (c->dropped == 0)
        return;
    n = snprintf(line, sizeof(line),
                 "\n[longhaul-shim: %" PRIu64 " bytes of output were dropped here]\n", c->dropped);
    put(c, line, (size_t)n);
    c->dropped = 0;
}

static void refill(struct caplog *c, uint64_t now_ms)
{
    uint64_t more = (now_ms - c->refilled_ms) * CAPLOG_BYTES_PER_S / 1000u;

    if (more == 0)
        return;
    c->tokens = LH_MIN(c->tokens + more, (uint64_t)CAPLOG_BURST_BYTES);
    c->refilled_ms = now_ms;
}

static void keep_tail(struct caplog *c, const char *data, size_t n)
{
    if (n > CAPLOG_TAIL_BYTES) {
        c->tail_n += n - CAPLOG_TAIL_BYTES;
        data += n - CAPLOG_TAIL_BYTES;
        n = CAPLOG_TAIL_BYTES;
    }
    for (size_t i = 0; i < n; i++)
        c->tail[c->tail_n++ % CAPLOG_TAIL_BYTES] = data[i];
}

void caplog_write(struct caplog *c, const char *data, size_t n, uint64_t now_ms)
{
    size_t take;

    refill(c, now_ms);
    if (!c->full && c->written + n > c->max_bytes) {
        static const char marker[] =
            "\n[longhaul-shim: the log is full; only its end will follow]\n";

        tell_dropped(c);
        put(c, marker, sizeof(marker) - 1);
        c->full = true;
    }
    if (c->full) {
        keep_tail(c, data, n);
        return;
    }
    take = (size_t)LH_MIN((uint64_t)n, c->tokens);
    if (take > 0) {
        tell_dropped(c);
        put(c, data, take);
        c->tokens -= take;
    }
    c->dropped += n - take;
}

void caplog_finish(struct caplog *c)
{
    uint64_t n = LH_MIN(c->tail_n, (uint64_t)CAPLOG_TAIL_BYTES), at = c->tail_n % CAPLOG_TAIL_BYTES;

    c->dropped += c->tail_n - n;
    tell_dropped(c);
    if (n == CAPLOG_TAIL_BYTES)
        put(c, c->tail + at, (size_t)(n - at));
    put(c, c->tail, n == CAPLOG_TAIL_BYTES ? (size_t)at : (size_t)n);
    c->tail_n = 0;
}
