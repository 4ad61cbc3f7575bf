/* attempt.c - see attempt.h. */
#include "daemon/shim/attempt.h"
#include "proto/base/json.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS_MAX 4096

static void copy(char *to, size_t cap, const char *from)
{
    (void)snprintf(to, cap, "%s", from ? from : "");
}

static int bad(struct lh_err *reterr, const char *what)
{
    return lh_err_set(reterr, LH_EINPUT, "attempt.json: %s", what);
}

static int load_gang(struct attempt *a, const json_t *gang, struct lh_err *reterr)
{
    size_t n = json_array_size(gang);
    bool found = false;

    if (n < 1 || n > ATTEMPT_GANG_MAX)
        return bad(reterr, "'gang' must be a list of 1 to 4096 nodes");
    a->gang = calloc(n, sizeof(*a->gang));
    if (!a->gang)
        return lh_err_set(reterr, -ENOMEM, "attempt.json");
    for (size_t i = 0; i < n; i++) {
        const json_t *node = json_array_get(gang, i);
        struct attempt_node *g = &a->gang[i];
        int64_t slots = lh_json_i64(node, "slots", 0);

        copy(g->name, sizeof(g->name), lh_json_str(node, "node", ""));
        copy(g->address, sizeof(g->address), lh_json_str(node, "address", ""));
        if (!g->name[0] || slots < 1 || slots > SLOTS_MAX)
            return bad(reterr, "each node of 'gang' needs 'node' and 'slots' (1 to 4096)");
        if (n > 1 && !g->address[0])
            return bad(reterr, "each node of a gang of several needs 'address'");
        g->slots = (unsigned)slots;
        if (!found && strcmp(g->name, a->node) == 0) {
            found = true;
            a->rank0 = a->n_ranks;
            a->n_local = g->slots;
        }
        a->n_ranks += g->slots;
    }
    a->n_gang = (unsigned)n;
    return found ? 0 : bad(reterr, "'local.node' is not a node of 'gang'");
}

static int load_local(struct attempt *a, const json_t *local, struct lh_err *reterr)
{
    int64_t cores = lh_json_i64(local, "cores", 1), slots = lh_json_i64(local, "slots", 1);
    int64_t grace = lh_json_i64(local, "grace_ms", 60000),
            hang = lh_json_i64(local, "hang_ms", 600000);
    int64_t log_max = lh_json_i64(local, "log_max_bytes", 64 << 20);

    copy(a->node, sizeof(a->node), lh_json_str(local, "node", ""));
    copy(a->mpirun, sizeof(a->mpirun), lh_json_str(local, "mpirun", "mpirun"));
    copy(a->cache, sizeof(a->cache), lh_json_str(local, "cache", ""));
    copy(a->cgroup, sizeof(a->cgroup), lh_json_str(local, "cgroup", ""));
    if (cores < 1 || slots < 1 || grace < 0 || hang < 0 || log_max < 4096)
        return bad(reterr, "a number of 'local' is out of range");
    a->cores = (unsigned)cores;
    a->slots = (unsigned)slots;
    a->grace_ms = (uint64_t)grace;
    a->hang_ms = (uint64_t)hang;
    a->log_max_bytes = (uint64_t)log_max;
    return 0;
}

static int load_ports(struct attempt *a, const char *ports, struct lh_err *reterr)
{
    if (!ports[0])
        return 0;
    if (sscanf(ports, "%u-%u", &a->port_low, &a->port_high) != 2 || a->port_low < 1 ||
        a->port_low > a->port_high || a->port_high > 65535)
        return bad(reterr, "'ports' must be LOW-HIGH");
    return 0;
}

int attempt_load(struct attempt *ret_attempt, struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *o = NULL;
    struct attempt a = {0};
    int64_t number, lease_s, wall_s;
    const char *role;
    int rc = lh_json_load("attempt.json", ATTEMPT_JSON_MAX, &o, reterr);

    if (rc < 0)
        return rc;
    number = lh_json_i64(o, "attempt", 0);
    lease_s = lh_json_i64(o, "lease_s", 0);
    wall_s = lh_json_i64(o, "wall_s", 0);
    role = lh_json_str(o, "role", "");
    copy(a.job, sizeof(a.job), lh_json_str(o, "job", ""));
    a.number = (uint64_t)number;
    a.head = strcmp(role, "head") == 0;
    a.lease_ms = (uint64_t)lease_s * 1000u;
    a.wall_ms = (uint64_t)wall_s * 1000u;
    if (!a.job[0] || number < 1 || lease_s < 0 || wall_s < 0)
        return bad(reterr, "'job', 'attempt', 'lease_s' or 'wall_s' is missing or out of range");
    if (!a.head && strcmp(role, "member") != 0)
        return bad(reterr, "'role' must be head or member");
    rc = load_local(&a, json_object_get(o, "local"), reterr);
    if (rc == 0)
        rc = load_ports(&a, lh_json_str(o, "ports", ""), reterr);
    if (rc == 0)
        rc = load_gang(&a, json_object_get(o, "gang"), reterr);
    if (rc == 0 && a.head != (a.rank0 == 0))
        rc = bad(reterr, "the head must be the first node of 'gang'");
    if (rc < 0) {
        attempt_release(&a);
        return rc;
    }
    *ret_attempt = a;
    return 0;
}

void attempt_release(struct attempt *a)
{
    free(a->gang);
    a->gang = NULL;
}

const char *attempt_node_at(const struct attempt *a, const char *address)
{
    for (unsigned i = 0; i < a->n_gang; i++)
        if (strcmp(a->gang[i].address, address) == 0)
            return a->gang[i].name;
    return NULL;
}
