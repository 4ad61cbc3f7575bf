/* store_file.c - a directory as a store: copies, hashed on the way, renamed into place once they
 * are on disk. */
#include "daemon/node/store.h"
#include "proto/base/fs.h"
#include "proto/base/sha256.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_CAP 2048
#define CHUNK_BYTES (1u << 20)

struct store_file {
    struct store base;
    char dir[1024];
    const volatile bool *cancel;
};

/* Full disks and shares that come back are the rule: another try may succeed. */
static int may_pass(int code)
{
    switch (code) {
    case -ENOSPC:
    case -EDQUOT:
    case -EIO:
    case -ESTALE:
    case -ETIMEDOUT:
    case -EAGAIN:
        return LH_ETRYAGAIN;
    default:
        return code;
    }
}

/* The text of an error of fs.c stays, the code says whether to try again. */
static int mapped(int rc, struct lh_err *reterr)
{
    int code = may_pass(rc);

    if (reterr && rc < 0)
        reterr->code = code;
    return code;
}

static int full_path(const struct store_file *s, const char *name, char *path,
                     struct lh_err *reterr)
{
    char *slash;
    int rc;

    if (snprintf(path, PATH_CAP, "%s/%s", s->dir, name) >= PATH_CAP)
        return lh_err_set(reterr, -ENAMETOOLONG, "'%s' in '%s'", name, s->dir);
    slash = strrchr(path, '/');
    *slash = '\0';
    rc = lh_mkdir_p(path, reterr);
    *slash = '/';
    return mapped(rc, reterr);
}

static int copy_data(const struct store_file *s, int from, int to, struct lh_sha256 *hash,
                     uint64_t *ret_bytes)
{
    char *chunk = malloc(CHUNK_BYTES);
    uint64_t bytes = 0;
    int rc = chunk ? 0 : -ENOMEM;

    while (rc == 0) {
        ssize_t n = read(from, chunk, CHUNK_BYTES), done = 0;

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            rc = n < 0 ? -errno : 0;
            break;
        }
        if (s->cancel && *s->cancel)
            rc = -ECANCELED;
        lh_sha256_update(hash, chunk, (size_t)n);
        while (rc == 0 && done < n) {
            ssize_t k = write(to, chunk + done, (size_t)(n - done));

            if (k < 0 && errno != EINTR)
                rc = -errno;
            else if (k > 0)
                done += k;
        }
        bytes += (uint64_t)n;
    }
    free(chunk);
    *ret_bytes = bytes;
    return rc;
}

/* Copies path to tmp and syncs it; gives digest and size of what was copied. */
static int copy_file(const struct store_file *s, const char *path, const char *tmp,
                     char hex[static LH_SHA256_HEX], uint64_t *ret_bytes, struct lh_err *reterr)
{
    int from = open(path, O_RDONLY | O_CLOEXEC), to, rc;
    struct lh_sha256 hash;

    if (from < 0)
        return lh_err_set(reterr, -errno, "open '%s'", path);
    to = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (to < 0) {
        rc = lh_err_set(reterr, may_pass(-errno), "create '%s' (%s)", tmp, strerror(errno));
        (void)close(from);
        return rc;
    }
    rc = lh_sha256_init(&hash);
    if (rc == 0) {
        rc = copy_data(s, from, to, &hash, ret_bytes);
        lh_sha256_final(&hash, hex);
    }
    if (rc == 0 && fsync(to) < 0)
        rc = -errno;
    if (close(to) < 0 && rc == 0)
        rc = -errno;
    (void)close(from);
    if (rc < 0)
        return lh_err_set(reterr, may_pass(rc), "copy '%s' to '%s' (%s)", path, tmp, strerror(-rc));
    return 0;
}

static int sync_directory(const char *path, struct lh_err *reterr)
{
    char dir[PATH_CAP];
    char *slash;

    (void)snprintf(dir, sizeof(dir), "%s", path);
    slash = strrchr(dir, '/');
    *slash = '\0';
    return mapped(lh_sync_path(dir[0] ? dir : "/", reterr), reterr);
}

