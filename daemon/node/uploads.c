/* uploads.c - see uploads.h.
 *
 *   FOUND ──► WAITING ──thread──► RUNNING ──► DONE
 *     │ no store  ▲                  │ may work later, time left
 *     ▼           └─── backoff ──────┤
 *   LOCAL                            └──► FAILED
 * DIR/uploads/NAME.json holds {state, error, files, parts}; DIR/uploads/NAME/ the hard links.
 */
#include "daemon/node/uploads.h"
#include "daemon/node/link.h"
#include "daemon/node/reports.h"
#include "daemon/node/upload.h"
#include "proto/base/clock.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/log.h"
#include "proto/event.h"
#include "proto/manifest.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PARALLEL_MAX 4 /* uploads of all attempts of the node at a time: the line is shared */
#define BACKOFF_MIN_MS 1000
#define BACKOFF_MAX_MS 60000
#define EVENTS_AT_ONCE 2000 /* in one tick: the loop goes on */
#define URI_MAX 1400

enum upload_state { UPLOAD_LOCAL, UPLOAD_WAITING, UPLOAD_RUNNING, UPLOAD_DONE, UPLOAD_FAILED };

struct item {
    uv_work_t req; /* must not move */
    struct item *next;
    struct uploads *owner;
    char name[64]; /* "step-00000050", "shards" */
    int64_t step;  /* -1: an output */
    enum upload_state state;
    char dir[NODE_PATH_MAX], path[NODE_PATH_MAX], state_path[NODE_PATH_MAX],
        uri[URI_MAX]; /* links, the worker's own, record, to */
    char manifest_sha256[LH_SHA256_HEX], error[400];
    uint64_t bytes, first_ms, again_ms;
    unsigned tries;
    json_t *record; /* the thread's while RUNNING */
    int rc;
    struct lh_err err;
};
struct uploads {
    struct held *held;
    struct item *items;
    int journal;
    uint64_t offset;
    bool all_read, outputs_seen;
};

static const char *const state_names[] = {"", "", "uploading", "done", "failed"};

struct uploads *uploads_new(struct held *h)
{
    struct uploads *u = calloc(1, sizeof(*u));

    if (!u)
        return NULL;
    u->held = h;
    u->journal = -1;
    return u;
}

void uploads_free(struct uploads *u)
{
    if (!u)
        return;
    while (u->items) {
        struct item *i = u->items;

        u->items = i->next;
        json_decref(i->record);
        free(i);
    }
    if (u->journal >= 0)
        (void)close(u->journal);
    free(u);
}

/* ---- reports ---------------------------------------------------------------------------- */

static void name_it(const struct item *i, json_t *o)
{
    if (i->step >= 0)
        (void)json_object_set_new(o, "step", json_integer((json_int_t)i->step));
    else
        (void)json_object_set_new(o, "output", json_string(i->name));
}

static void tell_written(const struct item *i)
{
    const struct held *h = i->owner->held;
    json_t *o = json_pack("{s:I, s:s, s:s}", "bytes", (json_int_t)i->bytes, "manifest_sha256",
                          i->manifest_sha256, "path", i->path);

    name_it(i, o);
    reports_attempt(h->node->reports, h, "checkpoint", i->name, o);
}

static void tell_state(const struct item *i)
{
    const struct held *h = i->owner->held;
    char which[96];
    json_t *o;

    if (i->state < UPLOAD_RUNNING)
        return;
    o = json_pack("{s:s, s:s, s:I, s:s, s:s}", "state", state_names[i->state], "uri", i->uri,
                  "bytes", (json_int_t)i->bytes, "manifest_sha256", i->manifest_sha256, "error",
                  i->error);
    name_it(i, o);
    (void)snprintf(which, sizeof(which), "%s/%s", i->name, state_names[i->state]);
    reports_attempt(h->node->reports, h, "upload", which, o);
}

void uploads_tell_all(struct uploads *u)
{
    for (const struct item *i = u->items; i; i = i->next) {
        tell_written(i);
        tell_state(i);
    }
}

/* ---- finding ---------------------------------------------------------------------------- */

static int link_files(const struct item *i, struct lh_err *reterr)
{
    struct lh_manifest m = {0};
    char from[2 * NODE_PATH_MAX], to[2 * NODE_PATH_MAX], *slash;
    int rc = lh_manifest_read(i->path, &m, reterr);

    for (unsigned k = 0; rc == 0 && k <= m.n_files; k++) {
        const char *name =
            k < m.n_files ? m.files[k].name : LH_MANIFEST_NAME; /* the manifest last, here too */

        (void)snprintf(from, sizeof(from), "%s/%s", i->path, name);
        (void)snprintf(to, sizeof(to), "%s/%s", i->dir, name);
        slash = strrchr(to, '/');
        *slash = '\0';
        rc = lh_mkdir_p(to, reterr);
        *slash = '/';
        if (rc == 0 && link(from, to) < 0 && errno != EEXIST)
            rc = lh_err_set(reterr, -errno, "keep '%s'", from);
    }
    lh_manifest_release(&m);
    return rc;
}

