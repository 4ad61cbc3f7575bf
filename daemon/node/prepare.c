/* prepare.c - see prepare.h. Threads get their own copies; the loop alone touches entries and
 * reports. */
#include "daemon/node/prepare.h"
#include "daemon/node/reports.h"
#include "daemon/node/shims.h"
#include "daemon/node/stage.h"
#include "proto/base/clock.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/log.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct work {
    uv_work_t req;     /* must not move */
    struct work *next; /* of the node's works */
    uint64_t begun_ms; /* wall clock */
    uint64_t until_ms; /* of a dry run, monotonic */
    struct node *node;
    struct held *held; /* NULL: preflight */
    json_t *command;   /* own copy */
    char dir[NODE_PATH_MAX], cache[NODE_PATH_MAX], job[64];
    const char *worker, *s3_config;
    bool dry_run;       /* a preflight of a job that is not submitted: nothing is tokenised */
    volatile bool late; /* set for dry runs only: preflights of jobs take what they need */
    int rc;
    struct lh_err err;
    json_t *plan;
};

static void work_free(struct work *w)
{
    for (struct work **at = &w->node->works; *at; at = &(*at)->next)
        if (*at == w) {
            *at = w->next;
            break;
        }
    json_decref(w->command);
    json_decref(w->plan);
    free(w);
}

static struct work *work_new(struct node *n, struct held *h, const json_t *command)
{
    struct work *w = calloc(1, sizeof(*w));

    if (!w || !(w->command = json_deep_copy(command))) {
        free(w);
        return NULL;
    }
    w->req.data = w;
    w->node = n;
    w->held = h;
    w->worker = n->config.worker;
    w->s3_config = n->config.s3_config;
    (void)snprintf(w->job, sizeof(w->job), "%s", lh_json_str(command, "job", ""));
    (void)node_path(n, w->cache, "cache");
    w->begun_ms = lh_now_ms();
    w->next = n->works;
    n->works = w;
    return w;
}

static struct stage_env work_env(const struct work *w)
{
    return (struct stage_env){.cache = w->cache,
                              .worker = w->worker,
                              .s3_config = w->s3_config,
                              .cache_lock = &w->node->cache_lock,
                              .cancel = w->held ? &w->held->cancel : &w->late};
}

/* ---- prepare ---------------------------------------------------------------------------- */

static int link_to(const char *target, const char *dir, const char *name, struct lh_err *reterr)
{
    char path[NODE_PATH_MAX + 64];

    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (unlink(path) < 0 && errno != ENOENT)
        return lh_err_set(reterr, -errno, "'%s'", path);
    return symlink(target, path) < 0 ? lh_err_set(reterr, -errno, "'%s'", path) : 0;
}

static void stage_on_thread(uv_work_t *req)
{
    struct work *w = req->data;
    struct stage_env env = work_env(w);
    json_t *spec = json_object_get(w->command, "spec"),
           *resume = json_object_get(w->command, "resume");
    char path[NODE_PATH_MAX];

    w->rc = stage_inputs(&env, spec, json_object_get(w->command, "inputs"), &w->err);
    if (w->rc == 0)
        w->rc = link_to(w->worker, w->dir, "longhaul-worker", &w->err);
    if (w->rc == 0 && json_is_object(resume)) {
        w->rc = stage_fetch(&env, resume, path, &w->err);
        if (w->rc == 0)
            w->rc = link_to(path, w->dir, "resume", &w->err);
    }
    if (w->rc == 0)
        w->rc = stage_job(&env, w->dir, spec, &w->err);
}

/* Inputs that are wrong are the job's fault; what may work later, or on another node, is not. */
static const char *failure_class(int code)
{
    switch (code) {
    case LH_EJOB:
    case LH_EINPUT:
    case LH_ENOTSUP:
    case LH_ENOFIT:
        return "app";
    case -ENOSPC:
    case -EDQUOT:
    case -EROFS:
    case -EIO:
    case LH_EREMOTE:
        return "storage";
    default:
        return "infra";
    }
}

void prepare_refuse(struct held *h, const char *class, const struct lh_err *err)
{
    LH_CLEANUP(lh_json_decrefp) json_t *o = NULL;
    char path[NODE_PATH_MAX];

    lh_warn("attempt.refused", "job=%s attempt=%" PRIu64 " class=%s error=\"%s\"", h->job,
            h->number, class, err->text);
    h->state = HELD_OVER;
    h->over_ms = lh_mono_ms();
    o = json_pack("{s:s, s:o}", "class", class, "problem", stage_problem(err));
    (void)!lh_json_save(held_path(h, path, "refused.json"), o,
                        NULL); /* without it a restart tries again: fine */
    reports_attempt(h->node->reports, h, "prepare_failed", "", json_incref(o));
}

