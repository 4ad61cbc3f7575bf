/* fs.c - see fs.h. */
#define _XOPEN_SOURCE 700
#define _DEFAULT_SOURCE
#include "proto/base/fs.h"
#include "proto/base/fault.h"
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

static int read_sized(int fd, size_t size, char **ret_data, size_t *ret_len)
{
    char *data = malloc(size + 1);
    size_t done = 0;
    int rc = data ? 0 : -ENOMEM;

    while (rc == 0 && done < size) {
        ssize_t n = read(fd, data + done, size - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = -errno;
        else if (n == 0)
            rc = -EIO; /* the file shrank between fstat and read */
        else
            done += (size_t)n;
    }
    if (rc < 0) {
        free(data);
        return rc;
    }
    data[size] = '\0';
    *ret_data = data;
    *ret_len = size;
    return 0;
}

/* Files of /proc and /sys tell no size: they are read until they end. */
static int read_unsized(int fd, size_t max_bytes, char **ret_data, size_t *ret_len)
{
    size_t cap = 0, len = 0;
    char *data = NULL;
    ssize_t n = 1;

    while (n > 0) {
        if (len + 1 >= cap) {
            char *grown = realloc(data, cap ? cap * 2 : 4096);

            if (!grown) {
                free(data);
                return -ENOMEM;
            }
            data = grown;
            cap = cap ? cap * 2 : 4096;
        }
        n = read(fd, data + len, cap - len - 1);
        if (n < 0 && errno == EINTR)
            n = 1;
        else if (n < 0 || len + (size_t)n > max_bytes) {
            int rc = n < 0 ? -errno : -EFBIG;

            free(data);
            return rc;
        } else {
            len += (size_t)n;
        }
    }
    data[len] = '\0';
    *ret_data = data;
    *ret_len = len;
    return 0;
}

int lh_read_file(const char *path, size_t max_bytes, char **ret_data, size_t *ret_len,
                 struct lh_err *reterr)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not make us wait */
    char *data = NULL;
    size_t len = 0;
    struct stat st;
    int rc;

    if (fd < 0)
        return lh_err_set(reterr, -errno, "open '%s'", path);
    if (fstat(fd, &st) < 0)
        rc = lh_err_set(reterr, -errno, "stat '%s'", path);
    else if (!S_ISREG(st.st_mode))
        rc = lh_err_set(reterr, -EINVAL, "'%s' is not a regular file", path);
    else if ((uint64_t)st.st_size > max_bytes)
        rc = lh_err_set(reterr, -EFBIG, "'%s' has %lld bytes, at most %zu are read", path,
                        (long long)st.st_size, max_bytes);
    else if ((rc = st.st_size > 0 ? read_sized(fd, (size_t)st.st_size, &data, &len)
                                  : read_unsized(fd, max_bytes, &data, &len)) < 0)
        rc = lh_err_set(reterr, rc, "read '%s'", path);
    (void)close(fd);
    if (rc < 0)
        return rc;
    *ret_data = data;
    if (ret_len)
        *ret_len = len;
    return 0;
}

int lh_sync_path(const char *path, struct lh_err *reterr)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    return fd < 0 ? lh_err_set(reterr, -errno, "open '%s' to sync it", path)
                  : lh_close_synced(fd, path, reterr);
}

int lh_write_all(int fd, const void *data, uint64_t bytes)
{
    const char *at = data;

    while (bytes > 0) {
        ssize_t n = write(fd, at, bytes);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        at += n;
        bytes -= (uint64_t)n;
    }
    return 0;
}

int lh_close_synced(int fd, const char *path, struct lh_err *reterr)
{
    int rc = 0;

    if (fsync(fd) < 0)
        rc = lh_err_set(reterr, -errno, "fsync '%s'", path);
    if (close(fd) < 0 && rc == 0)
        rc = lh_err_set(reterr, -errno, "close '%s'", path);
    return rc;
}

static int sync_parent(const char *path, struct lh_err *reterr)
{
    char *copy = strdup(path);
    int rc;

    if (!copy)
        return lh_err_set(reterr, -ENOMEM, "sync parent of '%s'", path);
    rc = lh_sync_path(dirname(copy), reterr);
    free(copy);
    return rc;
}

