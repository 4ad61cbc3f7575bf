/* watch.c - see watch.h.
 *
 * Every report is derived from a file, so a restarted daemon makes the same ones again:
 *   shim.json prepared · start.json launched · all ranks reported: running · relay/NODE.json
 * orted_wanted · exit.json exited (head; after logs and uploads) · cleaned.json cleaned
 */
#include "daemon/node/watch.h"
#include "daemon/node/cgroup.h"
#include "daemon/node/reports.h"
#include "daemon/node/shims.h"
#include "daemon/node/ship.h"
#include "daemon/node/uploads.h"
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

#define SHIM_START_MS                                                                              \
    20000 /* a shim answers within milliseconds; a machine that swaps takes longer */
#define ASK_MS 5000
#define FILE_MAX (1u << 20)

static bool there(const struct held *h, const char *name)
{
    char path[NODE_PATH_MAX];

    return lh_path_exists(held_path(h, path, name));
}

static json_t *load(const struct held *h, const char *name)
{
    char path[NODE_PATH_MAX];
    json_t *o = NULL;

    return lh_json_load(held_path(h, path, name), FILE_MAX, &o, NULL) < 0 ? NULL : o;
}

/* ---- a shim that died ------------------------------------------------------------------- */

/* The records that it can no longer write. Its processes are gone before cleaned.json says so. */
static void bury(struct held *h)
{
    LH_CLEANUP(lh_json_decrefp) json_t *o = NULL, *start = NULL;
    uint64_t now = lh_now_ms();
    char path[NODE_PATH_MAX];
    unsigned left = shims_kill_orphans(h->dir);

    if (left > 0) {
        lh_warn("shim.lost", "job=%s attempt=%" PRIu64 " killed=%u", h->job, h->number, left);
        return; /* looked at again with the next tick */
    }
    start = load(h, "start.json");
    if (!there(h, "exit.json")) {
        o = json_pack("{s:s, s:I, s:s, s:s, s:s, s:i, s:i, s:s, s:{s:s, s:s}, s:n, s:I, s:I, s:[]}",
                      "job", h->job, "attempt", (json_int_t)h->number, "role",
                      h->head ? "head" : "member", "outcome", "failed", "class", "infra", "exit",
                      -1, "signal", 0, "stop", "", "error", "code", "shim_lost", "detail",
                      "the shim of the attempt died, or the machine was restarted", "result",
                      "started_ms", (json_int_t)lh_json_i64(start, "started_ms", 0), "ended_ms",
                      (json_int_t)now, "ranks");
        if (!o || lh_json_save(held_path(h, path, "exit.json"), o, NULL) < 0)
            return;
        json_decref(o);
    }
    (void)!lh_remove_tree(held_path(h, path, "tmp"), NULL);
    (void)snprintf(path, sizeof(path), "/dev/shm/longhaul-%s-%" PRIu64, h->job, h->number);
    (void)!lh_remove_tree(path, NULL); /* SHIM-3 */
    o = json_pack("{s:s, s:I, s:I, s:[]}", "job", h->job, "attempt", (json_int_t)h->number,
                  "ended_ms", (json_int_t)now, "ranks");
    if (o && lh_json_save(held_path(h, path, "cleaned.json"), o, NULL) < 0)
        lh_error("attempt.unrecorded", "job=%s attempt=%" PRIu64 " error=\"%s cannot be written\"",
                 h->job, h->number, path);
}

/* ---- living attempts -------------------------------------------------------------------- */

static void on_status(void *arg, const json_t *answer, const struct lh_err *err)
{
    struct held *h = arg;

    (void)err;
    h->asking = false;
    if (answer && h->head && !h->told_running && lh_json_i64(answer, "ranks", 0) > 0 &&
        lh_json_i64(answer, "reported", 0) == lh_json_i64(answer, "ranks", 0)) {
        h->told_running = true;
        reports_attempt(h->node->reports, h, "running", "", NULL);
    }
}

