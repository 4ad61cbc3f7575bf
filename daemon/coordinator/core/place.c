/* place.c - which nodes a gang gets: all its slots or none, on as few nodes as possible.
 *
 * Greedy and exact for that goal: while no single node holds what remains, the node with the most
 * free slots is taken; the last node is the fullest one that still fits, so that large holes stay
 * whole. Ties go by name, so that the same cluster gives the same gang.
 */
#include "daemon/coordinator/core/table.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

unsigned mask_count(const uint64_t mask[static CORE_SLOTS_MAX / 64])
{
    unsigned n = 0;

    for (unsigned i = 0; i < CORE_SLOTS_MAX / 64; i++)
        n += (unsigned)__builtin_popcountll(mask[i]);
    return n;
}

void pick_slots(const struct node *n, unsigned slots, uint64_t ret_mask[static CORE_SLOTS_MAX / 64])
{
    memset(ret_mask, 0, CORE_SLOTS_MAX / 8);
    for (unsigned s = 0; s < n->pub.slots && slots > 0; s++)
        if (!(n->used[s / 64] >> (s % 64) & 1)) {
            ret_mask[s / 64] |= (uint64_t)1 << (s % 64);
            slots--;
        }
    assert(slots == 0);
}

void claim_slots(struct node *n, const struct core_claim *claim)
{
    for (unsigned i = 0; i < CORE_SLOTS_MAX / 64; i++) {
        assert(!(n->used[i] & claim->slot_mask[i])); /* a slot belongs to one live attempt */
        n->used[i] |= claim->slot_mask[i];
    }
    n->pub.slots_used = mask_count(n->used);
}

void free_slots(struct node *n, const struct core_claim *claim)
{
    for (unsigned i = 0; i < CORE_SLOTS_MAX / 64; i++) {
        assert((n->used[i] & claim->slot_mask[i]) == claim->slot_mask[i]);
        n->used[i] &= ~claim->slot_mask[i];
    }
    n->pub.slots_used = mask_count(n->used);
}

static bool device_fits(const struct core_node *n, enum lh_device device)
{
    /* The emulated device and the CPU run on any machine. */
    return device != LH_DEVICE_CUDA || strcmp(n->device, "cuda") == 0;
}

static unsigned slots_on(const struct node *n, const struct lh_job *job, enum place_on on)
{
    enum lh_node_state s = n->pub.state;

    if (!device_fits(&n->pub, job->resources.device))
        return 0;
    if (on == PLACE_ANY)
        return n->pub.slots;
    if (s == LH_NODE_DRAINED || s == LH_NODE_DOWN)
        return 0;
    if (on == PLACE_UP)
        return n->pub.slots;
    if (s != LH_NODE_UP ||
        !n->registered) /* until it has registered anew, nobody knows what runs there */
        return 0;
    /* After a node came back with fewer slots, more may be in use than there are. */
    return n->pub.slots > n->pub.slots_used ? n->pub.slots - n->pub.slots_used : 0;
}

static bool better(const struct node *a, unsigned a_slots, const struct node *b, unsigned b_slots,
                   unsigned need)
{
    bool a_whole = a_slots >= need, b_whole = b_slots >= need;

    if (a_whole != b_whole)
        return a_whole;
    if (a_slots != b_slots)
        return a_whole ? a_slots < b_slots : a_slots > b_slots;
    return strcmp(a->pub.name, b->pub.name) < 0;
}

bool place_gang(const struct core *c, const struct lh_job *job, enum place_on on,
                struct gang *ret_gang)
{
    unsigned need = (unsigned)job->resources.slots;
    struct gang g = {.n = 0};
    bool *taken = core_alloc(c->n_nodes * sizeof(*taken));

    while (need > 0) {
        unsigned best = 0, best_slots = 0;

        for (unsigned i = 0; i < c->n_nodes; i++) {
            unsigned slots = taken[i] ? 0 : slots_on(c->nodes[i], job, on);

            if (slots > 0 &&
                (best_slots == 0 || better(c->nodes[i], slots, c->nodes[best], best_slots, need))) {
                best = i;
                best_slots = slots;
            }
        }
        if (best_slots == 0)
            break;
        taken[best] = true;
        g.at = core_grow(g.at, g.n + 1, sizeof(*g.at));
        g.at[g.n].node = c->nodes[best];
        g.at[g.n].slots = best_slots < need ? best_slots : need;
        need -= g.at[g.n++].slots;
    }
    free(taken);
    if (need > 0 || !ret_gang) {
        gang_release(&g);
        return need == 0;
    }
    *ret_gang = g;
    return true;
}

void gang_release(struct gang *g)
{
    free(g->at);
    memset(g, 0, sizeof(*g));
}
