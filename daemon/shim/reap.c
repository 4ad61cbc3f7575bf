/* reap.c - see reap.h.
 *
 * One pass over /proc gives (pid, parent) of all processes; descendants are found from it by
 * repeated marking. A pid is opened as a pidfd and its parent is read again before the signal, so a
 * reused pid is never hit.
 */
#include "daemon/shim/reap.h"
#include "proto/base/clock.h"
#include <dirent.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PROCESSES_MAX 65536 /* of the whole machine; beyond, the rest is found in the next pass */

struct process {
    int pid, parent;
    bool ours, zombie;
};

/* Parent and state of a process; false when it is gone. */
static bool read_stat(int pid, struct process *p)
{
    char path[64], text[512];
    const char *after_name;
    char state;
    size_t n;
    FILE *f;

    (void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    f = fopen(path, "re");
    if (!f)
        return false;
    n = fread(text, 1, sizeof(text) - 1, f);
    (void)fclose(f);
    text[n] = '\0';
    after_name = strrchr(text, ')');
    if (!after_name || sscanf(after_name + 1, " %c %d", &state, &p->parent) != 2)
        return false;
    p->pid = pid;
    p->zombie = state == 'Z' || state == 'X';
    p->ours = false;
    return true;
}

static struct process *read_all(unsigned *ret_n)
{
    struct process *list = NULL, *more;
    unsigned n = 0, cap = 0;
    struct dirent *e;
    DIR *d = opendir("/proc");

    while (d && n < PROCESSES_MAX && (e = readdir(d))) {
        int pid = atoi(e->d_name);

        if (pid <= 0)
            continue;
        if (n == cap) {
            cap = cap ? cap * 2 : 256;
            more = realloc(list, cap * sizeof(*list));
            if (!more)
                break;
            list = more;
        }
        if (read_stat(pid, &list[n]))
            n++;
    }
    if (d)
        (void)closedir(d);
    *ret_n = n;
    return list;
}

static int compare_pid(const void *a, const void *b)
{
    return ((const struct process *)a)->pid - ((const struct process *)b)->pid;
}

static bool is_ours(const struct process *list, unsigned n, int pid, int self)
{
    const struct process key = {.pid = pid}, *found;

    if (pid == self)
        return true;
    found = bsearch(&key, list, n, sizeof(*list), compare_pid);
    return found && found->ours;
}

static void mark(struct process *list, unsigned n)
{
    int self = getpid();
    bool again = n > 0;

    if (n > 0)
        qsort(list, n, sizeof(*list), compare_pid);
    while (again) {
        again = false;
        for (unsigned i = 0; i < n; i++)
            if (!list[i].ours && is_ours(list, n, list[i].parent, self))
                again = list[i].ours = true;
    }
}

static bool is_shim(int pid)
{
    char path[64];
    struct stat theirs, mine;

    (void)snprintf(path, sizeof(path), "/proc/%d/exe", pid);
    return stat(path, &theirs) == 0 && stat("/proc/self/exe", &mine) == 0 &&
           theirs.st_ino == mine.st_ino && theirs.st_dev == mine.st_dev;
}

static void kill_one(const struct process *p)
{
    int fd = (int)syscall(SYS_pidfd_open, p->pid, 0);
    struct process now;

    if (fd < 0)
        return;
    if (read_stat(p->pid, &now) && now.parent == p->parent)
        (void)syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
    (void)close(fd);
}

static unsigned pass(bool kill, bool everything)
{
    unsigned n, left = 0;
    struct process *list = read_all(&n);

    mark(list, n);
    for (unsigned i = 0; i < n; i++) {
        if (!list[i].ours)
            continue;
        left++; /* a zombie counts until it is collected: it still has a pid that others may look at
                 */
        if (kill && !list[i].zombie && (everything || !is_shim(list[i].pid)))
            kill_one(&list[i]);
    }
    free(list);
    return left;
}

unsigned reap_kill(bool everything)
{
    return pass(true, everything);
}

unsigned reap_count(void)
{
    return pass(false, false);
}
