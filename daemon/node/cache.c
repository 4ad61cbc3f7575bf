/* cache.c - see cache.h.
 *
 *   DIR/objects/SHA/       a directory by the digest of its manifest
 *   DIR/files/KEY/NAME     one object, KEY made of its address, size and ETag: fetched anew when it
 * has changed DIR/verified/...       marks of directories used in place whose bytes were compared
 */
#include "daemon/node/cache_parts.h"
#include "proto/base/fs.h"
#include "proto/base/str.h"
#include "proto/manifest.h"
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A directory of another job on a shared path: its manifest must be the one that the database has.
 * All bytes are compared once for each manifest and path; a mark remembers it. */
static int use_in_place(const struct cache_request *q, const char *path, char *ret_path,
                        struct lh_err *reterr)
{
    struct lh_manifest m = {0};
    char mark[PATH_CAP], key[LH_SHA256_HEX];
    int rc = lh_manifest_read(path, &m, reterr);

    if (rc == 0 && q->manifest_sha256[0] && strcmp(m.sha256, q->manifest_sha256) != 0)
        rc = lh_err_set(
            reterr, LH_EINPUT,
            "'%s' is not what it was when it was recorded: its manifest is %.12s..., not %.12s...",
            path, m.sha256, q->manifest_sha256);
    if (rc == 0) {
        lh_sha256_hex(path, strlen(path), key);
        (void)snprintf(mark, sizeof(mark), "%.800s/verified/%.64s-%.16s", q->dir, m.sha256, key);
        if (!lh_path_exists(mark)) {
            rc = lh_manifest_verify(path, reterr);
            if (rc == 0)
                (void)!lh_write_file(mark, "", 0,
                                     NULL); /* without the mark it is compared again next time */
        }
    }
    lh_manifest_release(&m);
    if (rc == 0)
        (void)snprintf(ret_path, PATH_CAP, "%s", path);
    return rc;
}

bool cache_find(const struct cache_request *q, const char *path)
{
    bool found;

    if (q->lock)
        (void)pthread_mutex_lock(q->lock);
    found = lh_is_dir(path) && utimensat(AT_FDCWD, path, NULL, 0) == 0;
    if (q->lock)
        (void)pthread_mutex_unlock(q->lock);
    return found;
}

int cache_move_in(const char *tmp, const char *path, struct lh_err *reterr)
{
    int rc = 0;

    if (rename(tmp, path) < 0)
        rc = errno == EEXIST || errno == ENOTEMPTY ? 0
                                                   : lh_err_set(reterr, -errno, "rename '%s'", tmp);
    (void)!lh_remove_tree(tmp, NULL); /* gone when it was moved */
    return rc;
}

int cache_make_tmp(const struct cache_request *q, char *tmp, struct lh_err *reterr)
{
    char random[17];

    lh_random_hex(8, random);
    (void)snprintf(tmp, PATH_CAP, "%.800s/tmp/%s", q->dir, random);
    return lh_mkdir_p(tmp, reterr);
}

static int fetch_files(struct store *store, const struct lh_manifest *m, const char *dir,
                       struct lh_err *reterr)
{
    char path[LONG_CAP], *slash;
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < m->n_files; i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", dir, m->files[i].name);
        slash = strrchr(path, '/');
        *slash = '\0';
        rc = lh_mkdir_p(path, reterr);
        *slash = '/';
        if (rc == 0)
            rc = store_get(store, m->files[i].name, path, m->files[i].bytes, reterr);
    }
    return rc;
}

static int fetch_directory(const struct cache_request *q, struct store *store, const char *text,
                           size_t len, char *ret_path, struct lh_err *reterr)
{
    struct lh_manifest m = {0};
    char path[PATH_CAP], tmp[PATH_CAP], file[LONG_CAP];
    int rc = lh_manifest_parse(text, len, q->uri, &m, reterr);

    if (rc < 0)
        return rc;
    (void)snprintf(path, sizeof(path), "%.800s/objects/%s", q->dir, m.sha256);
    if (q->manifest_sha256[0] && strcmp(m.sha256, q->manifest_sha256) != 0) {
        rc = lh_err_set(
            reterr, LH_EINPUT,
            "'%s' is not what it was when it was recorded: its manifest is %.12s..., not %.12s...",
            q->uri, m.sha256, q->manifest_sha256);
    } else if (!cache_find(q, path)) {
        rc = cache_make_tmp(q, tmp, reterr);
        if (rc == 0)
            rc = fetch_files(store, &m, tmp, reterr);
        (void)snprintf(file, sizeof(file), "%s/%s", tmp, LH_MANIFEST_NAME);
        if (rc == 0)
            rc = lh_write_file(file, text, len, reterr);
        if (rc == 0)
            rc = lh_manifest_verify(tmp, reterr);
        if (rc == 0)
            rc = cache_move_in(tmp, path, reterr);
        else
            (void)!lh_remove_tree(tmp, NULL);
    }
    lh_manifest_release(&m);
    if (rc == 0)
        (void)snprintf(ret_path, PATH_CAP, "%s", path);
    return rc;
}

