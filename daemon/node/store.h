/* store.h - a place for checkpoints and inputs: file:// or s3://, behind one small table. Blocking:
 * worker threads.
 *
 * What was put is verified (size and SHA-256) before a call returns 0. Codes: LH_ETRYAGAIN may work
 * later; -EEXIST another has written the name; -ENOENT it is not there; -ECANCELED; everything else
 * will not go away.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STORE_SMALL_MAX (4u << 20) /* manifests (CKPT-3) */

struct store;

/* How far a large object has come, kept by the caller over tries and restarts. */
struct store_progress {
    json_t *parts;           /* object, owned by the caller; empty at first */
    void (*save)(void *arg); /* called when parts has changed; may be NULL */
    void *arg;
};

/* What a store knows of an object without sending it. */
struct store_stat {
    uint64_t bytes;
    char etag[80];     /* changes when the object does */
    char checksum[80]; /* SHA-256 in base64; "": not known */
};

/* An object of the directory, by its name in it; returning negative ends the list with that code.
 */
typedef int store_object_fn(void *arg, const char *name, uint64_t bytes, const char *etag,
                            struct lh_err *reterr);

struct store_ops {
    int (*put)(struct store *s, const char *name, const char *path, uint64_t bytes,
               const char *sha256, struct store_progress *progress, struct lh_err *reterr);
    int (*create)(struct store *s, const char *name, const void *data, size_t len,
                  struct lh_err *reterr);
    int (*get)(struct store *s, const char *name, const char *path, uint64_t max_bytes,
               struct lh_err *reterr);
    int (*read)(struct store *s, const char *name, char **ret_data, size_t *ret_len,
                struct lh_err *reterr);
    int (*stat)(struct store *s, const char *name, struct store_stat *ret_stat,
                struct lh_err *reterr);
    int (*list)(struct store *s, store_object_fn *fn, void *arg, struct lh_err *reterr);
    void (*close)(struct store *s);
};
struct store {
    const struct store_ops *ops;
};

/* The directory `uri` ("file:///a/b" or "s3://bucket/prefix"). s3_config: a file of NAME=value
 * lines, or NULL: the environment. cancel ends transfers within a second when it becomes true; may
 * be NULL. */
LH_MUST_CHECK int store_open(const char *uri, const char *s3_config, const volatile bool *cancel,
                             struct store **ret_store, struct lh_err *reterr);
void store_close(struct store *s); /* accepts NULL */
LH_DEFINE_FREEP(struct store *, store_close)

/* The file at path (of that size and digest) becomes `name` (relative, may hold '/'), replacing
 * what was there. */
static inline LH_MUST_CHECK int store_put(struct store *s, const char *name, const char *path,
                                          uint64_t bytes, const char *sha256,
                                          struct store_progress *progress, struct lh_err *reterr)
{
    return s->ops->put(s, name, path, bytes, sha256, progress, reterr);
}

/* Creates name with those bytes, unless it is there: then 0 when it holds the same bytes, else
 * -EEXIST. */
static inline LH_MUST_CHECK int store_create(struct store *s, const char *name, const void *data,
                                             size_t len, struct lh_err *reterr)
{
    return s->ops->create(s, name, data, len, reterr);
}

/* Copies name to a new file at path; -EFBIG beyond max_bytes. Not verified: the caller knows the
 * digest. */
static inline LH_MUST_CHECK int store_get(struct store *s, const char *name, const char *path,
                                          uint64_t max_bytes, struct lh_err *reterr)
{
    return s->ops->get(s, name, path, max_bytes, reterr);
}

/* Reads a small object (STORE_SMALL_MAX); malloc'ed and 0-terminated. */
static inline LH_MUST_CHECK int store_read(struct store *s, const char *name, char **ret_data,
                                           size_t *ret_len, struct lh_err *reterr)
{
    return s->ops->read(s, name, ret_data, ret_len, reterr);
}

static inline LH_MUST_CHECK int store_stat(struct store *s, const char *name,
                                           struct store_stat *ret_stat, struct lh_err *reterr)
{
    return s->ops->stat(s, name, ret_stat, reterr);
}

/* Everything below the directory, in the order of names. LH_ENOTSUP for file://, whose files are
 * used in place. */
static inline LH_MUST_CHECK int store_list(struct store *s, store_object_fn *fn, void *arg,
                                           struct lh_err *reterr)
{
    return s->ops->list ? s->ops->list(s, fn, arg, reterr)
                        : lh_err_set(reterr, LH_ENOTSUP, "this store cannot be listed");
}

/* store_file.c and store_s3.c */
LH_MUST_CHECK int store_file_open(const char *dir, const volatile bool *cancel,
                                  struct store **ret_store, struct lh_err *reterr);
LH_MUST_CHECK int store_s3_open(const char *bucket, const char *prefix, const char *config,
                                const volatile bool *cancel, struct store **ret_store,
                                struct lh_err *reterr);
