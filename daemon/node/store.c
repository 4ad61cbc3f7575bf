/* store.c - see store.h. */
#include "daemon/node/store.h"
#include "proto/base/str.h"

int store_open(const char *uri, const char *s3_config, const volatile bool *cancel,
               struct store **ret_store, struct lh_err *reterr)
{
    struct lh_uri parsed;
    int rc = lh_uri_parse(uri, &parsed, reterr);

    if (rc < 0)
        return rc;
    if (parsed.scheme == LH_URI_FILE)
        return store_file_open(parsed.path, cancel, ret_store, reterr);
    if (parsed.scheme == LH_URI_S3)
        return store_s3_open(parsed.authority, parsed.path, s3_config, cancel, ret_store, reterr);
    return lh_err_set(reterr, LH_EJOB,
                      "'%s' is no place to store files in; use file:///DIR or s3://BUCKET/PREFIX",
                      uri);
}

void store_close(struct store *s)
{
    if (s)
        s->ops->close(s);
}
