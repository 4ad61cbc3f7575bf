/* fuzz_file.h - gives the bytes of a run to code that opens files: one folder a process, removed at
 * its end. */
#pragma once
#include "proto/base/fs.h"
#include "tests/fuzz/fuzz.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char fuzz_dir[64];

static inline void fuzz_dir_remove(void)
{
    FUZZ_ASSERT(lh_remove_tree(fuzz_dir, NULL) == 0);
}

/* The folder; made at the first call. */
static inline const char *fuzz_folder(void)
{
    if (!fuzz_dir[0]) {
        (void)snprintf(fuzz_dir, sizeof(fuzz_dir), "%s/longhaul-fuzz-XXXXXX",
                       access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
        FUZZ_ASSERT(mkdtemp(fuzz_dir));
        FUZZ_ASSERT(atexit(fuzz_dir_remove) == 0);
    }
    return fuzz_dir;
}

/* Writes the bytes as a file of that name in the folder; the path stays valid until the next call.
 */
static inline const char *fuzz_file(const char *name, const uint8_t *data, size_t size)
{
    static char path[128];
    FILE *f;

    (void)snprintf(path, sizeof(path), "%s/%s", fuzz_folder(), name);
    (void)unlink(path);
    f = fopen(path, "wxe");
    FUZZ_ASSERT(f);
    FUZZ_ASSERT(fwrite(data, 1, size, f) == size);
    FUZZ_ASSERT(fclose(f) == 0);
    return path;
}
