/* upload.h - one try to bring a directory with a manifest into a store. Blocking: worker threads.
 *
 * Every file first, each verified; the manifest last, created only if nobody has (CKPT-15). What
 * was done is kept in `state` and saved as it grows, so the next try, or the next daemon, goes on
 * from there.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <jansson.h>
#include <stdbool.h>

struct upload {
    const char *dir, *uri; /* from, to */
    const char *s3_config;
    const char *state_path; /* file that holds state */
    json_t *state; /* object: {"files": {name: sha256}, "parts": {...}}, owned by the caller */
    const volatile bool *cancel;
};

/* 0: it is there. LH_ETRYAGAIN: another try may do it. -EEXIST: the place belongs to another
 * attempt. Else it failed for good. */
LH_MUST_CHECK int upload_run(struct upload *u, struct lh_err *reterr);