static int file_put(struct store *base, const char *name, const char *path, uint64_t bytes,
                    const char *sha256, struct store_progress *progress, struct lh_err *reterr)
{
    struct store_file *s = (struct store_file *)base;
    char to[PATH_CAP], tmp[PATH_CAP + 16], hex[LH_SHA256_HEX];
    uint64_t copied = 0;
    int rc = full_path(s, name, to, reterr);

    (void)progress;
    if (rc < 0)
        return rc;
    (void)snprintf(tmp, sizeof(tmp), "%s.tmp", to);
    rc = copy_file(s, path, tmp, hex, &copied, reterr);
    if (rc == 0 && (copied != bytes || strcmp(hex, sha256) != 0))
        rc = lh_err_set(reterr, LH_EINPUT, "'%s' is not what its manifest says", path);
    if (rc == 0 && rename(tmp, to) < 0)
        rc = lh_err_set(reterr, may_pass(-errno), "rename '%s' (%s)", tmp, strerror(errno));
    if (rc < 0) {
        (void)unlink(tmp);
        return rc;
    }
    return sync_directory(to, reterr);
}

static int file_read(struct store *base, const char *name, char **ret_data, size_t *ret_len,
                     struct lh_err *reterr)
{
    const struct store_file *s = (const struct store_file *)base;
    char path[PATH_CAP];

    (void)snprintf(path, sizeof(path), "%s/%s", s->dir, name);
    return mapped(lh_read_file(path, STORE_SMALL_MAX, ret_data, ret_len, reterr), reterr);
}

/* link(2) fails when the name exists: what If-None-Match is elsewhere. */
static int file_create(struct store *base, const char *name, const void *data, size_t len,
                       struct lh_err *reterr)
{
    struct store_file *s = (struct store_file *)base;
    char to[PATH_CAP], tmp[PATH_CAP + 16], *there = NULL;
    size_t there_len = 0;
    int rc = full_path(s, name, to, reterr);

    if (rc < 0)
        return rc;
    (void)snprintf(tmp, sizeof(tmp), "%s.new", to);
    rc = mapped(lh_write_file(tmp, data, len, reterr), reterr);
    if (rc < 0)
        return rc;
    if (link(tmp, to) < 0)
        rc = errno == EEXIST
                 ? -EEXIST
                 : lh_err_set(reterr, may_pass(-errno), "create '%s' (%s)", to, strerror(errno));
    (void)unlink(tmp);
    if (rc == -EEXIST) {
        rc = file_read(base, name, &there, &there_len, reterr);
        if (rc == 0 && (there_len != len || memcmp(there, data, len) != 0))
            rc = lh_err_set(reterr, -EEXIST, "'%s' was written by another attempt", to);
        free(there);
    }
    return rc < 0 ? rc : sync_directory(to, reterr);
}

static int file_get(struct store *base, const char *name, const char *path, uint64_t max_bytes,
                    struct lh_err *reterr)
{
    struct store_file *s = (struct store_file *)base;
    char from[PATH_CAP], hex[LH_SHA256_HEX];
    uint64_t bytes;
    int64_t size;

    (void)snprintf(from, sizeof(from), "%s/%s", s->dir, name);
    size = lh_file_size(from);
    if (size > 0 && (uint64_t)size > max_bytes)
        return lh_err_set(reterr, -EFBIG, "'%s'", from);
    return copy_file(s, from, path, hex, &bytes, reterr);
}

static int file_stat(struct store *base, const char *name, struct store_stat *ret_stat,
                     struct lh_err *reterr)
{
    const struct store_file *s = (const struct store_file *)base;
    struct store_stat out = {0};
    char path[PATH_CAP];
    struct stat st;

    (void)snprintf(path, sizeof(path), "%s/%s", s->dir, name);
    if (stat(path, &st) < 0)
        return lh_err_set(reterr, may_pass(-errno), "'%s' (%s)", path, strerror(errno));
    out.bytes = (uint64_t)st.st_size;
    (void)snprintf(out.etag, sizeof(out.etag), "%lld.%09ld", (long long)st.st_mtim.tv_sec,
                   st.st_mtim.tv_nsec);
    *ret_stat = out;
    return 0;
}

static void file_close(struct store *base)
{
    free(base);
}

int store_file_open(const char *dir, const volatile bool *cancel, struct store **ret_store,
                    struct lh_err *reterr)
{
    static const struct store_ops ops = {.put = file_put,
                                         .create = file_create,
                                         .get = file_get,
                                         .read = file_read,
                                         .stat = file_stat,
                                         .close = file_close};
    struct store_file *s = calloc(1, sizeof(*s));
    size_t n = strlen(dir);

    if (!s)
        return lh_err_set(reterr, -ENOMEM, "store '%s'", dir);
    while (n > 1 && dir[n - 1] == '/')
        n--;
    if (n >= sizeof(s->dir)) {
        free(s);
        return lh_err_set(reterr, -ENAMETOOLONG, "store '%s'", dir);
    }
    memcpy(s->dir, dir, n);
    s->base.ops = &ops;
    s->cancel = cancel;
    *ret_store = &s->base;
    return 0;
}
