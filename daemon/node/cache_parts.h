/* cache_parts.h - what cache.c and cache_list.c share. */
#pragma once
#include "daemon/node/cache.h"
#include "daemon/node/store.h"

#define PATH_CAP 1024
#define LONG_CAP (2 * PATH_CAP)

/* Whether the entry is there; then it is marked as used now, which keeps it from eviction. */
bool cache_find(const struct cache_request *q, const char *path);

/* A new directory beside the entries, of PATH_CAP bytes. */
LH_MUST_CHECK int cache_make_tmp(const struct cache_request *q, char *tmp, struct lh_err *reterr);

/* tmp becomes path, unless another thread was faster; then its directory is as good. */
LH_MUST_CHECK int cache_move_in(const char *tmp, const char *path, struct lh_err *reterr);

/* One object into a new file, verified by its size and, when the server knows it, its checksum. */
LH_MUST_CHECK int cache_get(struct store *store, const char *name, const struct store_stat *st,
                            const char *path, const char *uri, struct lh_err *reterr);

/* cache_list.c: a directory without a manifest, or the objects that match a pattern. */
LH_MUST_CHECK int cache_fetch_list(const struct cache_request *q, char *ret_path,
                                   struct lh_err *reterr);
