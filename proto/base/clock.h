/* clock.h - the two clocks: wall time for people, monotonic time for deadlines. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#define LH_RFC3339_MAX 32

/* Milliseconds since 1970 (CLOCK_REALTIME). For times that people read; never for deadlines. */
uint64_t lh_now_ms(void);

/* Milliseconds of CLOCK_BOOTTIME: never steps, counts suspend. For leases, timeouts, rates. */
uint64_t lh_mono_ms(void);

/* Nanoseconds of CLOCK_MONOTONIC; for measuring short spans. */
uint64_t lh_mono_ns(void);

/* Nanoseconds of processor time that all threads of this process have used. */
uint64_t lh_cpu_ns(void);

/* Writes "2026-11-21T09:30:00.123Z" into buf and returns buf. */
const char *lh_rfc3339(uint64_t unix_ms, char buf[static LH_RFC3339_MAX]);

/* The boot id of this machine (36 characters and a 0), or "unknown". */
void lh_boot_id(char ret_id[static 37]);

/* Start time in clock ticks of process pid from /proc (with the boot id it tells a reused pid), or 0. */
uint64_t lh_pid_start_ticks(int pid);
