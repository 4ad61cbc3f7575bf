/* status.c - the operator's summary: GET /v1/status, and whether longhauld lives and is ready. */
#include "daemon/coordinator/app_parts.h"
#include "proto/base/clock.h"

#define STUCK_MS 10000 /* livez: the loop answers, so it moves; the writer must have moved, too */

static const char *const modes[] = {[STORE_OK] = "normal",
                                    [STORE_LOW] = "read_only",
                                    [STORE_FULL] = "read_only",
                                    [STORE_DAMAGED] = "damaged"};

bool app_is_live(const struct app *a)
{
    return lh_mono_ms() - a->beat_ms < STUCK_MS || a->beat_ms == 0;
}

bool app_is_ready(const struct app *a, const char **ret_why)
{
    const char *why = NULL;

    if (a->stopping)
        why = "stopping";
    else if (!a->ready)
        why = "starting";
    else if (a->superseded)
        why = "a node has obeyed a higher epoch of this cluster: another coordinator runs, or this "
              "is an old copy";
    else if (a->mode == STORE_DAMAGED)
        why = "the database is damaged";
    else if (a->mode != STORE_OK)
        why = "the disk is full up to the reserve";
    if (ret_why)
        *ret_why = why;
    return !why;
}

static json_t *jobs_json(const struct app *a)
{
    json_t *o = json_object();

    for (int s = 0; s <= LH_JOB_TIMED_OUT; s++)
        (void)json_object_set_new(o, lh_job_state_name((enum lh_job_state)s),
                                  json_integer(core_count_jobs(a->core, (enum lh_job_state)s)));
    return o;
}

static void nodes_json(const struct app *a, json_t **ret_nodes, json_t **ret_slots)
{
    unsigned by_state[LH_NODE_DRAINED + 1] = {0}, total = 0, used = 0;

    for (unsigned i = 0; i < core_n_nodes(a->core); i++) {
        const struct core_node *n = core_node_at(a->core, i);

        by_state[n->state]++;
        used += n->slots_used;
        if (n->state == LH_NODE_UP)
            total += n->slots;
    }
    *ret_nodes = json_object();
    for (int s = 0; s <= LH_NODE_DRAINED; s++)
        (void)json_object_set_new(*ret_nodes, lh_node_state_name((enum lh_node_state)s),
                                  json_integer(by_state[s]));
    *ret_slots = json_pack("{s:i,s:i,s:i}", "total", (int)total, "used", (int)used, "free",
                           (int)(total > used ? total - used : 0));
}

static json_t *uploads_json(const struct app *a)
{
    uint64_t written_bytes, uploading_bytes;
    unsigned written = core_count_uploads(a->core, "written", &written_bytes);
    unsigned uploading = core_count_uploads(a->core, "uploading", &uploading_bytes);

    return json_pack("{s:i,s:i,s:I,s:i,s:i}", "waiting", (int)written, "uploading", (int)uploading,
                     "backlog_bytes", (json_int_t)(written_bytes + uploading_bytes), "done",
                     (int)core_count_uploads(a->core, "done", NULL), "failed",
                     (int)core_count_uploads(a->core, "failed", NULL));
}

static json_t *warnings_json(const struct app *a)
{
    json_t *list = json_array();
    unsigned n = a->n_warnings < APP_WARNINGS_MAX ? a->n_warnings : APP_WARNINGS_MAX;
    char time[LH_RFC3339_MAX];

    for (unsigned i = 1; i <= n; i++) {
        const struct app_warning *w = &a->warnings[(a->n_warnings - i) % APP_WARNINGS_MAX];

        (void)json_array_append_new(
            list, json_pack("{s:s,s:s}", "time", lh_rfc3339(w->time_ms, time), "text", w->text));
    }
    return list;
}

static json_t *database_json(struct app *a)
{
    struct store_stats s;

    store_stats(a->store, &s);
    return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:f}", "bytes", (json_int_t)s.db_bytes,
                     "wal_bytes", (json_int_t)s.wal_bytes, "free_bytes", (json_int_t)s.free_bytes,
                     "commits_total", (json_int_t)s.commits, "changes_total", (json_int_t)s.sets,
                     "events_total", (json_int_t)s.events, "oldest_seq",
                     (json_int_t)s.snapshot_seq + 1, "waiting", (json_int_t)s.queued,
                     "last_commit_seconds", s.last_commit_s, "max_commit_seconds",
                     LH_MAX(a->commit_max_s, s.max_commit_s));
}

json_t *app_status(struct app *a)
{
    uint64_t oldest = core_oldest_queued_ms(a->core), now = lh_now_ms();
    json_t *o = json_object(), *nodes, *slots;
    char time[LH_RFC3339_MAX];
    const char *why;

    nodes_json(a, &nodes, &slots);
    (void)json_object_set_new(o, "version", json_string(LH_VERSION));
    (void)json_object_set_new(o, "time", json_string(lh_rfc3339(now, time)));
    (void)json_object_set_new(o, "uptime_s",
                              json_integer((json_int_t)(lh_mono_ms() - a->started_mono_ms) / 1000));
    (void)json_object_set_new(o, "started_at", json_string(lh_rfc3339(a->started_ms, time)));
    (void)json_object_set_new(o, "cluster", json_string(store_cluster(a->store)));
    (void)json_object_set_new(o, "epoch", json_integer((json_int_t)store_epoch(a->store)));
    (void)json_object_set_new(o, "mode",
                              json_string(a->superseded ? "superseded" : modes[a->mode]));
    (void)json_object_set_new(o, "ready", json_boolean(app_is_ready(a, &why)));
    (void)json_object_set_new(o, "not_ready", why ? json_string(why) : json_null());
    (void)json_object_set_new(o, "jobs", jobs_json(a));
    (void)json_object_set_new(
        o, "oldest_queued_s",
        oldest && now > oldest ? json_integer((json_int_t)(now - oldest) / 1000) : json_null());
    (void)json_object_set_new(o, "nodes", nodes);
    (void)json_object_set_new(o, "slots", slots);
    (void)json_object_set_new(o, "database", database_json(a));
    (void)json_object_set_new(o, "scheduler",
                              json_pack("{s:f,s:f}", "cycle_max_seconds", a->cycle_max_s,
                                        "loop_lag_max_seconds", (double)a->lag_max_ms / 1000));
    (void)json_object_set_new(o, "uploads", uploads_json(a));
    (void)json_object_set_new(o, "last_seq", json_integer((json_int_t)core_last_seq(a->core)));
    (void)json_object_set_new(o, "warnings", warnings_json(a));
    a->commit_max_s = a->cycle_max_s = 0;
    a->lag_max_ms = 0;
    return o;
}
