/* cache.h - inputs of other jobs and from stores, by content: DIR/objects/MANIFEST_SHA256/.
 * Blocking: worker threads.
 *
 * An entry is whole or absent: it is fetched beside, verified, then renamed into place. Two threads
 * (or daemons) may fetch the same: the second finds the first's, and drops its own.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <pthread.h>
#include <stdbool.h>

struct cache_request {
    const char *dir; /* the cache */
    const char *uri; /* file:// or s3:// directory with a manifest; also one s3:// object, an s3://
                        directory without a manifest, or an s3:// pattern (* ? [) */
    const char *manifest_sha256; /* what the manifest must be; "": not known (then s3:// without a
                                    final '/' is one object) */
    const char *s3_config;
    pthread_mutex_t *lock; /* of evict.h; or NULL */
    const volatile bool *cancel;
};

/* The local path, of a pattern that pattern below a local directory; ret_path of 1024 bytes.
 * file:// is used in place, verified once. */
LH_MUST_CHECK int cache_fetch(const struct cache_request *q, char *ret_path, struct lh_err *reterr);
