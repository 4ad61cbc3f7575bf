/* retire.c - jobs that have ended leave the core, so that its memory follows the work at hand and
 * not the history; and come back when a new job names them.
 *
 * The database has them for good. A job stays while anything may still change it or needs it: a job
 * that comes after it, processes that a lost node may still run, an upload under way; and until
 * what was decided about it is on disk.
 */
#include "daemon/coordinator/core/table.h"
#include "proto/base/str.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define RETIRE_LOOK_MAX 1000 /* in one tick */

void retire_hold_deps(struct core *c, struct entry *e, int by)
{
    for (unsigned i = 0; i < e->n_deps; i++) {
        struct entry *t = find_id(c, e->deps[i].job);

        if (t)
            t->n_dependents += (unsigned)by;
    }
}

static bool is_due(const struct core *c, const struct entry *e)
{
    const struct core_config *k = &c->config;

    return (k->jobs_max && c->lists[LIST_DONE].n > k->jobs_max) ||
           (k->jobs_keep_ms && e->pub.ended_ms + k->jobs_keep_ms < c->wall_ms);
}

static bool is_needed(const struct entry *e, uint64_t committed_seq)
{
    const struct core_job *j = &e->pub;

    if (e->n_dependents > 0 || e->last_seq > committed_seq)
        return true;
    for (unsigned i = 0; i < j->n_attempts; i++)
        for (unsigned k = 0; k < j->attempts[i].n_claims; k++)
            if (!j->attempts[i].claims[k].cleaned)
                return true;
    for (unsigned i = 0; i < j->n_checkpoints; i++)
        if (strcmp(j->checkpoints[i].state, "written") == 0 ||
            strcmp(j->checkpoints[i].state, "uploading") == 0)
            return true;
    return false;
}

/* Out of every table but c->jobs. */
static void leave(struct core *c, struct entry *e)
{
    list_move(c, e, LIST_NONE);
    hash_remove(c, e);
    c->count[e->pub.state]--;
    for (unsigned i = 0; i < e->pub.n_checkpoints; i++)
        count_checkpoint(c, &e->pub.checkpoints[i], -1);
}

void retire_tick(struct core *c, uint64_t committed_seq)
{
    unsigned looked = 0, left = 0, n = 0;
    struct entry *e;

    while ((e = c->lists[LIST_DONE].first) && looked++ < RETIRE_LOOK_MAX && is_due(c, e)) {
        if (is_needed(e, committed_seq)) {
            list_move(c, e, LIST_DONE); /* to the end: its turn comes again */
            continue;
        }
        leave(c, e);
        left++;
    }
    for (unsigned i = 0; left > 0 && i < c->n_jobs; i++) {
        if (c->jobs[i]->list == LIST_NONE)
            entry_free(c->jobs[i]);
        else
            c->jobs[n++] = c->jobs[i];
    }
    if (left > 0)
        c->n_jobs = n;
}

/* ---- and back -------------------------------------------------------------------------------- */

struct unknown {
    const struct core *core;
    core_name_fn *fn;
    void *arg;
};

static void look_up(struct unknown *u, const char *name)
{
    if (!find_any(u->core, name))
        u->fn(u->arg, name);
}

static void look_in_uri(void *arg, const char *pointer, const char *text)
{
    struct lh_uri uri;

    (void)pointer;
    if (lh_uri_parse(text, &uri, NULL) == 0 && uri.scheme == LH_URI_JOB)
        look_up(arg, uri.authority);
}

void core_unknown_names(const struct core *c, const struct lh_job *job, core_name_fn *fn, void *arg)
{
    struct unknown u = {.core = c, .fn = fn, .arg = arg};

    for (unsigned i = 0; i < job->n_after; i++)
        look_up(&u, job->after[i].job);
    each_uri(job, look_in_uri, &u);
}
