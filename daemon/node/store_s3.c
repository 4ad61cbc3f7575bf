/* store_s3.c - a bucket and prefix as a store; how its objects get there is in s3_upload.c.
 */
#include "daemon/node/s3_upload.h"
#include "proto/base/buf.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KEY_CAP 1024

struct store_s3 {
    struct store base;
    struct s3 *s3;
    char bucket[128], prefix[KEY_CAP];
};

static int make_key(const struct store_s3 *s, const char *name, char key[static KEY_CAP],
                    struct lh_err *reterr)
{
    if (snprintf(key, KEY_CAP, "%s%s%s", s->prefix, s->prefix[0] ? "/" : "", name) >= KEY_CAP)
        return lh_err_set(reterr, -ENAMETOOLONG, "s3://%s/%.200s.../%.200s", s->bucket, s->prefix,
                          name);
    return 0;
}

static int s3_put(struct store *base, const char *name, const char *path, uint64_t bytes,
                  const char *sha256, struct store_progress *progress, struct lh_err *reterr)
{
    struct store_s3 *s = (struct store_s3 *)base;
    char key[KEY_CAP];
    int rc = make_key(s, name, key, reterr);

    if (rc < 0)
        return rc;
    return s3_upload_file(&(struct s3_object){s->s3, s->bucket, key}, path, bytes, sha256, progress,
                          reterr);
}

static int s3_read(struct store *base, const char *name, char **ret_data, size_t *ret_len,
                   struct lh_err *reterr)
{
    struct store_s3 *s = (struct store_s3 *)base;
    char key[KEY_CAP];
    struct s3_request q = {.method = "GET", .key = key, .query = "", .out_fd = -1};
    struct s3_reply r;
    int rc = make_key(s, name, key, reterr);

    if (rc < 0)
        return rc;
    rc = s3_send(s->s3, &q, &r, reterr);
    if (rc == 0 && lh_buf_append(&r.body, "", 0) < 0)
        rc = lh_err_set(reterr, -ENOMEM, "read s3://%s/%s", s->bucket, key);
    if (rc == 0) {
        *ret_len = r.body.len;
        *ret_data = lh_buf_take(&r.body);
    }
    s3_reply_release(&r);
    return rc;
}

static int s3_create(struct store *base, const char *name, const void *data, size_t len,
                     struct lh_err *reterr)
{
    struct store_s3 *s = (struct store_s3 *)base;
    char key[KEY_CAP], *there = NULL;
    size_t there_len = 0;
    int rc = make_key(s, name, key, reterr);

    if (rc == 0)
        rc = s3_upload_bytes(&(struct s3_object){s->s3, s->bucket, key}, data, len, true, reterr);
    if (rc != -EEXIST)
        return rc;
    rc =
        s3_read(base, name, &there, &there_len, reterr); /* ours, of a try whose answer was lost? */
    if (rc == 0 && (there_len != len || memcmp(there, data, len) != 0))
        rc = lh_err_set(reterr, -EEXIST, "s3://%s/%s was written by another attempt", s->bucket,
                        key);
    free(there);
    return rc;
}

static int s3_get(struct store *base, const char *name, const char *path, uint64_t max_bytes,
                  struct lh_err *reterr)
{
    struct store_s3 *s = (struct store_s3 *)base;
    char key[KEY_CAP];
    struct s3_request q = {.method = "GET", .key = key, .query = "", .out_max = max_bytes};
    struct s3_reply r;
    int rc = make_key(s, name, key, reterr);

    if (rc < 0)
        return rc;
    q.out_fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (q.out_fd < 0)
        return lh_err_set(reterr, -errno, "create '%s'", path);
    rc = s3_send(s->s3, &q, &r, reterr);
    s3_reply_release(&r);
    if (rc == 0 && fsync(q.out_fd) < 0)
        rc = lh_err_set(reterr, -errno, "sync '%s'", path);
    (void)close(q.out_fd);
    return rc;
}

static int s3_stat(struct store *base, const char *name, struct store_stat *ret_stat,
                   struct lh_err *reterr)
{
    struct store_s3 *s = (struct store_s3 *)base;
    struct store_stat out = {0};
    char key[KEY_CAP];
    struct s3_request q = {
        .method = "HEAD", .key = key, .query = "", .checksum_mode = true, .out_fd = -1};
    struct s3_reply r;
    int rc = make_key(s, name, key, reterr);

    if (rc < 0)
        return rc;
    rc = s3_send(s->s3, &q, &r, reterr);
    out.bytes = r.length;
    (void)snprintf(out.etag, sizeof(out.etag), "%s", r.etag);
    if (!strchr(r.checksum, '-')) /* one of parts says nothing about the whole */
        (void)snprintf(out.checksum, sizeof(out.checksum), "%s", r.checksum);
    s3_reply_release(&r);
    if (rc == 0)
        *ret_stat = out;
    return rc;
}

struct listing {
    size_t skip; /* bytes of a key that are the directory */
    store_object_fn *fn;
    void *arg;
};

static int give_name(void *arg, const char *key, uint64_t bytes, const char *etag,
                     struct lh_err *reterr)
{
    const struct listing *l = arg;

    return l->fn(l->arg, key + l->skip, bytes, etag, reterr);
}

static int store_s3_list(struct store *base, store_object_fn *fn, void *arg, struct lh_err *reterr)
{
    struct store_s3 *s = (struct store_s3 *)base;
    struct listing l = {.fn = fn, .arg = arg};
    char prefix[KEY_CAP + 1];

    (void)snprintf(prefix, sizeof(prefix), "%s%s", s->prefix, s->prefix[0] ? "/" : "");
    l.skip = strlen(prefix);
    return s3_list(s->s3, prefix, give_name, &l, reterr);
}

static void store_s3_close(struct store *base)
{
    struct store_s3 *s = (struct store_s3 *)base;

    s3_close(s->s3);
    free(s);
}

int store_s3_open(const char *bucket, const char *prefix, const char *config,
                  const volatile bool *cancel, struct store **ret_store, struct lh_err *reterr)
{
    static const struct store_ops ops = {.put = s3_put,
                                         .create = s3_create,
                                         .get = s3_get,
                                         .read = s3_read,
                                         .stat = s3_stat,
                                         .list = store_s3_list,
                                         .close = store_s3_close};
    struct store_s3 *s = calloc(1, sizeof(*s));
    size_t n = strlen(prefix);
    int rc;

    if (!s)
        return lh_err_set(reterr, -ENOMEM, "store s3://%s", bucket);
    while (n > 0 && prefix[n - 1] == '/')
        n--;
    rc = n < sizeof(s->prefix) ? s3_open(bucket, config, cancel, &s->s3, reterr)
                               : lh_err_set(reterr, -ENAMETOOLONG, "store s3://%s", bucket);
    if (rc < 0) {
        free(s);
        return rc;
    }
    memcpy(s->prefix, prefix, n);
    (void)snprintf(s->bucket, sizeof(s->bucket), "%s", bucket);
    s->base.ops = &ops;
    *ret_store = &s->base;
    return 0;
}
