/* fuzz_manifest.c - any bytes as a manifest: refused, or every name stays inside its directory. */
#include "proto/manifest.h"
#include "tests/fuzz/fuzz.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lh_manifest m;
    uint64_t bytes = 0;

    if (lh_manifest_parse((const char *)data, size, "fuzz", &m, NULL) < 0)
        return 0;
    for (unsigned i = 0; i < m.n_files; i++) {
        const char *name = m.files[i].name;

        FUZZ_ASSERT(name[0] && name[0] != '/' && !strstr(name, "//"));
        FUZZ_ASSERT(strcmp(name, "..") != 0 && strncmp(name, "../", 3) != 0 &&
                    !strstr(name, "/../"));
        FUZZ_ASSERT(strlen(name) < 3 || strcmp(name + strlen(name) - 3, "/..") != 0);
        FUZZ_ASSERT(strlen(m.files[i].sha256) == 64);
        bytes += m.files[i].bytes;
    }
    FUZZ_ASSERT(bytes == m.bytes);
    lh_manifest_release(&m);
    return 0;
}
