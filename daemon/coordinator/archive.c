/* archive.c - jobs that the core has let go, read from the database when somebody asks for them.
 *
 * Each is loaded into a core of its own that holds nothing else, so that it looks to the API like
 * any other job. The last few stay, because one request looks at a job more than once.
 */
#include "daemon/coordinator/app_parts.h"
#include "proto/base/clock.h"
#include "proto/base/json.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN_MAX 4u

struct archive {
    struct core *shown[SHOWN_MAX];
    unsigned next;
};

int archive_new(struct archive **ret, struct lh_err *reterr)
{
    struct archive *v = calloc(1, sizeof(*v));

    if (!v)
        return lh_err_set(reterr, -ENOMEM, "start");
    *ret = v;
    return 0;
}

void archive_free(struct archive *v)
{
    if (!v)
        return;
    for (unsigned i = 0; i < SHOWN_MAX; i++)
        core_free(v->shown[i]);
    free(v);
}

static int load_row(void *arg, const char *table, const json_t *row, struct lh_err *reterr)
{
    return core_load(arg, table, row, reterr);
}

/* The job as it is in the database; it lives until SHOWN_MAX others were asked for. */
static const struct core_job *show(struct app *a, const char *id)
{
    struct archive *v = a->archive;
    struct core *one = core_new(&a->config->core, lh_mono_ms(), lh_now_ms());
    struct lh_err err = {.code = 0};

    if (store_load_job(a->store, id, load_row, one, &err) < 0) {
        app_warn(a, "archive.unreadable", "job %s cannot be read: %s", id, err.text);
        core_free(one);
        return NULL;
    }
    core_free(v->shown[v->next]);
    v->shown[v->next] = one;
    v->next = (v->next + 1) % SHOWN_MAX;
    return core_find_job(one, id);
}

const struct core_job *app_find_job(struct app *a, const char *id_or_number_or_name)
{
    const struct core_job *j = core_find_job(a->core, id_or_number_or_name);
    char id[CHANGE_ID_MAX];

    if (j || !store_find_job(a->store, id_or_number_or_name, id))
        return j;
    j = core_find_job(a->core, id);
    return j ? j : show(a, id);
}

const struct core_job *app_next_job(struct app *a, uint64_t below, bool *ret_archived)
{
    const struct core_job *j = core_next_job(a->core, below, true);
    const struct core_job *next;
    char id[CHANGE_ID_MAX];

    *ret_archived = false;
    /* Numbers have no gaps, so a neighbour needs no look into the database. */
    if (j && j->number + 1 == (below ? below : core_last_number(a->core) + 1))
        return j;
    if (!store_job_below(a->store, below ? below : UINT64_MAX, id) ||
        (next = core_find_job(a->core, id)))
        return j;
    next = show(a, id);
    *ret_archived = next && (!j || next->number > j->number);
    return *ret_archived ? next : j;
}

static int collect_row(void *arg, const char *table, const json_t *row, struct lh_err *reterr)
{
    (void)reterr;
    return json_array_append_new(arg, json_pack("[s,O]", table, row)) < 0 ? -ENOMEM : 0;
}

void archive_recall(struct app *a, const char *name)
{
    LH_CLEANUP(lh_json_decrefp) json_t *rows = json_array();
    struct lh_err err = {.code = 0};
    char id[CHANGE_ID_MAX];

    if (core_find_job(a->core, name) || !store_find_job(a->store, name, id) ||
        core_find_job(a->core, id))
        return;
    if (store_load_job(a->store, id, collect_row, rows, &err) < 0 ||
        core_recall(a->core, rows, &err) < 0)
        app_warn(a, "archive.unreadable", "job %s cannot be read: %s", id, err.text);
}