static void tell_relays(struct held *h)
{
    char path[NODE_PATH_MAX], file[NODE_PATH_MAX];
    DIR *d = opendir(held_path(h, path, "relay"));
    struct dirent *e;

    while (d && (e = readdir(d))) {
        size_t n = strlen(e->d_name);
        json_t *o;

        if (n < 6 || strcmp(e->d_name + n - 5, ".json") != 0 ||
            json_object_get(h->relayed, e->d_name))
            continue;
        (void)snprintf(file, sizeof(file), "relay/%.200s", e->d_name);
        o = load(h, file);
        if (!o)
            continue;
        (void)json_object_set_new(h->relayed, e->d_name, json_true());
        reports_attempt(h->node->reports, h, "orted_wanted", e->d_name, o);
    }
    if (d)
        (void)closedir(d);
}

static void tell_prepared(struct held *h)
{
    if (!h->told_prepared) {
        h->told_prepared = true;
        reports_attempt(h->node->reports, h, "prepared", "", NULL);
    }
}

static void tell_launched(struct held *h)
{
    if (h->head && !h->told_launched && there(h, "start.json")) {
        h->told_launched = true;
        reports_attempt(h->node->reports, h, "launched", "", NULL);
    }
}

/* What a shim wrote before it gave up; NULL: nothing. */
static char *shim_words(const struct held *h)
{
    char path[NODE_PATH_MAX], *text = NULL;
    size_t len = 0;

    if (lh_read_file(held_path(h, path, "shim.log"), 65536, &text, &len, NULL) < 0 || len == 0) {
        free(text);
        return NULL;
    }
    text[strcspn(text, "\n")] = '\0';
    return text;
}

static void tick_starting(struct held *h)
{
    struct lh_err err;
    char *said;

    if (there(h, "shim.json") && shims_alive(h->dir)) {
        h->state = HELD_LIVE;
        if (h->stop_wanted)
            held_stop(h, "stopped while it was prepared", 0);
        return;
    }
    if (lh_mono_ms() - h->over_ms < SHIM_START_MS)
        return;
    /* It may still come up later: then it finds no entry that would launch it, and its lease ends
     * it. */
    said = shim_words(h);
    (void)lh_err_set(&err, -ETIMEDOUT, "the shim did not come up in '%.200s': %.300s", h->dir,
                     said ? said : "it said nothing");
    free(said);
    reports_attempt(h->node->reports, h, "prepare_failed", "",
                    json_pack("{s:s, s:{s:s, s:s}}", "class", "infra", "problem", "code",
                              "shim_start", "detail", err.text));
    bury(h);
    h->state = HELD_LIVE; /* cleaned.json moves it on */
}

static void tick_live(struct held *h)
{
    if (there(h, "cleaned.json")) {
        h->state = HELD_OVER;
        h->over_ms = lh_mono_ms();
        return;
    }
    if (!shims_alive(h->dir)) {
        bury(h);
        return;
    }
    tell_prepared(h);
    tell_launched(h);
    if (h->head && h->told_launched)
        tell_relays(h);
    if (h->head && h->told_launched && !h->told_running && !h->asking) {
        h->asking = true;
        shims_ask(h->node->loop, h->dir, json_pack("{s:s}", "op", "status"), ASK_MS, on_status, h);
    }
    ship_tick(h->ship);
    uploads_tick(h->uploads);
}

/* ---- the end ---------------------------------------------------------------------------- */

static void tell_exited(struct held *h)
{
    json_t *o = load(h, "exit.json");

    h->told_exited = true;
    if (!o)
        return;
    (void)json_object_del(o, "role");
    lh_info("attempt.exited", "job=%s attempt=%" PRIu64 " outcome=%s class=%s exit=%" PRId64,
            h->job, h->number, lh_json_str(o, "outcome", ""), lh_json_str(o, "class", ""),
            lh_json_i64(o, "exit", -1));
    reports_attempt(h->node->reports, h, "exited", "", o);
}

