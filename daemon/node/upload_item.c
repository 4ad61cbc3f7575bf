/* upload_item.c - see upload_item.h. */
#include "daemon/node/upload_item.h"
#include "daemon/node/link.h"
#include "daemon/node/reports.h"
#include "daemon/node/upload.h"
#include "proto/base/clock.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/log.h"
#include "proto/manifest.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BACKOFF_MIN_MS 1000
#define BACKOFF_MAX_MS 60000

static const char *const state_names[] = {"", "", "uploading", "done", "failed"};

/* ---- reports ---------------------------------------------------------------------------- */

static void name_it(const struct upload_item *i, json_t *o)
{
    if (i->step >= 0)
        (void)json_object_set_new(o, "step", json_integer((json_int_t)i->step));
    else
        (void)json_object_set_new(o, "output", json_string(i->name));
}

static void tell_written(const struct upload_item *i)
{
    const struct held *h = i->held;
    json_t *o = json_pack("{s:I, s:s, s:s}", "bytes", (json_int_t)i->bytes, "manifest_sha256",
                          i->manifest_sha256, "path", i->path);

    name_it(i, o);
    reports_attempt(h->node->reports, h, "checkpoint", i->name, o);
}

static void tell_state(const struct upload_item *i)
{
    const struct held *h = i->held;
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

/* ---- begin ------------------------------------------------------------------------------ */

static int link_files(const struct upload_item *i, struct lh_err *reterr)
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

static void set_state(struct upload_item *i, enum upload_state state)
{
    i->state = state;
    if (!i->record)
        i->record = json_object();
    (void)json_object_set_new(i->record, "state", json_string(state_names[state]));
    (void)json_object_set_new(i->record, "error", json_string(i->error));
    (void)!lh_json_save(i->state_path, i->record, NULL); /* lost: found again in the journal */
}

/* What an earlier daemon did with it. */
static void recall(struct upload_item *i)
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

struct upload_item *upload_item_new(struct held *h, const struct upload_found *found)
{
    const char *prefix = upload_prefix(h);
    size_t n = strlen(prefix);
    struct upload_item *i = calloc(1, sizeof(*i));
    struct lh_err err;

    if (!i)
        return NULL;
    while (n > 0 && prefix[n - 1] == '/')
        n--;
    i->req.data = i;
    i->held = h;
    i->step = found->step;
    i->bytes = found->bytes;
    i->first_ms = lh_mono_ms();
    (void)snprintf(i->name, sizeof(i->name), "%s", found->name);
    (void)snprintf(i->path, sizeof(i->path), "%s", found->path);
    (void)snprintf(i->manifest_sha256, sizeof(i->manifest_sha256), "%s", found->manifest_sha256);
    (void)snprintf(i->dir, sizeof(i->dir), "%.900s/uploads/%s", h->dir, i->name);
    (void)snprintf(i->state_path, sizeof(i->state_path), "%.900s/uploads/%s.json", h->dir, i->name);
    (void)snprintf(i->uri, sizeof(i->uri), "%.*s/%s/attempt-%" PRIu64 "/%s", (int)n, prefix, h->job,
                   h->number, i->name);
    i->state = n > 0 ? UPLOAD_WAITING : UPLOAD_LOCAL;
    recall(i);
    tell_written(i);
    if (i->state == UPLOAD_WAITING && link_files(i, &err) < 0) {
        (void)snprintf(i->error, sizeof(i->error), "%.399s", err.text);
        set_state(i, UPLOAD_FAILED);
    }
    tell_state(i);
    return i;
}

void upload_item_free(struct upload_item *i)
{
    json_decref(i->record);
    free(i);
}

void upload_item_tell(const struct upload_item *i)
{
    tell_written(i);
    tell_state(i);
}

/* ---- uploading -------------------------------------------------------------------------- */

static void item_on_thread(uv_work_t *req)
{
    struct upload_item *i = req->data;
    struct upload up = {.dir = i->dir,
                        .uri = i->uri,
                        .s3_config = i->held->node->config.s3_config,
                        .state_path = i->state_path,
                        .state = i->record,
                        .cancel = &i->held->node->stopping};

    i->rc = upload_run(&up, &i->err);
}

static void settle(struct upload_item *i, uint64_t now)
{
    const struct held *h = i->held;
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
    struct upload_item *i = req->data;
    struct node *n = i->held->node;

    i->held->workers--;
    n->uploads_running--;
    if (status == 0 && !n->stopping)
        settle(i, lh_mono_ms());
}

void upload_item_start(struct upload_item *i)
{
    struct node *n = i->held->node;
    bool first = i->tries++ == 0;

    set_state(i, UPLOAD_RUNNING);
    if (first)
        tell_state(i);
    i->held->workers++;
    n->uploads_running++;
    (void)uv_queue_work(n->loop, &i->req, item_on_thread, item_on_done);
}
