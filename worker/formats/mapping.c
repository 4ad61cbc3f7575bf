/* mapping.c - see mapping.h.
 *
 * The list of what is mapped is a global, because a signal handler can be given nothing: it is all
 * that tells which file an address belonged to.
 */
#include "worker/formats/mapping.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct mapped {
    struct mapped *next;
    const uint8_t *begin;
    size_t bytes;
    char path[];
};

static struct {
    pthread_mutex_t lock; /* of changes; the handler reads without it, on its way to the end */
    struct mapped *_Atomic first;
    mapping_lost_fn *lost;
    atomic_flag telling;
} all = {.lock = PTHREAD_MUTEX_INITIALIZER, .telling = ATOMIC_FLAG_INIT};

static int remember(const char *path, const struct mapping *m)
{
    size_t n = strlen(path) + 1;
    struct mapped *entry = malloc(sizeof(*entry) + n);

    if (!entry)
        return -ENOMEM;
    entry->begin = m->data;
    entry->bytes = m->bytes;
    memcpy(entry->path, path, n);
    (void)pthread_mutex_lock(&all.lock);
    entry->next = all.first;
    all.first = entry;
    (void)pthread_mutex_unlock(&all.lock);
    return 0;
}

static void forget(const struct mapping *m)
{
    struct mapped *entry, *before = NULL;

    (void)pthread_mutex_lock(&all.lock);
    for (entry = all.first; entry && entry->begin != m->data; entry = entry->next)
        before = entry;
    if (entry && before)
        before->next = entry->next;
    else if (entry)
        all.first = entry->next;
    (void)pthread_mutex_unlock(&all.lock);
    free(entry);
}

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
    if (rc == 0 && m.data && remember(path, &m) < 0) {
        (void)munmap((void *)(uintptr_t)m.data, m.bytes);
        rc = lh_err_set(reterr, -ENOMEM, "map '%s'", path);
    }
    if (rc == 0)
        *ret_map = m;
    return rc;
}

void mapping_close(struct mapping *m)
{
    if (m->data) {
        forget(m);
        (void)munmap((void *)(uintptr_t)m->data, m->bytes);
    }
    *m = (struct mapping){NULL, 0};
}

/* What happened to the file: the disk's fault is not the user's. */
static int say_why(const struct mapped *entry, struct lh_err *err)
{
    struct stat st;

    if (stat(entry->path, &st) == 0 && (uint64_t)st.st_size >= entry->bytes)
        return lh_err_set(err, -EIO, "read '%s', which is mapped", entry->path);
    return lh_err_set(
        err, LH_EINPUT,
        "'%s' became shorter than the %zu bytes that it had when it was opened; inputs "
        "must not change while a job runs",
        entry->path, entry->bytes);
}

/* Raised by our own read of mapped memory, never in the midst of malloc or a lock: whatever the
 * callback does is as safe here as anywhere. */
static void on_bus_error(int sig, siginfo_t *info, void *context)
{
    const uint8_t *at = info->si_addr;
    const struct mapped *entry = all.first;
    struct lh_err err = {0};

    (void)context;
    while (entry && !(at >= entry->begin && at < entry->begin + entry->bytes))
        entry = entry->next;
    if (!entry) { /* not ours: it will be raised again and end us as usual */
        (void)signal(sig, SIG_DFL);
        return;
    }
    while (atomic_flag_test_and_set(&all.telling)) /* another thread's read failed, too */
        (void)pause();
    all.lost(say_why(entry, &err), &err);
    abort();
}

void mapping_watch(mapping_lost_fn *lost)
{
    struct sigaction act = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_NODEFER};

    all.lost = lost;
    (void)sigaction(SIGBUS, &act, NULL);
}
