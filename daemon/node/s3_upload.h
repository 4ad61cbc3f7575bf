/* s3_upload.h - bytes and files become objects of a bucket, and what arrived is verified. Blocking:
 * worker threads.
 */
#pragma once
#include "daemon/node/s3.h"
#include "daemon/node/store.h"

/* Where to: an object of the session's bucket, whose name is for errors. */
struct s3_object {
    struct s3 *s3;
    const char *bucket, *key;
};

/* In one PUT, unless if_none_match and there is one: -EEXIST. */
LH_MUST_CHECK int s3_upload_bytes(const struct s3_object *o, const void *data, size_t len,
                                  bool if_none_match, struct lh_err *reterr);

/* The file at path of that size and digest, as store_put has it. */
LH_MUST_CHECK int s3_upload_file(const struct s3_object *o, const char *path, uint64_t bytes,
                                 const char *sha256, struct store_progress *progress,
                                 struct lh_err *reterr);
