/* core.c - the tables themselves: making, their lists; and the door, core_step.
 *
 * core_step hands the event to the file that knows it, then lets queue.c act on what changed.
 * Memory: a failed allocation aborts, because a step that is half done can neither be undone nor go
 * on; the database is the recovery.
 */
#include "daemon/coordinator/core/core.h"
#include "daemon/coordinator/core/table.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS_FIRST 1024

struct core *core_new(const struct core_config *config, uint64_t now_ms, uint64_t wall_ms)
{
    struct core *c = core_alloc(sizeof(*c));

    c->n_buckets = BUCKETS_FIRST;
    c->by_id = core_alloc(c->n_buckets * sizeof(*c->by_id));
    c->by_name = core_alloc(c->n_buckets * sizeof(*c->by_name));
    c->n_idem_buckets = BUCKETS_FIRST;
    c->idem = core_alloc(c->n_idem_buckets * sizeof(struct idem *));
    c->now_ms = c->last_tick_ms = c->idem_purged_ms = now_ms;
    c->wall_ms = wall_ms;
    core_configure(c, config);
    return c;
}

void core_configure(struct core *c, const struct core_config *config)
{
    char *store = core_strdup(config->store ? config->store : "");
    char *ports = core_strdup(config->ports ? config->ports : "");

    free(c->config_store);
    free(c->config_ports);
    c->config = *config;
    c->config.store = c->config_store = store;
    c->config.ports = c->config_ports = ports;
}

void entry_free(struct entry *e)
{
    struct core_job *j = &e->pub;

    for (unsigned i = 0; i < j->n_attempts; i++) {
        free(j->attempts[i].claims);
        json_decref(j->attempts[i].exit);
    }
    free(j->attempts);
    free(j->checkpoints);
    free(j->principal);
    lh_job_free(j->job);
    json_decref(j->plan);
    json_decref(j->result);
    json_decref(j->error);
    for (unsigned i = 0; i < e->n_deps; i++)
        free(e->deps[i].as);
    free(e->deps);
    free(e->preflight);
    json_decref(e->orted);
    json_decref(e->failure);
    free(e);
}

void core_free(struct core *c)
{
    if (!c)
        return;
    for (unsigned i = 0; i < c->n_jobs; i++)
        entry_free(c->jobs[i]);
    for (unsigned i = 0; i < c->n_nodes; i++)
        free(c->nodes[i]);
    for (unsigned i = 0; i < c->n_idem_buckets; i++)
        for (struct idem *k = c->idem[i], *next; k; k = next) {
            next = k->next;
            json_decref(k->jobs);
            free(k->who);
            free(k);
        }
    free(c->jobs);
    free(c->nodes);
    free(c->idem);
    free(c->by_id);
    free(c->by_name);
    free(c->dirty);
    free(c->config_store);
    free(c->config_ports);
    free(c);
}

static void tick(struct core *c, const struct core_event *ev)
{
    struct entry *next;

    nodes_tick(c);
    for (struct entry *e = c->lists[LIST_ACTIVE].first; e; e = next) {
        next = e->next;
        attempt_tick(c, e);
    }
    idem_purge(c);
    retire_tick(c, ev->u.tick.committed_seq);
    c->queue_changed = true; /* retries come of age */
    c->last_tick_ms = c->now_ms;
}

void core_step(struct core *c, const struct core_event *ev, struct core_effects *fx)
{
    struct node *n;

    memset(fx, 0, sizeof(*fx));
    assert(ev->now_ms >= c->now_ms);
    c->now_ms = ev->now_ms;
    c->wall_ms = ev->wall_ms;
    c->random = ev->random;
    c->fx = fx;
    switch (ev->type) {
    case CORE_EV_TICK:
        tick(c, ev);
        break;
    case CORE_EV_SUBMIT:
        submit_step(c, ev);
        break;
    case CORE_EV_ACTION:
        job_action(c, ev);
        break;
    case CORE_EV_REGISTER:
        node_register(c, ev->u.reg.body);
        break;
    case CORE_EV_SEEN:
        if ((n = find_node(c, ev->u.seen.node)))
            node_seen(c, n);
        break;
    case CORE_EV_REPORT:
        if ((n = find_node(c, ev->u.report.node))) {
            const char *type = lh_json_str(ev->u.report.report, "type", "");

            node_seen(c, n);
            if (strcmp(type, "preflight") == 0)
                queue_preflight_report(c, n, ev->u.report.report);
            else
                attempt_report(c, n, type, ev->u.report.report);
        }
        break;
    }
    queue_run(c);
    c->fx = NULL;
}

