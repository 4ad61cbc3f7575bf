/* inventory.h - what this machine is: sizes that placement needs, and the boot id that tells a
 * restart. */
#pragma once
#include <stdint.h>

struct inventory {
    char hostname[65], boot_id[37];
    unsigned cores;        /* that this process may use */
    uint64_t memory_bytes; /* of the machine, or of our cgroup when that is less */
};

void inventory_read(struct inventory *ret_inventory);
