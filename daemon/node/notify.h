/* notify.h - a word to systemd, when it started us: READY=1, WATCHDOG=1, STOPPING=1, STATUS=... */
#pragma once
#include <stdint.h>

void notify(const char *state);
uint64_t notify_watchdog_ms(void); /* how often WATCHDOG=1 is wanted at the latest; 0: never */
