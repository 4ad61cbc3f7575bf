/* nodes.c - nodes: registering, being heard of, being missed; and what each must still do when it
 * registers anew.
 *
 *     up ──not heard for suspect_ms──> suspect ──for down_ms──> down ──register──> up
 *          <──────────heard──────────┘
 *
 * Suspect frees nothing, it only gets no new work. Down starts another attempt elsewhere
 * (attempts.c).
 */
#include "daemon/coordinator/core/table.h"
#include "proto/base/json.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct node *find_node(const struct core *c, const char *name)
{
    for (unsigned i = 0; i < c->n_nodes; i++)
        if (strcmp(c->nodes[i]->pub.name, name) == 0)
            return c->nodes[i];
    return NULL;
}

struct node *node_add(struct core *c, const char *name)
{
    struct node *n = core_alloc(sizeof(*n));

    copy_text(n->pub.name, sizeof(n->pub.name), name);
    c->nodes = core_grow(c->nodes, c->n_nodes + 1, sizeof(struct node *));
    c->nodes[c->n_nodes++] = n;
    return n;
}

static void node_log(struct core *c, struct node *n, const char *type)
{
    struct change_event *ev =
        log_event(c, type, NULL, 0,
                  json_pack("{s:s,s:s,s:s,s:i,s:s}", "node", n->pub.name, "state",
                            lh_node_state_name(n->pub.state), "reason", n->pub.reason, "slots",
                            (int)n->pub.slots, "device", n->pub.device));

    change_row_add(ev, "node", row_node(&n->pub));
    c->capacity_changed = c->queue_changed = true;
}

static void node_move(struct core *c, struct node *n, enum lh_node_state to, const char *reason)
{
    char type[CHANGE_TYPE_MAX];

    n->pub.state = to;
    copy_text(n->pub.reason, sizeof(n->pub.reason), reason);
    (void)snprintf(type, sizeof(type), "node.%s", lh_node_state_name(to));
    node_log(c, n, type);
}

void node_seen(struct core *c, struct node *n)
{
    n->pub.seen_ms = c->now_ms;
    if (n->pub.state == LH_NODE_SUSPECT)
        node_move(c, n, LH_NODE_UP, "");
}

static void node_down(struct core *c, struct node *n)
{
    struct entry *next;

    node_move(c, n, LH_NODE_DOWN, "not heard of");
    n->registered = false; /* it must register, and say what it still has */
    queue_preflight_node_gone(c, n);
    for (struct entry *e = c->lists[LIST_ACTIVE].first; e; e = next) {
        struct core_attempt *a = live_attempt(e);

        next = e->next;
        for (unsigned i = 0; a && i < a->n_claims; i++)
            if (strcmp(a->claims[i].node, n->pub.name) == 0 &&
                (!a->claims[i].cleaned || (i == 0 && a->state < LH_ATTEMPT_EXITED))) {
                attempt_node_gone(c, e, a, i, false);
                break;
            }
    }
}

void nodes_tick(struct core *c)
{
    uint64_t gap = c->now_ms - c->last_tick_ms;

    for (unsigned i = 0; i < c->n_nodes; i++) {
        struct node *n = c->nodes[i];
        uint64_t silent;

        /* We ourselves stood still (stopped, suspended, starved): nobody could reach us, so nobody
         * is blamed. */
        if (gap > c->config.stall_ms)
            n->pub.seen_ms = LH_MIN(n->pub.seen_ms + gap, c->now_ms);
        silent = c->now_ms - n->pub.seen_ms;
        if (n->pub.state == LH_NODE_UP && silent >= c->config.suspect_ms)
            node_move(c, n, LH_NODE_SUSPECT, "not heard of");
        if (n->pub.state == LH_NODE_SUSPECT && silent >= c->config.down_ms)
            node_down(c, n);
    }
    dirty_tick(c);
}

/* ---- registering ----------------------------------------------------------------------------- */

static bool listed(const json_t *attempts, const char *job, uint64_t number)
{
    size_t i;
    json_t *a;

    json_array_foreach (attempts, i, a)
        if ((uint64_t)lh_json_i64(a, "attempt", 0) == number &&
            strcmp(lh_json_str(a, "job", ""), job) == 0)
            return true;
    return false;
}

/* What the node must still do for an attempt that it holds, or should. */
static void tell_again(struct core *c, struct entry *e, struct core_attempt *a, unsigned claim)
{
    size_t i;
    json_t *relay;

    switch (a->state) {
    case LH_ATTEMPT_ALLOCATED:
    case LH_ATTEMPT_PREPARED:
        if (!a->claims[claim].prepared)
            command_prepare(c, e, claim);
        break;
    case LH_ATTEMPT_LAUNCHING:
        if (claim == 0)
            command_launch(c, e);
        json_array_foreach (e->orted, i, relay)
            if (strcmp(lh_json_str(relay, "node", ""), a->claims[claim].node) == 0)
                command_add(c, a->claims[claim].node,
                            json_pack("{s:s,s:s,s:I,s:s}", "type", "orted", "job", e->pub.id,
                                      "attempt", (json_int_t)a->number, "command",
                                      lh_json_str(relay, "command", "")));
        break;
    case LH_ATTEMPT_STOPPING:
        command_stop(c, e, a, claim, a->stop_reason);
        break;
    case LH_ATTEMPT_EXITED:
        command_stop(c, e, a, claim, "exited");
        break;
    default:
        break;
    }
}