static void stage_on_done(uv_work_t *req, int status)
{
    struct work *w = req->data;
    struct held *h = w->held;
    struct lh_err err;

    h->workers--;
    if (status < 0 || w->node->stopping) { /* the daemon ends; the next one stages again */
        work_free(w);
        return;
    }
    if (w->rc == 0 && h->cancel)
        w->rc = lh_err_set(&w->err, -ECANCELED, "stopped before it was prepared");
    if (w->rc < 0) {
        prepare_refuse(h, failure_class(w->rc), &w->err);
    } else if (shims_start(h->node, h->dir,
                           lh_json_str(json_object_get(h->command, "local"), "cgroup", ""),
                           &err) < 0) {
        prepare_refuse(h, "infra", &err);
    } else {
        h->state = HELD_STARTING;
        h->over_ms = lh_mono_ms(); /* since when we wait */
    }
    work_free(w);
}

void prepare_start(struct held *h)
{
    struct work *w = work_new(h->node, h, h->command);
    struct lh_err err;

    if (!w) {
        (void)lh_err_set(&err, -ENOMEM, "prepare");
        prepare_refuse(h, "infra", &err);
        return;
    }
    (void)snprintf(w->dir, sizeof(w->dir), "%s", h->dir);
    h->workers++;
    (void)uv_queue_work(h->node->loop, &w->req, stage_on_thread, stage_on_done);
}

/* ---- preflight -------------------------------------------------------------------------- */

static void preflight_on_thread(uv_work_t *req)
{
    struct work *w = req->data;
    struct stage_env env = work_env(w);
    json_t *spec = json_object_get(w->command, "spec");
    char path[NODE_PATH_MAX + 16];

    w->rc = lh_mkdir_p(w->dir, &w->err);
    if (w->rc == 0)
        w->rc = stage_inputs(&env, spec, json_object_get(w->command, "inputs"), &w->err);
    if (w->rc == 0) { /* the plan first: it finds what is wrong before hours of tokenising */
        (void)snprintf(path, sizeof(path), "%s/job.json", w->dir);
        w->rc = lh_json_save(path, spec, &w->err);
    }
    if (w->rc == 0)
        w->rc = stage_plan(&env, w->dir, &w->plan, &w->err);
    if (w->rc == 0 && !w->dry_run && lh_json_bool(w->plan, "ok", 0))
        w->rc = stage_job(&env, w->dir, spec, &w->err);
    (void)!lh_remove_tree(w->dir, NULL);
}

static json_t *problem_of(const struct work *w)
{
    json_t *problem = stage_problem(&w->err);

    (void)json_object_set_new(problem, "class", json_string(failure_class(w->rc)));
    return problem;
}

static void preflight_on_done(uv_work_t *req, int status)
{
    struct work *w = req->data;
    char id[128];
    json_t *o;

    if (status == 0 && !w->node->stopping) {
        bool ok = w->rc == 0 && lh_json_bool(w->plan, "ok", 0);

        if (w->plan)
            (void)json_object_del(w->plan, "ok");
        o = json_pack("{s:s, s:s, s:b}", "type", "preflight", "job", w->job, "ok", ok);
        if (o && ok)
            (void)json_object_set(o, "plan", w->plan);
        else if (o)
            (void)json_object_set_new(o, "problem",
                                      w->plan && w->rc == 0 ? json_incref(w->plan) : problem_of(w));
        lh_info("preflight.done", "job=%s ok=%d%s%s", w->job, ok, ok ? "" : " error=",
                ok          ? ""
                : w->rc < 0 ? w->err.text
                            : lh_json_str(w->plan, "detail", ""));
        (void)snprintf(id, sizeof(id), "%s/preflight", w->job);
        reports_put(w->node->reports, id, o);
    }
    (void)json_object_del(w->node->preflights, w->job);
    work_free(w);
}

void preflight_tick(struct node *n)
{
    uint64_t now = lh_mono_ms();

    for (struct work *w = n->works; w; w = w->next)
        if (w->dry_run)
            w->late = now >= w->until_ms;
}

uint64_t prepare_oldest_ms(const struct node *n)
{
    uint64_t oldest = UINT64_MAX;

    for (const struct work *w = n->works; w; w = w->next)
        oldest = LH_MIN(oldest, w->begun_ms);
    return oldest;
}

void preflight_start(struct node *n, const json_t *command)
{
    const char *job = lh_json_str(command, "job", "");
    struct work *w;

    if (json_object_get(n->preflights, job))
        return;
    w = work_new(n, NULL, command);
    if (!w)
        return; /* the coordinator asks again */
    (void)json_object_set_new(n->preflights, job, json_true());
    (void)node_path(n, w->dir, "preflight/%s", job);
    w->dry_run = lh_json_bool(command, "dry_run", 0);
    if (w->dry_run)
        w->until_ms = lh_mono_ms() + (uint64_t)LH_MAX(lh_json_i64(command, "limit_ms", 0), 0);
    (void)uv_queue_work(n->loop, &w->req, preflight_on_thread, preflight_on_done);
}
