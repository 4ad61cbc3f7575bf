/* cgroup.c - see cgroup.h. No controller is switched on: the cgroup is there to find and kill what
 * is in it (cgroup.kill). */
#include "daemon/node/cgroup.h"
#include <errno.h>
#include <inttypes.h>
#include <mntent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Where cgroup v2 is mounted; on hybrid systems not at /sys/fs/cgroup. */
static bool mount_point(char *buf, size_t cap)
{
    FILE *f = setmntent("/proc/self/mounts", "re");
    struct mntent entry;
    char line[4096];
    bool found = false;

    while (f && !found && getmntent_r(f, &entry, line, sizeof(line)))
        if (strcmp(entry.mnt_type, "cgroup2") == 0)
            found = snprintf(buf, cap, "%s", entry.mnt_dir) < (int)cap;
    if (f)
        (void)endmntent(f);
    return found;
}

static bool own_path(char *buf, size_t cap)
{
    FILE *f = fopen("/proc/self/cgroup", "re");
    char line[2048];
    bool found = false;

    while (f && !found && fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "0::", 3) == 0)
            found = snprintf(buf, cap, "%s", strcmp(line + 3, "/") == 0 ? "" : line + 3) < (int)cap;
    }
    if (f)
        (void)fclose(f);
    return found;
}

bool cgroup_make(const char *job, uint64_t attempt, char *buf, size_t cap)
{
    char mount[512], own[1500], kill[2600];

    if (!mount_point(mount, sizeof(mount)) || !own_path(own, sizeof(own)))
        return false;
    if (snprintf(buf, cap, "%s%s/longhaul-%s-%" PRIu64, mount, own, job, attempt) >= (int)cap)
        return false;
    (void)cgroup_remove(buf); /* of the same attempt, when its state was lost */
    if (mkdir(buf, 0755) < 0)
        return false;
    (void)snprintf(kill, sizeof(kill), "%s/cgroup.kill",
                   buf); /* since Linux 5.14: without it nothing is gained */
    if (access(kill, W_OK) == 0)
        return true;
    (void)rmdir(buf);
    return false;
}

bool cgroup_remove(const char *path)
{
    char job[1200];

    if (!path[0])
        return true;
    (void)snprintf(job, sizeof(job), "%.1100s/job", path);
    (void)rmdir(job);
    return rmdir(path) == 0 || errno == ENOENT;
}