/* One job that is active, seen from a node that has just registered. */
static void reconcile_job(struct core *c, struct entry *e, struct node *n, const json_t *attempts)
{
    struct core_attempt *a = live_attempt(e);

    for (unsigned i = 0; a && i < a->n_claims; i++) {
        struct core_claim *k = &a->claims[i];

        if (strcmp(k->node, n->pub.name) != 0 ||
            (k->cleaned && !(i == 0 && attempt_awaits_exit(c, a))))
            continue;
        /* One that never confirmed its `prepare` may not have heard of it. */
        if (listed(attempts, e->pub.id, a->number) ||
            (!k->prepared && a->state == LH_ATTEMPT_ALLOCATED)) {
            tell_again(c, e, a, i);
        } else {
            attempt_node_gone(c, e, a, i, true);
        }
        return;
    }
}

/* Old attempts: what the node holds is either to be killed or to be forgotten; what it lacks is
 * clean. */
static void reconcile_dirty(struct core *c, struct node *n, const json_t *attempts)
{
    for (unsigned d = 0; d < c->n_dirty; d++) {
        struct entry *e = c->dirty[d].entry;
        struct core_attempt *a = &e->pub.attempts[c->dirty[d].attempt];

        for (unsigned i = 0; i < a->n_claims; i++)
            if (strcmp(a->claims[i].node, n->pub.name) == 0 && !a->claims[i].cleaned &&
                !listed(attempts, e->pub.id, a->number))
                attempt_claim_cleaned(c, e, a, i, "claim.cleaned");
    }
}

/* An attempt that the node holds: NULL when it is welcome, else whether to kill it, or (clean) to
 * forget it. */
static void reconcile_held(struct core *c, struct node *n, const json_t *held, json_t *kill)
{
    const char *job = lh_json_str(held, "job", "");
    uint64_t number = (uint64_t)lh_json_i64(held, "attempt", 0);
    struct entry *e = find_id(c, job);

    for (unsigned i = 0; e && i < e->pub.n_attempts; i++) {
        struct core_attempt *a = &e->pub.attempts[i];

        for (unsigned k = 0; a->number == number && k < a->n_claims; k++) {
            if (strcmp(a->claims[k].node, n->pub.name) != 0)
                continue;
            if (!lh_attempt_is_final(a->state))
                return;
            if (a->claims[k].cleaned) {
                command_forget(c, n->pub.name, job, number);
                return;
            }
        }
    }
    (void)json_array_append_new(kill,
                                json_pack("{s:s,s:I}", "job", job, "attempt", (json_int_t)number));
}

static bool name_taken(const struct core *c, const struct node *n, const json_t *body)
{
    return n->registered && n->pub.state == LH_NODE_UP &&
           c->now_ms - n->pub.seen_ms < c->config.suspect_ms &&
           strcmp(n->pub.agent_id, lh_json_str(body, "agent_id", "")) != 0 &&
           strcmp(n->pub.boot_id, lh_json_str(body, "boot_id", "")) != 0;
}

static void take_members(struct node *n, const json_t *body)
{
    struct core_node *p = &n->pub;

    copy_text(p->agent_id, sizeof(p->agent_id), lh_json_str(body, "agent_id", ""));
    copy_text(p->boot_id, sizeof(p->boot_id), lh_json_str(body, "boot_id", ""));
    copy_text(p->version, sizeof(p->version), lh_json_str(body, "version", ""));
    copy_text(p->hostname, sizeof(p->hostname), lh_json_str(body, "hostname", ""));
    copy_text(p->address, sizeof(p->address), lh_json_str(body, "address", ""));
    copy_text(p->device, sizeof(p->device), lh_json_str(body, "device", "cpu"));
    p->slots = (unsigned)lh_json_i64(body, "slots", 0);
    p->cores = (unsigned)lh_json_i64(body, "cores", 0);
    p->memory_bytes = (uint64_t)lh_json_i64(body, "memory_bytes", 0);
}

void node_register(struct core *c, const json_t *body)
{
    const char *name = lh_json_str(body, "name", "");
    const json_t *attempts = json_object_get(body, "attempts");
    struct node *n = find_node(c, name);
    json_t *kill = json_array(), *held;
    struct entry *next;
    size_t i;

    if (n && name_taken(c, n, body)) {
        c->fx->status = 409;
        c->fx->code = "name_taken";
        (void)snprintf(c->fx->detail, sizeof(c->fx->detail),
                       "a node named %s is alive on another machine; give this one another --name",
                       name);
        json_decref(kill);
        return;
    }
    if (!n)
        n = node_add(c, name);
    take_members(n, body);
    n->registered = true;
    n->pub.registered_ms = c->wall_ms;
    n->pub.seen_ms = c->now_ms;
    if (n->pub.state != LH_NODE_DRAINED) {
        n->pub.state = LH_NODE_UP;
        n->pub.reason[0] = '\0';
    }
    node_log(c, n, "node.registered");
    command_add(c, name, NULL);
    json_array_foreach (attempts, i, held)
        reconcile_held(c, n, held, kill);
    reconcile_dirty(c, n, attempts);
    for (struct entry *e = c->lists[LIST_ACTIVE].first; e; e = next) {
        next = e->next;
        reconcile_job(c, e, n, attempts);
    }
    for (struct entry *e = c->lists[LIST_PREFLIGHT].first; e; e = e->next)
        for (unsigned k = 0; k < e->n_preflight; k++)
            if (strcmp(e->preflight[k].node, name) == 0 && !e->preflight[k].answered)
                command_preflight(c, e, name);
    c->fx->status = 200;
    c->fx->body = json_pack("{s:o}", "kill", kill);
}
