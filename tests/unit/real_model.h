/* real_model.h - where the real model and the goldens lie, for tests that use them when they are
 * there. */
#pragma once
#include "tests/unit/unit.h"

/* $LONGHAUL_GGUF, else the file in the user's cache; NULL, with a message, when it is absent. */
static inline LH_UNUSED const char *real_model(void)
{
    static char path[1024];
    const char *given = getenv("LONGHAUL_GGUF"), *home = getenv("HOME");

    (void)snprintf(path, sizeof(path), "%s%s",
                   given  ? given
                   : home ? home
                          : "",
                   given ? "" : "/.cache/longhaul/models/SmolLM2-135M-Instruct.Q4_1.gguf");
    if (lh_path_exists(path))
        return path;
    print_message("[  note    ] skipped: no '%s' (LONGHAUL_GGUF)\n", path);
    return NULL;
}

/* The file below $LONGHAUL_GOLDEN, else below ../shared/golden of the sources; NULL as above. */
static inline LH_UNUSED const char *golden_file(const char *name)
{
    static char path[1024];
    const char *given = getenv("LONGHAUL_GOLDEN");

    (void)snprintf(path, sizeof(path), "%s/%s", given ? given : LH_SOURCE_DIR "/../shared/golden",
                   name);
    if (lh_path_exists(path))
        return path;
    print_message("[  note    ] skipped: no '%s' (LONGHAUL_GOLDEN)\n", path);
    return NULL;
}
