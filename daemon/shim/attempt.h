/* attempt.h - what a shim knows of its attempt: DIR/attempt.json, read once.
 *
 * The file is the `prepare` command as the coordinator sent it, with a member `local` for what the
 * node adds (its programs, cores and timers). Everything here is checked; nothing changes after
 * attempt_load.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <stdbool.h>
#include <stdint.h>

#define ATTEMPT_GANG_MAX 4096
#define ATTEMPT_JSON_MAX (4u << 20) /* a job's spec (1 MiB) and a full gang */

struct attempt_node {
    char name[64], address[64];
    unsigned slots;
};
struct attempt {
    char job[64];
    uint64_t number;
    bool head;
    char node[64];             /* our own name in the gang */
    struct attempt_node *gang; /* owned; [0] is the head */
    unsigned n_gang, n_ranks;
    unsigned rank0, n_local;      /* the ranks of this node are [rank0, rank0 + n_local) */
    unsigned port_low, port_high; /* 0: any port */
    uint64_t lease_ms, wall_ms;   /* 0: none */

    /* of `local` */
    char mpirun[1024], cache[1024];
    char cgroup[1024];     /* ours alone; "": there is none */
    unsigned cores, slots; /* of the node, not of the attempt */
    uint64_t grace_ms,
        hang_ms; /* how long a stop that is the shim's own may take; 0 hang_ms: no check */
    uint64_t log_max_bytes; /* of each rank's log */
};

/* Reads ./attempt.json (the shim's working directory is DIR). */
LH_MUST_CHECK int attempt_load(struct attempt *ret_attempt, struct lh_err *reterr);
void attempt_release(struct attempt *a);

/* The name of the node with that address, or NULL. */
const char *attempt_node_at(const struct attempt *a, const char *address);
