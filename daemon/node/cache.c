/* cache.c - see cache.h. */
#include "daemon/node/cache.h"
#include "proto/base/fs.h"
#include "proto/base/str.h"
#include "proto/manifest.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PATH_CAP 1024

/* A directory of another job on a shared path: its manifest must be the one that the database has. All bytes are compared
 * once for each manifest and path; a mark in the cache remembers it. */
static int use_in_place(const struct cache_request *q, const char *path, char *ret_path, struct lh_err *reterr)
{
    struct lh_manifest m = {0};
    char mark[PATH_CAP], key[LH_SHA256_HEX];
    int rc = lh_manifest_read(path, &m, reterr);

    if (rc == 0 && q->manifest_sha256[0] && strcmp(m.sha256, q->manifest_sha256) != 0)
        rc = lh_err_set(reterr, LH_EINPUT, "'%s' is not what it was when it was recorded: its manifest is %.12s..., not %.12s...",
                        path, m.sha256, q->manifest_sha256);
    if (rc == 0) {
        lh_sha256_hex(path, strlen(path), key);
        (void)snprintf(mark, sizeof(mark), "%s/verified/%.64s-%.16s", q->dir, m.sha256, key);
        if (!lh_path_exists(mark)) {
            rc = lh_manifest_verify(path, reterr);
            if (rc == 0 && lh_write_file(mark, "", 0, NULL) < 0)
                rc = 0; /* verified again next time */
        }
    }
    lh_manifest_release(&m);
    if (rc == 0)
        (void)snprintf(ret_path, PATH_CAP, "%s", path);
    return rc;
}

int cache_fetch(const struct cache_request *q, char *ret_path, struct lh_err *reterr)
{
    char path[PATH_CAP];
    struct lh_uri uri;
    int rc = lh_uri_parse(q->uri, &uri, reterr);

    if (rc < 0)
        return rc;
    (void)snprintf(path, sizeof(path), "%s/verified", q->dir);
    rc = lh_mkdir_p(path, reterr);
    if (rc < 0)
        return rc;
    if (uri.scheme == LH_URI_FILE)
        return use_in_place(q, uri.path, ret_path, reterr);
    return lh_err_set(reterr, LH_ENOTSUP, "inputs from '%s' cannot be fetched", q->uri);
}