static void set_state(struct item *i, enum upload_state state)
{
    i->state = state;
    if (!i->record)
        i->record = json_object();
    (void)json_object_set_new(i->record, "state", json_string(state_names[state]));
    (void)json_object_set_new(i->record, "error", json_string(i->error));
    (void)!lh_json_save(i->state_path, i->record, NULL); /* lost: found again in the journal */
}

/* What an earlier daemon did with it. */
static void recall(struct item *i)
{
    const char *state;

    if (lh_json_load(i->state_path, 8u << 20, &i->record, NULL) < 0)
        return;
    state = lh_json_str(i->record, "state", "");
    if (strcmp(state, "done") == 0)
        i->state = UPLOAD_DONE;
    if (strcmp(state, "failed") == 0)
        i->state = UPLOAD_FAILED;
    (void)snprintf(i->error, sizeof(i->error), "%s", lh_json_str(i->record, "error", ""));
}

static const char *upload_prefix(const struct held *h)
{
    const char *prefix = lh_json_str(h->command, "upload", "");

    if (!prefix[0])
        prefix = h->node->config.store ? h->node->config.store : link_store(h->node->link);
    return prefix;
}

static void add_item(struct uploads *u, const char *name, int64_t step, const char *path,
                     uint64_t bytes, const char *sha256)
{
    const struct held *h = u->held;
    const char *prefix = upload_prefix(h);
    size_t n = strlen(prefix);
    struct item *i;
    struct lh_err err;

    for (i = u->items; i; i = i->next)
        if (strcmp(i->name, name) == 0)
            return;
    i = calloc(1, sizeof(*i));
    if (!i)
        return;
    while (n > 0 && prefix[n - 1] == '/')
        n--;
    i->req.data = i;
    i->owner = u;
    i->step = step;
    i->bytes = bytes;
    i->first_ms = lh_mono_ms();
    (void)snprintf(i->name, sizeof(i->name), "%s", name);
    (void)snprintf(i->path, sizeof(i->path), "%s", path);
    (void)snprintf(i->manifest_sha256, sizeof(i->manifest_sha256), "%s", sha256);
    (void)snprintf(i->dir, sizeof(i->dir), "%.900s/uploads/%s", h->dir, name);
    (void)snprintf(i->state_path, sizeof(i->state_path), "%.900s/uploads/%s.json", h->dir, name);
    (void)snprintf(i->uri, sizeof(i->uri), "%.*s/%s/attempt-%" PRIu64 "/%s", (int)n, prefix, h->job,
                   h->number, name);
    i->next = u->items;
    u->items = i;
    i->state = n > 0 ? UPLOAD_WAITING : UPLOAD_LOCAL;
    recall(i);
    tell_written(i);
    if (i->state == UPLOAD_WAITING && link_files(i, &err) < 0) {
        (void)snprintf(i->error, sizeof(i->error), "%.399s", err.text);
        set_state(i, UPLOAD_FAILED);
    }
    tell_state(i);
}

static void read_journal(struct uploads *u)
{
    char path[NODE_PATH_MAX], name[64];
    json_t *line;
    int n;

    if (u->journal < 0)
        u->journal =
            open(held_path(u->held, path, "out/events/rank-0.jsonl"), O_RDONLY | O_CLOEXEC);
    if (u->journal < 0) {
        u->all_read = true; /* as far as there is one */
        return;
    }
    for (n = 0; n < EVENTS_AT_ONCE && lh_journal_next(u->journal, &u->offset, &line) > 0; n++) {
        int64_t step = lh_json_i64(line, "step", -1);

        if (strcmp(lh_json_str(line, "type", ""), "checkpoint") == 0 && step >= 0) {
            (void)snprintf(name, sizeof(name), "step-%08" PRId64, step);
            add_item(u, name, step, lh_json_str(line, "path", ""),
                     (uint64_t)lh_json_i64(line, "bytes", 0),
                     lh_json_str(line, "manifest_sha256", ""));
        }
        json_decref(line);
    }
    u->all_read = n < EVENTS_AT_ONCE;
}

static void find_outputs(struct uploads *u)
{
    static const char *const names[] = {"shards", "export"};

    for (size_t k = 0; k < LH_ARRAY_LEN(names); k++) {
        char path[NODE_PATH_MAX], below[64];
        struct lh_manifest m = {0};

        (void)snprintf(below, sizeof(below), "out/%s", names[k]);
        if (lh_manifest_read(held_path(u->held, path, below), &m, NULL) == 0)
            add_item(u, names[k], -1, path, m.bytes, m.sha256);
        lh_manifest_release(&m);
    }
    u->outputs_seen = true;
}

/* ---- uploading -------------------------------------------------------------------------- */

