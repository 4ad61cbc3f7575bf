/* prometheus.c - GET /metrics: the server's own counters, and gauges made from the core and the
 * status at each scrape.
 *
 * Nothing here is labelled by job or user: the number of series does not grow with use.
 */
#include "daemon/coordinator/api/api.h"
#include "daemon/coordinator/metrics/metrics.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include <stdio.h>
#include <string.h>

#define TEXT_MAX ((size_t)4 << 20)

static void set_labelled(struct metrics_family *f, const char *label, const char *value,
                         double number)
{
    char labels[160];

    metrics_set(f, metrics_labels(labels, sizeof(labels), 1, &label, &value), number);
}

/* The numbers of an object of the status as one gauge: {"up": 2} becomes name{label="up"} 2. */
static void object_gauge(struct metrics *m, const json_t *object, const char *name,
                         const char *help, const char *label)
{
    struct metrics_family *f = metrics_family(m, METRICS_GAUGE, name, help);
    const char *key;
    const json_t *value;

    json_object_foreach((json_t *)(uintptr_t)object, key,
                        value) if (json_is_number(value) &&
                                   strcmp(key, "total") !=
                                       0) /* a sum over states must not count twice */
        set_labelled(f, label, key, json_number_value(value));
}

/* Each number of an object as a metric of its own: {"wal_bytes": 9} of "db" becomes
 * longhaul_db_wal_bytes 9. */
static void object_metrics(struct metrics *m, const json_t *object, const char *part)
{
    const char *key;
    const json_t *value;

    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        char name[128], help[160];
        bool counter = lh_ends_with(key, "_total");

        if (!json_is_number(value))
            continue;
        (void)snprintf(name, sizeof(name), "longhaul_%s_%s", part, key);
        (void)snprintf(help, sizeof(help), "The member %s of /v1/status, in the part %s.", key,
                       part);
        metrics_set(metrics_family(m, counter ? METRICS_COUNTER : METRICS_GAUGE, name, help), "",
                    json_number_value(value));
    }
}

static void core_gauges(struct metrics *m, const struct core *core)
{
    struct metrics_family *f = metrics_family(m, METRICS_GAUGE, "longhaul_jobs", "Jobs by state.");

    for (int s = LH_JOB_HELD; s <= LH_JOB_TIMED_OUT; s++)
        set_labelled(f, "state", lh_job_state_name((enum lh_job_state)s),
                     core_count_jobs(core, (enum lh_job_state)s));
}

static void fill(struct metrics *m, struct app *a)
{
    json_t *status = app_status(a);

    metrics_set(metrics_family(m, METRICS_GAUGE, "longhaul_build_info",
                               "Always 1; the version is a label."),
                "version=\"" LH_VERSION "\"", 1);
    core_gauges(m, app_core(a));
    object_gauge(m, json_object_get(status, "nodes"), "longhaul_nodes", "Nodes by state.", "state");
    object_gauge(m, json_object_get(status, "slots"), "longhaul_slots", "Slots by state.", "state");
    object_metrics(m, json_object_get(status, "database"), "db");
    object_metrics(m, json_object_get(status, "scheduler"), "sched");
    object_metrics(m, json_object_get(status, "uploads"), "ckpt_upload");
    metrics_set(metrics_family(m, METRICS_GAUGE, "longhaul_uptime_seconds",
                               "Time since the start of longhauld."),
                "", lh_json_num(status, "uptime_s", 0));
    metrics_set(metrics_family(m, METRICS_GAUGE, "longhaul_epoch",
                               "Starts of this coordinator's database."),
                "", (double)lh_json_i64(status, "epoch", 0));
    metrics_set(metrics_family(m, METRICS_GAUGE, "longhaul_ready", "1 when /readyz answers 200."),
                "", app_is_ready(a, NULL) ? 1 : 0);
    json_decref(status);
}

void api_metrics(struct api_call *c)
{
    struct metrics *m;
    struct lh_buf out;

    if (!api_only(c, "text/plain"))
        return;
    m = metrics_new();
    lh_buf_init(&out, TEXT_MAX);
    if (m)
        fill(m, c->app);
    if (!m || metrics_write(m, &out) < 0 || metrics_write(http_metrics(c->q), &out) < 0)
        http_answer_problem(c->q, 503, "no_memory", NULL, "no memory for the metrics");
    else
        http_answer_bytes(c->q, 200, "text/plain; version=0.0.4; charset=utf-8", out.data, out.len,
                          NULL);
    lh_buf_release(&out);
    metrics_free(m);
}