/* An attempt that was over between two looks (or while no daemon ran) has been through its states
 * all the same. */
static void tell_missed(struct held *h)
{
    LH_CLEANUP(lh_json_decrefp) json_t *exit = NULL;

    if (h->told_exited)
        return;
    if (there(h, "shim.json"))
        tell_prepared(h);
    tell_launched(h);
    if (!h->head || h->told_running)
        return;
    h->told_running = true;
    exit = load(h, "exit.json");
    if (strcmp(lh_json_str(exit, "outcome", ""), "ok") == 0)
        reports_attempt(h->node->reports, h, "running", "", NULL);
}

static void tell_cleaned(struct held *h)
{
    json_t *o = load(h, "cleaned.json");

    h->told_cleaned = true;
    reports_attempt(h->node->reports, h, "cleaned", "",
                    json_pack("{s:O?}", "ranks", json_object_get(o, "ranks")));
    json_decref(o);
}

static void tell_refused(struct held *h)
{
    if (h->told_prepared)
        return;
    h->told_prepared = true;
    reports_attempt(h->node->reports, h, "prepare_failed", "", load(h, "refused.json"));
}

/* Removes the directory, but keeps checkpoints that exist nowhere else. True when it is done. */
static bool forget(struct held *h)
{
    char path[NODE_PATH_MAX];
    struct lh_err err;

    if (uploads_rescue(h->uploads, &err) < 0 || lh_remove_tree(h->dir, &err) < 0) {
        lh_warn("attempt.kept", "job=%s attempt=%" PRIu64 " error=\"%s\"", h->job, h->number,
                err.text);
        h->forget_wanted = false; /* the coordinator, or the next daemon, asks again */
        return false;
    }
    (void)rmdir(node_path(h->node, path, "attempts/%s", h->job)); /* the last attempt's: empty */
    lh_info("attempt.forgotten", "job=%s attempt=%" PRIu64, h->job, h->number);
    return true;
}

static bool tick_refused(struct held *h)
{
    tell_refused(h);
    if (!h->told_cleaned)
        tell_cleaned(h);
    return !h->forget_wanted || h->workers > 0 || !forget(h);
}

/* Slots are freed by `cleaned`, so it does not wait for uploads; but where the end was asked for,
 * the checkpoint that is being uploaded is what the next attempt resumes from, and `exited` has to
 * come first. */
static bool may_tell_cleaned(const struct held *h)
{
    LH_CLEANUP(lh_json_decrefp) json_t *exit = NULL;

    if (!h->head || h->told_exited)
        return true;
    exit = load(h, "exit.json");
    return !lh_json_str(exit, "stop", "")[0];
}

static bool tick_over(struct held *h)
{
    bool settled;

    if (!h->cgroup_gone) /* busy until the shim has ended, right after its last record */
        h->cgroup_gone =
            cgroup_remove(lh_json_str(json_object_get(h->command, "local"), "cgroup", ""));

    if (there(h, "refused.json"))
        return tick_refused(h);
    tell_missed(h);
    ship_tick(h->ship);
    uploads_tick(h->uploads);
    settled = ship_is_done(h->ship) && uploads_are_settled(h->uploads);
    if (h->head && !h->told_exited && settled)
        tell_exited(h);
    if (!h->told_cleaned && may_tell_cleaned(h))
        tell_cleaned(h);
    return !h->forget_wanted || !settled || h->workers > 0 || h->asking || !forget(h);
}

bool watch_tick(struct held *h)
{
    switch (h->state) {
    case HELD_STAGING:
        return true;
    case HELD_STARTING:
        tick_starting(h);
        return true;
    case HELD_LIVE:
        tick_live(h);
        return true;
    case HELD_OVER:
        break;
    }
    return tick_over(h);
}
