/* evict.h - keeps the cache below its limit, and what was kept of old attempts from staying for
 * ever.
 *
 * The entries of STATE/cache (objects, files, shards) are directories whose time says when they
 * were used last: cache.c and `longhaul-worker --prepare` set it. The longest unused goes first;
 * one that was used since the oldest attempt or preflight that is alive began is never touched.
 */
#pragma once
#include "daemon/node/node.h"
#include <pthread.h>

struct evict_request {
    char cache[NODE_PATH_MAX], kept[NODE_PATH_MAX];
    uint64_t max_bytes;     /* of the cache; 0: any size */
    uint64_t used_since_ms; /* wall clock: entries used at this time or later stay */
    uint64_t kept_ms;       /* wall clock: attempts kept before this time go; 0: none */
    pthread_mutex_t *lock;  /* cache_request.lock of whoever fetches; may be NULL */
};

/* One look, blocking. What could not be removed is left for the next one. */
void evict_run(const struct evict_request *q);

/* On the loop: looks once a minute, on a worker thread. */
void evict_tick(struct node *n);
