/* inventory.c - see inventory.h. */
#include "daemon/node/inventory.h"
#include "proto/base/clock.h"
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A cgroup's memory limit; 0: none. Both layouts are looked at, the smaller limit holds. */
static uint64_t cgroup_limit(void)
{
    static const char *const paths[] = {"/sys/fs/cgroup/memory.max",
                                        "/sys/fs/cgroup/memory/memory.limit_in_bytes"};
    uint64_t limit = 0;

    for (unsigned i = 0; i < 2; i++) {
        FILE *f = fopen(paths[i], "re");
        unsigned long long value;

        if (!f)
            continue;
        if (fscanf(f, "%llu", &value) == 1 && (limit == 0 || value < limit))
            limit = value;
        (void)fclose(f);
    }
    return limit;
}

void inventory_read(struct inventory *ret_inventory)
{
    uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE),
             limit = cgroup_limit();
    cpu_set_t cpus;
    long online = sysconf(_SC_NPROCESSORS_ONLN);

    memset(ret_inventory, 0, sizeof(*ret_inventory));
    if (gethostname(ret_inventory->hostname, sizeof(ret_inventory->hostname) - 1) < 0)
        (void)snprintf(ret_inventory->hostname, sizeof(ret_inventory->hostname), "localhost");
    lh_boot_id(ret_inventory->boot_id);
    ret_inventory->cores = sched_getaffinity(0, sizeof(cpus), &cpus) == 0
                               ? (unsigned)CPU_COUNT(&cpus)
                           : online > 0 ? (unsigned)online
                                        : 1u;
    ret_inventory->memory_bytes = limit && limit < memory ? limit : memory;
}