int lh_write_file(const char *path, const void *data, size_t len, struct lh_err *reterr)
{
    char tmp[4096];
    int fd, rc;

    if (snprintf(tmp, sizeof(tmp), "%s.tmp.%d", path, (int)getpid()) >= (int)sizeof(tmp))
        return lh_err_set(reterr, -ENAMETOOLONG, "write '%s'", path);
    fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return lh_err_set(reterr, -errno, "create '%s'", tmp);
    lh_fault("fs.before_write");
    rc = lh_write_all(fd, data, len);
    lh_fault("fs.before_sync");
    if (rc == 0 && fsync(fd) < 0)
        rc = -errno;
    if (close(fd) < 0 && rc == 0)
        rc = -errno;
    lh_fault("fs.before_rename");
    if (rc == 0 && rename(tmp, path) < 0)
        rc = -errno;
    if (rc < 0) {
        (void)unlink(tmp);
        return lh_err_set(reterr, rc, "write '%s'", path);
    }
    lh_fault("fs.after_rename");
    return sync_parent(path, reterr);
}

int lh_append_file(const char *path, const void *data, size_t len, struct lh_err *reterr)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    int rc;

    if (fd < 0)
        return lh_err_set(reterr, -errno, "open '%s'", path);
    rc = lh_write_all(fd, data, len);
    (void)close(fd);
    return rc < 0 ? lh_err_set(reterr, rc, "append to '%s'", path) : 0;
}

int lh_mkdir_p(const char *path, struct lh_err *reterr)
{
    char *copy = strdup(path);
    int rc = 0;

    if (!copy)
        return lh_err_set(reterr, -ENOMEM, "create directory '%s'", path);
    if (path[0] == '\0')
        rc = lh_err_set(reterr, -ENOENT, "create a directory with an empty name");
    for (char *p = copy + 1; rc == 0; p++) {
        char c = *p;

        if (c != '/' && c != '\0')
            continue;
        *p = '\0';
        if (mkdir(copy, 0777) < 0 && !(errno == EEXIST && lh_is_dir(copy)))
            rc = lh_err_set(reterr, errno == EEXIST ? -ENOTDIR : -errno, "create directory '%s'",
                            copy);
        *p = c;
        if (c == '\0')
            break;
    }
    free(copy);
    return rc;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path) < 0 && errno != ENOENT ? -errno : 0;
}

int lh_remove_tree(const char *path, struct lh_err *reterr)
{
    struct stat st;
    int rc;

    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : lh_err_set(reterr, -errno, "remove '%s'", path);
    rc = nftw(path, remove_entry, 32, FTW_DEPTH | FTW_PHYS);
    if (rc == -1)
        rc = -errno;
    return rc < 0 ? lh_err_set(reterr, rc, "remove '%s'", path) : 0;
}

bool lh_path_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

bool lh_is_dir(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int64_t lh_file_size(const char *path)
{
    struct stat st;

    return stat(path, &st) < 0 ? -errno : st.st_size;
}

bool lh_is_network_fs(const char *path)
{
    /* Magic numbers of linux/magic.h and of kernel sources where that header has none. */
    static const unsigned network[] = {
        0x6969 /* NFS */,    0xff534d42 /* CIFS */, 0xfe534d42 /* SMB2 */, 0x517b /* SMB */,
        0x01021997 /* 9p */, 0x5346414f /* AFS */,  0x00c36400 /* Ceph */, 0x0bd00bd0 /* Lustre */};
    struct statfs fs;

    if (statfs(path, &fs) < 0)
        return false;
    for (size_t i = 0; i < LH_ARRAY_LEN(network); i++)
        if ((unsigned)fs.f_type == network[i])
            return true;
    return false;
}

uint64_t lh_free_bytes(const char *path)
{
    struct statvfs fs;

    return statvfs(path, &fs) < 0 ? 0 : (uint64_t)fs.f_bavail * fs.f_frsize;
}

const char *lh_sibling_program(const char *name, char *buf, size_t cap)
{
    char self[1024];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (n > 0) {
        char *slash;

        self[n] = '\0';
        slash = strrchr(self, '/');
        if (slash) {
            *slash = '\0';
            if (snprintf(buf, cap, "%s/%s", self, name) < (int)cap && access(buf, X_OK) == 0)
                return buf;
        }
    }
    (void)snprintf(buf, cap, "%s", name);
    return buf;
}
