/* prepare_place.c - see prepare_place.h. */
#include "worker/data/prepare_place.h"
#include "proto/base/fs.h"
#include "proto/base/str.h"
#include "worker/data/shards.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

int prepare_place_name(struct prepare_place *p, const char *cache_dir, const char *key,
                       struct lh_err *reterr)
{
    p->lock = -1;
    if (snprintf(p->dir, sizeof(p->dir), "%s/shards/%s", cache_dir, key) >=
        (int)sizeof(p->dir) - 64)
        return lh_err_set(reterr, -ENAMETOOLONG, "cache directory '%s'", cache_dir);
    (void)snprintf(p->parent, sizeof(p->parent), "%.900s/shards", cache_dir);
    (void)snprintf(p->temporary, sizeof(p->temporary), "%.900s/.%.64s.tmp", p->parent, key);
    return 0;
}

bool prepare_place_ready(const struct prepare_place *p)
{
    struct shards s;

    if (shards_open(p->dir, &s, NULL) < 0)
        return false;
    shards_close(&s);
    return true;
}

/* A directory that no other process looks for. */
static int enter_alone(struct prepare_place *p, struct lh_err *reterr)
{
    size_t n = strlen(p->temporary);
    char token[17];
    int rc;

    lh_random_hex(8, token);
    (void)snprintf(p->temporary + n, sizeof(p->temporary) - n, "-%s", token);
    rc = lh_mkdir_p(p->temporary, reterr);
    return rc < 0 ? rc : 1;
}

int prepare_place_enter(struct prepare_place *p, struct lh_err *reterr)
{
    struct stat ours, there;
    int rc = lh_mkdir_p(p->temporary, reterr), fd;

    if (rc < 0)
        return rc;
    fd = open(p->temporary, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : lh_err_set(reterr, -errno, "open '%s'", p->temporary);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        rc = errno;
        (void)close(fd);
        return rc == EWOULDBLOCK || rc == EINTR ? 0 : enter_alone(p, reterr);
    }
    /* Its owner may have published or removed it meanwhile. */
    if (fstat(fd, &ours) < 0 || stat(p->temporary, &there) < 0 || ours.st_ino != there.st_ino ||
        ours.st_dev != there.st_dev) {
        (void)close(fd);
        return 0;
    }
    p->lock = fd;
    if (!prepare_place_ready(p))
        return 1;
    prepare_place_leave(p);
    return 0;
}

int prepare_place_clear(const struct prepare_place *p, struct lh_err *reterr)
{
    DIR *d = opendir(p->temporary);
    struct dirent *entry;
    char path[1400];
    int rc = 0;

    if (!d)
        return lh_err_set(reterr, -errno, "open '%s'", p->temporary);
    while (rc == 0 && (entry = readdir(d)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        (void)snprintf(path, sizeof(path), "%s/%s", p->temporary, entry->d_name);
        rc = lh_remove_tree(path, reterr);
    }
    (void)closedir(d);
    return rc;
}

int prepare_place_publish(const struct prepare_place *p, struct lh_err *reterr)
{
    int rc = rename(p->temporary, p->dir) < 0 ? -errno : 0;

    if (rc == -EEXIST || rc == -ENOTEMPTY) {
        if (prepare_place_ready(p))
            return 0;
        rc = lh_remove_tree(p->dir, reterr); /* broken: nobody can be using it */
        if (rc == 0)
            rc = rename(p->temporary, p->dir) < 0 ? -errno : 0;
    }
    if (rc < 0)
        return lh_err_set(reterr, rc, "rename '%s' to '%s'", p->temporary, p->dir);
    return lh_sync_path(p->parent, reterr);
}

void prepare_place_leave(struct prepare_place *p)
{
    /* What cannot be removed has no name that is taken for data. */
    (void)!lh_remove_tree(p->temporary, NULL);
    if (p->lock >= 0)
        (void)close(p->lock);
    p->lock = -1;
}
