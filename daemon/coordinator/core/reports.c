/* reports.c - checkpoints and other outputs: written by the worker, uploaded by the node, kept as
 * rows. How ranks ended.
 *
 * A row is named by attempt and step (or output). Rows are taken for attempts that are over, too:
 * an upload may end after a later attempt has begun, and what it stored is good.
 */
#include "daemon/coordinator/core/table.h"
#include "proto/base/json.h"
#include <stdio.h>
#include <string.h>

#define CHECKPOINTS_MAX 100000 /* of a job; at one a minute two months */

static const char *const states[] = {"written", "uploading", "done", "failed"};

static int rank_of(const char *state)
{
    for (int i = 0; i < (int)LH_ARRAY_LEN(states); i++)
        if (strcmp(states[i], state) == 0)
            return i;
    return -1;
}

void count_checkpoint(struct core *c, const struct core_checkpoint *k, int by)
{
    int i = rank_of(k->state);

    if (i < 0)
        return;
    c->uploads[i] += (unsigned)by;
    c->upload_bytes[i] += by > 0 ? k->bytes : (uint64_t)0 - k->bytes;
}

unsigned core_count_uploads(const struct core *c, const char *state, uint64_t *ret_bytes)
{
    int i = rank_of(state);

    if (ret_bytes)
        *ret_bytes = i < 0 ? 0 : c->upload_bytes[i];
    return i < 0 ? 0 : c->uploads[i];
}

static struct core_checkpoint *find_or_add(struct core_job *j, uint64_t attempt, int64_t step,
                                           const char *output, bool *ret_new)
{
    struct core_checkpoint *k;

    *ret_new = false;
    for (unsigned i = j->n_checkpoints; i > 0; i--) {
        k = &j->checkpoints[i - 1];
        if (k->attempt == attempt && k->step == step && strcmp(k->output, output) == 0)
            return k;
    }
    if (j->n_checkpoints == CHECKPOINTS_MAX)
        return NULL;
    *ret_new = true;
    j->checkpoints = core_grow(j->checkpoints, j->n_checkpoints + 1, sizeof(*j->checkpoints));
    k = &j->checkpoints[j->n_checkpoints++];
    memset(k, 0, sizeof(*k));
    k->attempt = attempt;
    k->step = step;
    copy_text(k->output, sizeof(k->output), output);
    return k;
}

void checkpoint_report(struct core *c, struct entry *e, const char *type, const json_t *report)
{
    struct core_job *j = &e->pub;
    bool written = strcmp(type, "checkpoint") == 0, is_new;
    const char *output = lh_json_str(report, "output", "");
    const char *state = written ? "written" : lh_json_str(report, "state", "");
    int64_t step = output[0] ? -1 : lh_json_i64(report, "step", -1),
            bytes = lh_json_i64(report, "bytes", 0);
    const char *uri = lh_json_str(report, written ? "path" : "uri", "");
    struct core_checkpoint *k;
    struct change_event *ev;
    char event[CHANGE_TYPE_MAX];

    if (rank_of(state) < 0 || (step < 0 && !output[0]))
        return;
    k = find_or_add(j, (uint64_t)lh_json_i64(report, "attempt", 0), step, output, &is_new);
    /* Repeats come: nothing goes backwards, but a failed upload may succeed after all. */
    if (!k || (!is_new && (rank_of(state) <= rank_of(k->state) &&
                           !(strcmp(k->state, "failed") == 0 && strcmp(state, "done") == 0))))
        return;
    count_checkpoint(c, k, -1);
    copy_text(k->state, sizeof(k->state), state);
    if (uri[0])
        copy_text(k->uri, sizeof(k->uri), uri);
    if (lh_json_str(report, "manifest_sha256", "")[0])
        copy_text(k->manifest_sha256, sizeof(k->manifest_sha256),
                  lh_json_str(report, "manifest_sha256", ""));
    if (bytes > 0)
        k->bytes = (uint64_t)bytes;
    copy_text(k->error, sizeof(k->error), lh_json_str(report, "error", ""));
    k->time_ms = c->wall_ms;
    count_checkpoint(c, k, 1);
    j->revision++;
    (void)snprintf(event, sizeof(event), "checkpoint.%s", state);
    ev =
        log_event(c, event, j->id, k->attempt,
                  json_pack("{s:I,s:s,s:s,s:s,s:I,s:s,s:I}", "step", (json_int_t)step, "output",
                            k->output, "state", state, "uri", k->uri, "bytes", (json_int_t)k->bytes,
                            "error", k->error, "revision", (json_int_t)j->revision));
    change_row_add(ev, "checkpoint", row_checkpoint(j, k));
    change_row_add(ev, "job_update", row_job_update(e));
}

const struct core_checkpoint *newest_done(const struct core_job *j, const char *output)
{
    const struct core_checkpoint *best = NULL;

    for (unsigned i = 0; i < j->n_checkpoints; i++) {
        const struct core_checkpoint *k = &j->checkpoints[i];

        if (strcmp(k->state, "done") != 0 || strcmp(k->output, output ? output : "") != 0)
            continue;
        if (!best || k->step > best->step || (k->step == best->step && k->attempt > best->attempt))
            best = k;
    }
    return best;
}

static json_t *find_rank(json_t *ranks, int64_t rank)
{
    json_t *r;
    size_t i;

    json_array_foreach (ranks, i, r)
        if (lh_json_i64(r, "rank", -1) == rank)
            return r;
    return NULL;
}

/* How ranks of one node ended, into the attempt's exit record. The head's record names all ranks of
 * the gang, but knows the ends of its own only; each node tells its part with `cleaned`, which may
 * come before the head's record or after it. */
void attempt_take_ranks(struct core_attempt *a, const json_t *ranks)
{
    int64_t n_ranks = 0;
    json_t *known, *to, *r;
    size_t i;

    for (unsigned k = 0; k < a->n_claims; k++)
        n_ranks += a->claims[k].slots;
    if (json_array_size(ranks) > 0 && !a->exit)
        a->exit = json_pack("{s:[]}", "ranks");
    known = json_object_get(a->exit, "ranks");
    json_array_foreach (ranks, i, r) {
        int64_t rank = lh_json_i64(r, "rank", -1);

        to = find_rank(known, rank);
        if (rank < 0 || rank >= n_ranks)
            continue;
        if (!to)
            (void)json_array_append_new(known, json_deep_copy(r));
        else if (!json_object_get(to, "ms") &&
                 json_object_get(r, "ms")) /* without its node's word: a guess at best */
            (void)json_object_update(to, r);
    }
}
