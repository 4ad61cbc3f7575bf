/* held.c - see held.h: entries, their directories, and the commands that change them. What is seen
 * later is watch.c's. */
#include "daemon/node/held.h"
#include "daemon/node/cgroup.h"
#include "daemon/node/link.h"
#include "daemon/node/prepare.h"
#include "daemon/node/reports.h"
#include "daemon/node/shims.h"
#include "daemon/node/ship.h"
#include "daemon/node/uploads.h"
#include "daemon/node/watch.h"
#include "proto/base/clock.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/log.h"
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COMMAND_MAX (4u << 20)
#define ASK_MS 10000

const char *held_path(const struct held *h, char *buf, const char *name)
{
    if (snprintf(buf, NODE_PATH_MAX, "%s/%s", h->dir, name) >= NODE_PATH_MAX)
        buf[0] = '\0';
    return buf;
}

struct held *held_find(const struct node *n, const char *job, uint64_t number)
{
    for (struct held *h = n->held; h; h = h->next)
        if (h->number == number && strcmp(h->job, job) == 0)
            return h;
    return NULL;
}

static void held_free(struct held *h)
{
    ship_free(h->ship);
    uploads_free(h->uploads);
    json_decref(h->command);
    json_decref(h->relayed);
    free(h);
}

void held_free_all(struct node *n)
{
    while (n->held) {
        struct held *h = n->held;

        n->held = h->next;
        if (h->workers == 0)
            held_free(h);
    }
}

/* Which ranks are ours, from the gang. */
static void find_ranks(struct held *h)
{
    const json_t *gang = json_object_get(h->command, "gang"), *node;
    unsigned rank = 0;
    size_t i;

    json_array_foreach(gang, i, node)
    {
        unsigned slots = (unsigned)lh_json_i64(node, "slots", 0);

        if (strcmp(lh_json_str(node, "node", ""), h->node->config.name) == 0) {
            h->rank0 = rank;
            h->n_local = slots;
            return;
        }
        rank += slots;
    }
}

/* command is stolen. */
static struct held *held_new(struct node *n, json_t *command)
{
    struct held *h = calloc(1, sizeof(*h));

    if (!h || !(h->relayed = json_object())) {
        free(h);
        json_decref(command);
        return NULL;
    }
    h->node = n;
    h->command = command;
    (void)snprintf(h->job, sizeof(h->job), "%s", lh_json_str(command, "job", ""));
    h->number = (uint64_t)lh_json_i64(command, "attempt", 0);
    h->head = strcmp(lh_json_str(command, "role", ""), "head") == 0;
    (void)node_path(n, h->dir, "attempts/%s/%" PRIu64, h->job, h->number);
    find_ranks(h);
    h->ship = ship_new(h);
    h->uploads = uploads_new(h);
    if (!h->ship || !h->uploads) {
        held_free(h);
        return NULL;
    }
    h->next = n->held;
    n->held = h;
    return h;
}

/* ---- adoption --------------------------------------------------------------------------- */

static void adopt(struct node *n, const char *job, const char *number)
{
    char path[NODE_PATH_MAX];
    json_t *command = NULL;
    struct lh_err err;
    struct held *h;

    (void)node_path(n, path, "attempts/%s/%s/attempt.json", job, number);
    if (!lh_path_exists(path))
        return; /* forgotten, with checkpoints that were not uploaded */
    if (lh_json_load(path, COMMAND_MAX, &command, &err) < 0) {
        lh_error("attempt.unreadable", "job=%s attempt=%s error=\"%s\"", job, number, err.text);
        return;
    }
    h = held_new(n, command);
    if (!h)
        return;
    if (lh_path_exists(held_path(h, path, "cleaned.json")) ||
        lh_path_exists(held_path(h, path, "refused.json"))) {
        h->state = HELD_OVER;
        h->over_ms = lh_mono_ms();
    } else if (lh_path_exists(held_path(h, path, "shim.json"))) {
        h->state = HELD_LIVE; /* or its shim is dead, which the first look finds */
    } else {
        h->state = HELD_STAGING;
        prepare_start(h);
    }
    lh_info("attempt.adopted", "job=%s attempt=%s state=%s", job, number,
            h->state == HELD_OVER   ? "over"
            : h->state == HELD_LIVE ? "live"
                                    : "staging");
}

