/* replay.c - runs a fuzz target once over each file of a folder, where the compiler has no fuzzer:
 * what was once found stays found. Exit 1 when there is no file.
 */
#include "proto/base/fs.h"
#include "tests/fuzz/fuzz.h"
#include <dirent.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    struct dirent *entry;
    char path[4096], *data;
    size_t len;
    int n = 0;
    DIR *d = argc == 2 ? opendir(argv[1]) : NULL;

    if (!d) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    while ((entry = readdir(d))) {
        (void)snprintf(path, sizeof(path), "%s/%s", argv[1], entry->d_name);
        if (entry->d_name[0] == '.' || lh_read_file(path, 1 << 20, &data, &len, NULL) < 0)
            continue;
        (void)LLVMFuzzerTestOneInput((const uint8_t *)data, len);
        free(data);
        n++;
    }
    (void)closedir(d);
    printf("%d files\n", n);
    return n > 0 ? 0 : 1;
}
