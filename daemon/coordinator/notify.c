/* notify.c - systemd: READY, WATCHDOG, STOPPING, RELOADING, socket activation. Outside of systemd
 * all of it is nothing. */
#include "daemon/coordinator/app_parts.h"
#include "proto/base/clock.h"
#include <systemd/sd-daemon.h>

void notify_ready(struct app *a)
{
    (void)sd_notifyf(0, "READY=1\nSTATUS=listening on %s, epoch %llu", http_server_address(a->http),
                     (unsigned long long)store_epoch(a->store));
}

void notify_stopping(void)
{
    (void)sd_notify(0, "STOPPING=1\nSTATUS=stopping");
}

void notify_reloading(bool begin)
{
    (void)sd_notify(0, begin ? "RELOADING=1" : "READY=1");
}

uint64_t notify_watchdog_ms(void)
{
    uint64_t usec = 0;

    return sd_watchdog_enabled(0, &usec) > 0 ? usec / 1000 : 0;
}

/* A ping says that the loop runs (it is here) and that the writer has moved since the last one. */
void notify_tick(struct app *a)
{
    uint64_t now = lh_mono_ms();

    if (a->watchdog_ms == 0 || now - a->watchdog_sent_ms < a->watchdog_ms / 3 ||
        a->beat == a->watchdog_beat)
        return;
    a->watchdog_sent_ms = now;
    a->watchdog_beat = a->beat;
    (void)sd_notify(0, "WATCHDOG=1");
}

int notify_listen_fd(void)
{
    return sd_listen_fds(1) >= 1 ? SD_LISTEN_FDS_START : -1;
}
