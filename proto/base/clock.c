/* clock.c - see clock.h. */
#include "proto/base/clock.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

static uint64_t clock_ns(clockid_t id)
{
    struct timespec ts;

    (void)clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t lh_now_ms(void)
{
    return clock_ns(CLOCK_REALTIME) / 1000000u;
}

uint64_t lh_mono_ms(void)
{
    return clock_ns(CLOCK_BOOTTIME) / 1000000u;
}

uint64_t lh_mono_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

uint64_t lh_cpu_ns(void)
{
    return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

const char *lh_rfc3339(uint64_t unix_ms, char buf[static LH_RFC3339_MAX])
{
    time_t seconds = (time_t)(unix_ms / 1000u);
    struct tm tm = {.tm_mday = 1, .tm_year = 70};
    size_t used;

    if (unix_ms / 1000u <=
        253402300799u) /* the last second of year 9999; beyond it: 1970, not garbage */
        (void)gmtime_r(&seconds, &tm);
    used = strftime(buf, LH_RFC3339_MAX, "%Y-%m-%dT%H:%M:%S", &tm);
    (void)snprintf(buf + used, LH_RFC3339_MAX - used, ".%03uZ", (unsigned)(unix_ms % 1000u));
    return buf;
}

void lh_boot_id(char ret_id[static 37])
{
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");

    (void)snprintf(ret_id, 37, "unknown");
    if (!f)
        return;
    if (fscanf(f, "%36s", ret_id) != 1)
        (void)snprintf(ret_id, 37, "unknown");
    (void)fclose(f);
}

uint64_t lh_pid_start_ticks(int pid)
{
    char path[64], stat[1024];
    unsigned long long ticks = 0;
    const char *after_name;
    size_t n;
    FILE *f;

    (void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    f = fopen(path, "re");
    if (!f)
        return 0;
    n = fread(stat, 1, sizeof(stat) - 1, f);
    (void)fclose(f);
    stat[n] = '\0';
    /* The name may hold spaces and brackets: fields are counted from the last ')'. Field 22 is the
     * start. */
    after_name = strrchr(stat, ')');
    if (!after_name ||
        sscanf(after_name + 1,
               " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d "
               "%*d %llu",
               &ticks) != 1)
        return 0;
    return ticks;
}