static bool is_entry(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

int held_load_all(struct node *n, struct lh_err *reterr)
{
    char path[NODE_PATH_MAX];
    int rc = lh_mkdir_p(node_path(n, path, "attempts"), reterr);
    DIR *jobs = rc < 0 ? NULL : opendir(path), *numbers;
    struct dirent *job, *number;

    if (rc < 0)
        return rc;
    if (!jobs)
        return lh_err_set(reterr, -errno, "'%s'", path);
    while ((job = readdir(jobs))) {
        if (!is_entry(job))
            continue;
        numbers = opendir(node_path(n, path, "attempts/%s", job->d_name));
        while (numbers && (number = readdir(numbers)))
            if (is_entry(number))
                adopt(n, job->d_name, number->d_name);
        if (numbers)
            (void)closedir(numbers);
    }
    (void)closedir(jobs);
    return 0;
}

/* ---- commands --------------------------------------------------------------------------- */

/* An id becomes a directory: nothing but letters, digits, '-' and '_'. */
static bool id_is_safe(const char *id)
{
    size_t n = strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_");

    return n > 0 && n < 64 && id[n] == '\0';
}

static json_t *local_part(const struct node *n, const char *job, uint64_t number)
{
    char cache[NODE_PATH_MAX], cgroup[NODE_PATH_MAX];
    json_t *o;

    o = json_pack("{s:s, s:s, s:s, s:i, s:i, s:I, s:I, s:I}", "node", n->config.name, "mpirun",
                  n->config.mpirun, "cache", node_path(n, cache, "cache"), "cores",
                  (int)n->inventory.cores, "slots", (int)n->config.slots, "grace_ms",
                  (json_int_t)n->config.grace_ms, "hang_ms", (json_int_t)n->config.hang_ms,
                  "log_max_bytes", (json_int_t)n->config.log_max_bytes);
    if (o && cgroup_make(job, number, cgroup, sizeof(cgroup)))
        (void)json_object_set_new(o, "cgroup", json_string(cgroup));
    return o;
}

static int make_directory(const struct held *h, struct lh_err *reterr)
{
    char path[NODE_PATH_MAX];
    int rc = lh_mkdir_p(held_path(h, path, "out/events"), reterr);

    return rc < 0 ? rc : lh_json_save(held_path(h, path, "attempt.json"), h->command, reterr);
}

void held_prepare(struct node *n, const json_t *command)
{
    const char *job = lh_json_str(command, "job", "");
    uint64_t number = (uint64_t)lh_json_i64(command, "attempt", 0);
    struct lh_err err;
    struct held *h;
    json_t *copy;

    if (!id_is_safe(job) || number == 0) {
        lh_error("prepare.refused", "job=\"%s\" error=\"not a job id\"", job);
        return;
    }
    for (h = n->held; h; h = h->next) {
        if (strcmp(h->job, job) != 0)
            continue;
        if (h->number == number) {
            h->told_prepared = false; /* a repeated command: the answer is repeated */
            return;
        }
        if (h->number > number) {
            lh_warn("prepare.stale", "job=%s attempt=%" PRIu64 " held=%" PRIu64, job, number,
                    h->number);
            return;
        }
        held_stop(h, "superseded", 0);
    }
    copy = json_deep_copy(command);
    if (!copy || json_object_set_new(copy, "local", local_part(n, job, number)) < 0 ||
        !(h = held_new(n, copy))) {
        lh_error("prepare.failed", "job=%s error=memory", job);
        return;
    }
    h->state = HELD_STAGING;
    lh_info("attempt.prepare", "job=%s attempt=%" PRIu64 " role=%s", job, number,
            h->head ? "head" : "member");
    if (make_directory(h, &err) < 0)
        prepare_refuse(h, "storage", &err);
    else
        prepare_start(h);
}

static void on_shim_answer(void *arg, const json_t *answer, const struct lh_err *err)
{
    const char *what = arg;

    if (!answer)
        lh_warn("shim.silent", "op=%s error=\"%s\"", what, err->text);
    else if (!lh_json_bool(answer, "ok", 0))
        lh_warn("shim.refused", "op=%s error=\"%s\"", what, lh_json_str(answer, "error", ""));
}

static void ask(const struct held *h, json_t *request, const char *what)
{
    shims_ask(h->node->loop, h->dir, request, ASK_MS, on_shim_answer, (void *)(uintptr_t)what);
}

void held_launch(struct held *h)
{
    h->told_launched = false;
    if (h->state == HELD_LIVE)
        ask(h, json_pack("{s:s}", "op", "launch"), "launch");
}

void held_orted(struct held *h, const char *command)
{
    if (h->state == HELD_LIVE)
        ask(h, json_pack("{s:s, s:s}", "op", "orted", "command", command), "orted");
}

void held_checkpoint(struct held *h)
{
    if (h->state == HELD_LIVE)
        ask(h, json_pack("{s:s}", "op", "checkpoint"), "checkpoint");
}

void held_stop(struct held *h, const char *reason, uint64_t grace_ms)
{
    h->cancel = true; /* of staging, when it is still going on */
    h->stop_wanted = true;
    h->told_cleaned = h->told_exited = false;
    lh_info("attempt.stop", "job=%s attempt=%" PRIu64 " reason=%s grace_ms=%" PRIu64, h->job,
            h->number, reason, grace_ms);
    if (h->state == HELD_LIVE)
        ask(h,
            json_pack("{s:s, s:s, s:I}", "op", "stop", "reason", reason, "grace_ms",
                      (json_int_t)grace_ms),
            "stop");
}

void held_forget(struct held *h)
{
    h->forget_wanted = true;
}

void held_renew_leases(struct node *n)
{
    for (struct held *h = n->held; h; h = h->next) {
        int64_t own_s = lh_json_i64(h->command, "lease_s", 0);

        if (h->state == HELD_LIVE && own_s > 0)
            shims_ask(n->loop, h->dir,
                      json_pack("{s:s, s:I}", "op", "lease", "ms", (json_int_t)(own_s * 1000)),
                      ASK_MS, NULL, NULL);
    }
}

json_t *held_list(const struct node *n)
{
    static const char *const names[] = {"staging", "staging", "live", "over"};
    json_t *list = json_array();

    for (const struct held *h = n->held; list && h; h = h->next)
        (void)json_array_append_new(
            list, json_pack("{s:s, s:I, s:s, s:s}", "job", h->job, "attempt", (json_int_t)h->number,
                            "role", h->head ? "head" : "member", "state", names[h->state]));
    return list;
}

void held_tell_all(struct node *n)
{
    for (struct held *h = n->held; h; h = h->next) {
        h->told_prepared = h->told_launched = h->told_running = h->told_exited = h->told_cleaned =
            false;
        (void)json_object_clear(h->relayed);
        ship_doubt(h->ship);
        uploads_tell_all(h->uploads);
    }
}

void held_tick_all(struct node *n)
{
    struct held **at = &n->held;

    while (*at) {
        struct held *h = *at;

        if (!watch_tick(h)) { /* forgotten, its directory is gone */
            *at = h->next;
            held_free(h);
        } else {
            at = &h->next;
        }
    }
}
