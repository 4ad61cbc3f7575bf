/* newest.c - which checkpoints are there: names, completeness, the newest. */
#include "proto/base/str.h"
#include "worker/ckpt/layout.h"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

int64_t ckpt_step_of(const char *name)
{
    int64_t step;

    if (strncmp(name, "step-", 5) != 0 || strlen(name) < 13 ||
        !lh_parse_i64(name + 5, 0, INT64_MAX, &step))
        return -1;
    return step;
}

int ckpt_newest(const char *dir, char ret_path[static 1024], struct lh_err *reterr)
{
    struct lh_manifest manifest;
    int64_t newest = -1, step;
    struct dirent *entry;
    char path[1024];
    DIR *d = opendir(dir);

    if (!d)
        return lh_err_set(reterr, -errno, "open checkpoints in '%s'", dir);
    while ((entry = readdir(d))) {
        step = ckpt_step_of(entry->d_name);
        if (step <= newest ||
            snprintf(path, sizeof(path), "%s/%s", dir, entry->d_name) >= (int)sizeof(path) ||
            lh_manifest_read(path, &manifest, NULL) < 0)
            continue;
        lh_manifest_release(&manifest);
        newest = step;
        (void)snprintf(ret_path, 1024, "%s", path);
    }
    (void)closedir(d);
    if (newest < 0)
        return lh_err_set(reterr, LH_EINPUT,
                          "'%s' holds no complete checkpoint (a step-* directory with a %s)", dir,
                          LH_MANIFEST_NAME);
    return 0;
}
