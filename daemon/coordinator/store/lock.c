/* lock.c - see lock.h. The lock ends with the process, however it ends; the file stays. */
#include "daemon/coordinator/store/lock.h"
#include "proto/base/fs.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

static int held(int fd, const char *dir, struct lh_err *reterr)
{
    char text[32] = "";
    ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
    int pid = n > 0 ? atoi(text) : 0;

    if (pid > 0)
        return lh_err_set(reterr, -EBUSY,
                          "state directory '%s' is held by another longhauld, process %d; stop it "
                          "or give another --state",
                          dir, pid);
    return lh_err_set(reterr, -EBUSY,
                      "state directory '%s' is held by another longhauld; give another --state",
                      dir);
}

int lock_take(const char *dir, int *ret_fd, struct lh_err *reterr)
{
    char path[4096], pid[32];
    int fd, n, rc = lh_mkdir_p(dir, reterr);

    if (rc < 0)
        return lh_err_prefix(reterr, rc,
                             "the state directory cannot be made; give another --state");
    if (lh_is_network_fs(dir))
        return lh_err_set(reterr, LH_ESTATE,
                          "state directory '%s' is on a network file system, whose locks and syncs "
                          "cannot be relied on; "
                          "give a --state on a local disk",
                          dir);
    if (snprintf(path, sizeof(path), "%s/lock", dir) >= (int)sizeof(path))
        return lh_err_set(reterr, -ENAMETOOLONG, "--state");
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return lh_err_set(
            reterr, -errno,
            "state directory '%s' cannot be written; give another --state or make it writable",
            dir);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        rc = errno == EWOULDBLOCK ? held(fd, dir, reterr)
                                  : lh_err_set(reterr, -errno, "lock '%s'", path);
        (void)close(fd);
        return rc;
    }
    n = snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, pid, (size_t)n, 0) != n) {
        rc = lh_err_set(reterr, errno ? -errno : -ENOSPC, "state directory '%s' cannot be written",
                        dir);
        (void)close(fd);
        return rc;
    }
    *ret_fd = fd;
    return 0;
}
