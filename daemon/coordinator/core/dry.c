/* dry.c - the core's part of a dry run: where jobs would go, and what their preflights need. */
#include "daemon/coordinator/core/table.h"
#include "proto/base/json.h"
#include <stdio.h>

static json_t *dry_placement(const struct core *c, const struct lh_job *job, bool now)
{
    json_t *placement = json_array();
    struct gang g = {.n = 0};

    if (!place_gang(c, job, now ? PLACE_FREE : PLACE_UP, &g))
        return placement;
    for (unsigned k = 0; k < g.n; k++)
        (void)json_array_append_new(
            placement,
            json_pack("{s:s,s:i}", "node", g.at[k].node->pub.name, "slots", (int)g.at[k].slots));
    gang_release(&g);
    return placement;
}

/* What a preflight of the job needs: `inputs`, as nodes get them; or why there cannot be one now.
 * Jobs of the same pipeline are not stored, so they are not found and have left nothing. */
static void dry_inputs(struct core *c, struct entry *e, json_t *to)
{
    json_t *inputs, *error = NULL;

    for (unsigned i = 0; i < e->n_deps; i++) {
        const struct dep *d = &e->deps[i];
        const struct entry *t = find_id(c, d->job);
        char detail[320];

        if (!d->implicit || (t && lh_job_is_final(t->pub.state)))
            continue;
        (void)snprintf(detail, sizeof(detail),
                       "Its inputs come from job %.128s, which has not ended: no plan can be made "
                       "before.",
                       d->as);
        (void)json_object_set_new(to, "detail", json_string(detail));
        return;
    }
    inputs = command_inputs(c, e, &error);
    if (inputs)
        (void)json_object_set_new(to, "inputs", inputs);
    else
        (void)json_object_set_new(to, "problem", error);
}

/* Where the jobs would go on the cluster as it is; nothing is changed. The plans are still to come
 * from the nodes: `inputs` stands where one can be made. */
json_t *dry_run(struct core *c, struct entry *const *batch, unsigned n)
{
    json_t *all = json_array();

    for (unsigned i = 0; i < n; i++) {
        const struct lh_job *job = batch[i]->pub.job;
        bool now = place_gang(c, job, PLACE_FREE, NULL);
        json_t *placement = dry_placement(c, job, now), *o;
        bool fits = json_array_size(placement) > 0;

        o = json_pack("{s:O,s:b,s:b,s:o,s:n,s:n}", "spec", job->spec, "fits", fits, "now",
                      now && c->lists[LIST_QUEUE].n == 0, "placement", placement, "plan",
                      "problem");
        if (fits)
            dry_inputs(c, batch[i], o);
        else
            (void)json_object_set_new(
                o, "reason",
                json_string(place_gang(c, job, PLACE_ANY, NULL) ? "nodes_down" : "infeasible"));
        (void)json_array_append_new(all, o);
    }
    return all;
}
