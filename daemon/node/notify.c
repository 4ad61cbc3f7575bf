/* notify.c - see notify.h. */
#include "daemon/node/notify.h"
#include <systemd/sd-daemon.h>

void notify(const char *state)
{
    (void)sd_notify(0, state);
}

uint64_t notify_watchdog_ms(void)
{
    uint64_t us = 0;

    return sd_watchdog_enabled(0, &us) > 0 ? us / 1000u : 0;
}
