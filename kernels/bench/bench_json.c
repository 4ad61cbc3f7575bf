/* bench_json.c - the results file of kn-bench: what was measured, on what machine, of which commit.
 *
 * {"date", "commit", "device", "cpu", "threads", "dtype", "repeats", "load", "results": [...]}; a
 * result is {"name", "seconds", "busy_s", "flop", "bytes"} with the best of the repeats, or
 * {"name", "rate", "unit"}. kernels/bench/results keeps such files, one a machine and dtype.
 */
#include "kernels/bench/bench.h"
#include "proto/base/clock.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void cpu_name(char ret_name[static 128])
{
    FILE *f = fopen("/proc/cpuinfo", "re");
    char line[256];

    (void)snprintf(ret_name, 128, "unknown");
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "model name : %127[^\n]", ret_name) == 1)
            break;
    if (f)
        (void)fclose(f);
}

void bench_write(const struct bench *b, const char *path, const char *commit, int threads)
{
    char cpu[128], date[LH_RFC3339_MAX];
    double load = 0;
    json_t *all;

    cpu_name(cpu);
    (void)getloadavg(&load, 1);
    all = json_pack("{s:s, s:s, s:s, s:s, s:i, s:s, s:i, s:f, s:O}", "date",
                    lh_rfc3339(lh_now_ms(), date), "commit", commit, "device", b->ops->name, "cpu",
                    cpu, "threads", threads, "dtype", b->t == KN_F32 ? "f32" : "bf16", "repeats",
                    b->repeats, "load", load, "results", b->results);
    if (!all || json_dump_file(all, path, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) != 0)
        bench_die("the results could not be written");
    json_decref(all);
}