static int verify_file(const char *path, const struct store_stat *st, const char *uri,
                       struct lh_err *reterr)
{
    char hex[LH_SHA256_HEX], base64[64];
    unsigned char bytes[32];
    uint64_t size;
    int rc = lh_sha256_file(path, hex, &size, reterr);

    for (unsigned i = 0; rc == 0 && i < sizeof(bytes); i++)
        (void)sscanf(hex + 2 * i, "%2hhx", &bytes[i]);
    if (rc == 0)
        (void)EVP_EncodeBlock((unsigned char *)base64, bytes, sizeof(bytes));
    if (rc == 0 && (size != st->bytes || (st->checksum[0] && strcmp(st->checksum, base64) != 0)))
        rc = lh_err_set(reterr, LH_ETRYAGAIN, "'%s' came with other bytes than the server says",
                        uri);
    return rc;
}

int cache_get(struct store *store, const char *name, const struct store_stat *st, const char *path,
              const char *uri, struct lh_err *reterr)
{
    int rc = store_get(store, name, path, st->bytes, reterr);

    return rc < 0 ? rc : verify_file(path, st, uri, reterr);
}

/* One object: uri names its directory and name. */
static int fetch_file(const struct cache_request *q, struct store *store, const char *name,
                      char *ret_path, struct lh_err *reterr)
{
    char dir[PATH_CAP], tmp[PATH_CAP], file[LONG_CAP], identity[LONG_CAP], key[LH_SHA256_HEX];
    struct store_stat st;
    int rc = store_stat(store, name, &st, reterr);

    if (rc < 0)
        return rc;
    (void)snprintf(identity, sizeof(identity), "%s %llu %s", q->uri, (unsigned long long)st.bytes,
                   st.etag);
    lh_sha256_hex(identity, strlen(identity), key);
    (void)snprintf(dir, sizeof(dir), "%.800s/files/%s", q->dir, key);
    if (!cache_find(q, dir)) {
        rc = cache_make_tmp(q, tmp, reterr);
        (void)snprintf(file, sizeof(file), "%s/%s", tmp, name);
        if (rc == 0)
            rc = cache_get(store, name, &st, file, q->uri, reterr);
        if (rc == 0)
            rc = cache_move_in(tmp, dir, reterr);
        else
            (void)!lh_remove_tree(tmp, NULL);
    }
    if (rc == 0 && snprintf(ret_path, PATH_CAP, "%s/%s", dir, name) >= PATH_CAP)
        rc = lh_err_set(reterr, -ENAMETOOLONG, "'%s'", q->uri);
    return rc;
}

static int fetch_remote(const struct cache_request *q, char *ret_path, struct lh_err *reterr)
{
    LH_CLEANUP(store_closep) struct store *store = NULL, *above = NULL;
    char parent[PATH_CAP], *slash, *text = NULL;
    size_t len;
    int rc;

    if (!q->manifest_sha256[0] && strpbrk(q->uri, "*?["))
        return cache_fetch_list(q, ret_path, reterr);
    rc = store_open(q->uri, q->s3_config, q->cancel, &store, reterr);
    if (rc == 0)
        rc = store_read(store, LH_MANIFEST_NAME, &text, &len, reterr);
    if (rc == 0)
        rc = fetch_directory(q, store, text, len, ret_path, reterr);
    free(text);
    if (rc != -ENOENT || q->manifest_sha256[0])
        return rc;
    (void)snprintf(parent, sizeof(parent), "%s", q->uri);
    slash = strrchr(parent, '/');
    if (slash && slash[1] && slash > parent + strlen("s3://")) {
        *slash = '\0';
        rc = store_open(parent, q->s3_config, q->cancel, &above, reterr);
        if (rc == 0)
            rc = fetch_file(q, above, slash + 1, ret_path, reterr);
    }
    return rc == -ENOENT ? cache_fetch_list(q, ret_path, reterr) : rc;
}

int cache_fetch(const struct cache_request *q, char *ret_path, struct lh_err *reterr)
{
    static const char *const parts[] = {"verified", "objects", "files", "tmp"};
    char path[PATH_CAP];
    struct lh_uri uri;
    int rc = lh_uri_parse(q->uri, &uri, reterr);

    for (size_t i = 0; rc == 0 && i < LH_ARRAY_LEN(parts); i++) {
        (void)snprintf(path, sizeof(path), "%.800s/%s", q->dir, parts[i]);
        rc = lh_mkdir_p(path, reterr);
    }
    if (rc < 0)
        return rc;
    return uri.scheme == LH_URI_FILE ? use_in_place(q, uri.path, ret_path, reterr)
                                     : fetch_remote(q, ret_path, reterr);
}
