/* mapping.c - see mapping.h. */
#include "worker/formats/mapping.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int mapping_open(const char *path, struct mapping *ret_map, struct lh_err *reterr)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us */
    struct mapping m = {NULL, 0};
    struct stat st;
    int rc = 0;

    if (fd < 0)
        return lh_err_set(reterr, -errno, "open '%s'", path);
    if (fstat(fd, &st) < 0) {
        rc = lh_err_set(reterr, -errno, "stat '%s'", path);
    } else if (!S_ISREG(st.st_mode)) {
        rc = lh_err_set(reterr, LH_EINPUT, "'%s' is not a regular file", path);
    } else if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);

        if (p == MAP_FAILED)
            rc = lh_err_set(reterr, -errno, "map '%s'", path);
        else
            m = (struct mapping){p, (size_t)st.st_size};
    }
    (void)close(fd);
    if (rc == 0)
        *ret_map = m;
    return rc;
}

void mapping_close(struct mapping *m)
{
    if (m->data)
        (void)munmap((void *)(uintptr_t)m->data, m->bytes);
    *m = (struct mapping){NULL, 0};
}