static void item_on_thread(uv_work_t *req)
{
    struct item *i = req->data;
    struct upload up = {.dir = i->dir,
                        .uri = i->uri,
                        .s3_config = i->owner->held->node->config.s3_config,
                        .state_path = i->state_path,
                        .state = i->record,
                        .cancel = &i->owner->held->node->stopping};

    i->rc = upload_run(&up, &i->err);
}

static void settle(struct item *i, uint64_t now)
{
    const struct held *h = i->owner->held;
    uint64_t patience_ms = h->node->config.upload_retry_ms;

    if (i->rc == 0) {
        i->error[0] = '\0';
        set_state(i, UPLOAD_DONE);
        (void)!lh_remove_tree(i->dir, NULL);
        lh_info("upload.done",
                "job=%s attempt=%" PRIu64 " name=%s bytes=%" PRIu64 " uri=%s tries=%u", h->job,
                h->number, i->name, i->bytes, i->uri, i->tries);
    } else if (i->rc == LH_ETRYAGAIN && now - i->first_ms < patience_ms) {
        unsigned shift = LH_MIN(i->tries - 1, 6u);

        (void)snprintf(i->error, sizeof(i->error), "%.399s", i->err.text);
        i->state = UPLOAD_WAITING;
        i->again_ms = now +
                      LH_MIN((uint64_t)BACKOFF_MIN_MS << shift, (uint64_t)BACKOFF_MAX_MS) / 2 +
                      now % BACKOFF_MIN_MS;
        lh_warn("upload.again", "job=%s attempt=%" PRIu64 " name=%s tries=%u error=\"%s\"", h->job,
                h->number, i->name, i->tries, i->err.text);
        return;
    } else {
        (void)snprintf(i->error, sizeof(i->error), "%.399s", i->err.text);
        set_state(i, UPLOAD_FAILED);
        lh_error("upload.failed", "job=%s attempt=%" PRIu64 " name=%s tries=%u error=\"%s\"",
                 h->job, h->number, i->name, i->tries, i->err.text);
    }
    tell_state(i);
}

static void item_on_done(uv_work_t *req, int status)
{
    struct item *i = req->data;
    struct node *n = i->owner->held->node;

    i->owner->held->workers--;
    n->uploads_running--;
    if (status == 0 && !n->stopping)
        settle(i, lh_mono_ms());
}

static void start(struct item *i)
{
    struct node *n = i->owner->held->node;
    bool first = i->tries++ == 0;

    set_state(i, UPLOAD_RUNNING);
    if (first)
        tell_state(i);
    i->owner->held->workers++;
    n->uploads_running++;
    (void)uv_queue_work(n->loop, &i->req, item_on_thread, item_on_done);
}

/* One of an attempt at a time, the newest first: it is what a next attempt would resume from. */
static void start_next(struct uploads *u)
{
    struct item *best = NULL;
    uint64_t now = lh_mono_ms();

    for (struct item *i = u->items; i; i = i->next) {
        if (i->state == UPLOAD_RUNNING)
            return;
        if (i->state == UPLOAD_WAITING && now >= i->again_ms && (!best || i->step > best->step))
            best = i;
    }
    if (best && u->held->node->uploads_running < PARALLEL_MAX)
        start(best);
}

void uploads_tick(struct uploads *u)
{
    if (!u->held->head || u->held->node->stopping)
        return;
    read_journal(u);
    if (u->held->state == HELD_OVER && u->all_read && !u->outputs_seen)
        find_outputs(u);
    start_next(u);
}

bool uploads_are_settled(const struct uploads *u)
{
    if (!u->held->head)
        return true;
    if (u->held->state != HELD_OVER || !u->outputs_seen)
        return false;
    for (const struct item *i = u->items; i; i = i->next)
        if (i->state == UPLOAD_WAITING || i->state == UPLOAD_RUNNING)
            return false;
    return true;
}

int uploads_rescue(struct uploads *u, struct lh_err *reterr)
{
    const struct held *h = u->held;
    char to[NODE_PATH_MAX];
    int rc = 0;

    for (const struct item *i = u->items; rc == 0 && i; i = i->next) {
        const char *from = lh_is_dir(i->dir) ? i->dir : i->path;

        if (i->state == UPLOAD_DONE || !lh_is_dir(from))
            continue;
        rc = lh_mkdir_p(node_path(h->node, to, "kept/%s/attempt-%" PRIu64, h->job, h->number),
                        reterr);
        (void)node_path(h->node, to, "kept/%s/attempt-%" PRIu64 "/%s", h->job, h->number, i->name);
        if (rc == 0 && rename(from, to) < 0 && errno != ENOTEMPTY && errno != EEXIST)
            rc = lh_err_set(reterr, -errno, "keep '%s' as '%s'", from, to);
        if (rc == 0)
            lh_warn("checkpoint.kept", "job=%s attempt=%" PRIu64 " path=%s error=\"%s\"", h->job,
                    h->number, to, i->error);
    }
    return rc;
}
