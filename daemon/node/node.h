/* node.h - what the parts of longhaul-node share: its configuration and the objects that main.c
 * wires together.
 *
 * One libuv loop thread owns all of it. Worker threads (staging, uploads) get copies of what they
 * need and hand their result back to the loop.
 */
#pragma once
#include "daemon/node/curl_uv.h"
#include "daemon/node/inventory.h"
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#define NODE_PATH_MAX 1024
#define NODE_SLOTS_MAX 256 /* what the coordinator takes */

struct held;
struct link;
struct reports;
struct work;

struct node_config {
    const char *coordinator; /* http[s]://HOST:PORT, without a final slash */
    const char *name, *state /* absolute */, *device, *address, *store;
    const char *token_file, *ca_file, *s3_config;
    const char *worker, *mpirun, *shim; /* programs */
    unsigned slots;                     /* 0: one a core */
    bool insecure;
    unsigned heartbeat_ms;                     /* 0: the coordinator's */
    uint64_t grace_ms, hang_ms, log_max_bytes; /* handed to shims */
    uint64_t upload_retry_ms;                  /* how long an upload that may work later is tried */
    uint64_t cache_max_bytes;                  /* 0: half of the file system */
    uint64_t kept_ms;                          /* checkpoints that were not uploaded; 0: for ever */
    uint64_t evict_every_ms;                   /* 0: a minute */
};

struct node {
    uv_loop_t *loop;
    struct node_config config;
    struct inventory inventory;
    char agent_id[33];
    struct client *client;
    struct link *link;
    struct reports *reports;
    struct held *held;          /* list of what this node holds */
    json_t *preflights;         /* object: jobs whose preflight is under way */
    struct work *works;         /* stagings and preflights on their threads; prepare.c */
    pthread_mutex_t cache_lock; /* finding what is in the cache, against its eviction */
    bool evicting;
    uint64_t evict_ms; /* when the last look ended, monotonic */
    uv_timer_t tick;
    unsigned uploads_running;
    volatile bool stopping; /* read by threads */
};

/* STATE/PARTS..., into buf of NODE_PATH_MAX; too long a path is cut and will not be found. */
const char *node_path(const struct node *n, char *buf, const char *fmt, ...) LH_PRINTF(3, 4);