void core_effects_release(struct core_effects *fx)
{
    change_set_release(&fx->changes);
    for (unsigned i = 0; i < fx->n_commands; i++)
        json_decref(fx->commands[i].body);
    free(fx->commands);
    json_decref(fx->errors);
    json_decref(fx->body);
    memset(fx, 0, sizeof(*fx));
}

/* ---- memory ---------------------------------------------------------------------------------- */

void *core_alloc(size_t n)
{
    void *p = calloc(1, n ? n : 1);

    if (!p)
        abort();
    return p;
}

char *core_strdup(const char *s)
{
    char *copy = strdup(s);

    if (!copy)
        abort();
    return copy;
}

void *core_grow(void *p, size_t n, size_t size)
{
    void *bigger = realloc(p, n * size);

    if (!bigger)
        abort();
    return bigger;
}

uint64_t core_random(struct core *c)
{
    uint64_t z = (c->random += 0x9e3779b97f4a7c15u); /* splitmix64 */

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* ---- lists: the queue by priority, then number; DONE as they come; the others by number ------ */

static bool goes_before(enum list_id list, const struct entry *a, const struct entry *b)
{
    if (list == LIST_QUEUE && a->pub.job->priority != b->pub.job->priority)
        return a->pub.job->priority > b->pub.job->priority;
    if (list == LIST_DONE)
        return false;
    return a->pub.number < b->pub.number;
}

void list_move(struct core *c, struct entry *e, enum list_id to)
{
    struct list *l = &c->lists[e->list];
    struct entry *before;

    if (e->list != LIST_NONE) {
        *(e->prev ? &e->prev->next : &l->first) = e->next;
        *(e->next ? &e->next->prev : &l->last) = e->prev;
        l->n--;
    }
    e->list = to;
    e->prev = e->next = NULL;
    if (to == LIST_NONE)
        return;
    l = &c->lists[to];
    l->n++;
    if (l->last && goes_before(to, e, l->last)) {
        for (before = l->first; goes_before(to, before, e); before = before->next)
            ;
        e->next = before;
        e->prev = before->prev;
        before->prev = e;
        *(e->prev ? &e->prev->next : &l->first) = e;
    } else {
        e->prev = l->last;
        *(l->last ? &l->last->next : &l->first) = e;
        l->last = e;
    }
}

/* ---- numbers ----------------------------------------------------------------------------------
 */

unsigned core_count_jobs(const struct core *c, enum lh_job_state state)
{
    return c->count[state];
}

unsigned core_n_nodes(const struct core *c)
{
    return c->n_nodes;
}

const struct core_node *core_node_at(const struct core *c, unsigned i)
{
    assert(i < c->n_nodes);
    return &c->nodes[i]->pub;
}

const struct core_node *core_find_node(const struct core *c, const char *name)
{
    struct node *n = find_node(c, name);

    return n ? &n->pub : NULL;
}

uint64_t core_last_seq(const struct core *c)
{
    return c->seq;
}

uint64_t core_last_number(const struct core *c)
{
    return c->last_number;
}

uint64_t core_oldest_queued_ms(const struct core *c)
{
    uint64_t oldest = 0;

    /* The queue is sorted by priority first, so its head need not be the oldest. */
    for (const struct entry *e = c->lists[LIST_QUEUE].first; e; e = e->next)
        if (oldest == 0 || e->pub.submitted_ms < oldest)
            oldest = e->pub.submitted_ms;
    return oldest;
}

bool core_knows_agent(const struct core *c, const char *node, const char *agent_id)
{
    const struct node *n = find_node(c, node);

    return n && n->registered && strcmp(n->pub.agent_id, agent_id) == 0;
}
