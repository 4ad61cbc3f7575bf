/* uploads.c - see uploads.h. The list of what an attempt leaves: how it is found, and whose turn to
 * be uploaded it is. What becomes of each is upload_item.c's.
 */
#include "daemon/node/uploads.h"
#include "daemon/node/upload_item.h"
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

#define PARALLEL_MAX 4      /* uploads of all attempts of the node at a time: the line is shared */
#define EVENTS_AT_ONCE 2000 /* in one tick: the loop goes on */

struct uploads {
    struct held *held;
    struct upload_item *items;
    int journal;
    uint64_t offset;
    bool all_read, outputs_seen;
};

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
        struct upload_item *i = u->items;

        u->items = i->next;
        upload_item_free(i);
    }
    if (u->journal >= 0)
        (void)close(u->journal);
    free(u);
}

void uploads_tell_all(struct uploads *u)
{
    for (const struct upload_item *i = u->items; i; i = i->next)
        upload_item_tell(i);
}

/* ---- finding ---------------------------------------------------------------------------- */

static void add(struct uploads *u, const struct upload_found *found)
{
    struct upload_item *i;

    for (i = u->items; i; i = i->next)
        if (strcmp(i->name, found->name) == 0)
            return;
    i = upload_item_new(u->held, found);
    if (!i)
        return;
    i->next = u->items;
    u->items = i;
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
            struct upload_found found = {.name = name,
                                         .step = step,
                                         .path = lh_json_str(line, "path", ""),
                                         .bytes = (uint64_t)lh_json_i64(line, "bytes", 0),
                                         .manifest_sha256 =
                                             lh_json_str(line, "manifest_sha256", "")};

            (void)snprintf(name, sizeof(name), "step-%08" PRId64, step);
            add(u, &found);
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
            add(u, &(struct upload_found){names[k], -1, path, m.bytes, m.sha256});
        lh_manifest_release(&m);
    }
    u->outputs_seen = true;
}

/* ---- uploading -------------------------------------------------------------------------- */

/* One of an attempt at a time, the newest first: it is what a next attempt would resume from. */
static void start_next(struct uploads *u)
{
    struct upload_item *best = NULL;
    uint64_t now = lh_mono_ms();

    for (struct upload_item *i = u->items; i; i = i->next) {
        if (i->state == UPLOAD_RUNNING)
            return;
        if (i->state == UPLOAD_WAITING && now >= i->again_ms && (!best || i->step > best->step))
            best = i;
    }
    if (best && u->held->node->uploads_running < PARALLEL_MAX)
        upload_item_start(best);
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
    for (const struct upload_item *i = u->items; i; i = i->next)
        if (i->state == UPLOAD_WAITING || i->state == UPLOAD_RUNNING)
            return false;
    return true;
}

int uploads_rescue(struct uploads *u, struct lh_err *reterr)
{
    const struct held *h = u->held;
    char to[NODE_PATH_MAX];
    int rc = 0;

    for (const struct upload_item *i = u->items; rc == 0 && i; i = i->next) {
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
