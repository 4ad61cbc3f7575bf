/* upload_item.h - one thing that an attempt leaves, from when it is found until it is stored: a
 * checkpoint or an output, reported, kept by hard links and brought to its place.
 *
 *   FOUND ──► WAITING ──thread──► RUNNING ──► DONE
 *     │ no store  ▲                  │ may work later, time left
 *     ▼           └─── backoff ──────┤
 *   LOCAL                            └──► FAILED
 * DIR/uploads/NAME.json holds {state, error, files, parts}; DIR/uploads/NAME/ the hard links.
 * uploads.c finds them and says whose turn it is.
 */
#pragma once
#include "daemon/node/held.h"
#include "proto/base/sha256.h"

#define UPLOAD_URI_MAX 1400

enum upload_state { UPLOAD_LOCAL, UPLOAD_WAITING, UPLOAD_RUNNING, UPLOAD_DONE, UPLOAD_FAILED };

struct upload_found {
    const char *name; /* "step-00000050", "shards" */
    int64_t step;     /* -1: an output */
    const char *path; /* the worker's own directory */
    uint64_t bytes;
    const char *manifest_sha256;
};

struct upload_item {
    uv_work_t req;            /* must not move */
    struct upload_item *next; /* the list of uploads.c */
    struct held *held;
    char name[64];
    int64_t step;
    enum upload_state state;
    char dir[NODE_PATH_MAX], path[NODE_PATH_MAX], state_path[NODE_PATH_MAX],
        uri[UPLOAD_URI_MAX]; /* links, the worker's own, record, to */
    char manifest_sha256[LH_SHA256_HEX], error[400];
    uint64_t bytes, first_ms, again_ms; /* again_ms: monotonic, before which WAITING waits */
    unsigned tries;
    json_t *record; /* the thread's while RUNNING */
    int rc;
    struct lh_err err;
};

/* Keeps its files and reports it, with what an earlier daemon did with it. NULL when memory is
 * exhausted: found again by the next daemon. */
struct upload_item *upload_item_new(struct held *h, const struct upload_found *found);
void upload_item_free(struct upload_item *i); /* not while RUNNING */

void upload_item_tell(const struct upload_item *i); /* reports all of it again */
void upload_item_start(struct upload_item *i);      /* one that is WAITING, on a thread */
