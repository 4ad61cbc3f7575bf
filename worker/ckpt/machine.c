/* machine.c - the instruction set and the libraries that a run computes with, as they are in this process.
 *
 * Bits are promised for one instruction set and one set of libraries; a checkpoint says which ones made it. Names of
 * libraries come from the loader, so they tell what is really loaded and not what was compiled against.
 */
#include "worker/ckpt/layout.h"
#include <limits.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

static json_t *isa_json(void)
{
    json_t *list = json_array();

#if defined(__x86_64__)
    static const struct {
        const char *name;
        unsigned leaf, subleaf, reg, bit; /* reg: 0 eax, 1 ebx, 2 ecx, 3 edx */
    } features[] = {
        {"sse4_2", 1, 0, 2, 20},       {"fma", 1, 0, 2, 12},          {"avx2", 7, 0, 1, 5},
        {"avx512f", 7, 0, 1, 16},      {"avx512_vnni", 7, 0, 2, 11},  {"avx512_bf16", 7, 1, 0, 5},
        {"amx_bf16", 7, 0, 3, 22},     {"avx512_fp16", 7, 0, 3, 23},
    };
    for (size_t i = 0; i < LH_ARRAY_LEN(features); i++) {
        unsigned reg[4] = {0};

        if (__get_cpuid_count(features[i].leaf, features[i].subleaf, &reg[0], &reg[1], &reg[2], &reg[3]) &&
            (reg[features[i].reg] >> features[i].bit & 1))
            json_array_append_new(list, json_string(features[i].name));
    }
#elif defined(__aarch64__)
    json_array_append_new(list, json_string("aarch64"));
#endif
    return list;
}

static int library_add(struct dl_phdr_info *info, size_t size, void *arg)
{
    static const char *const wanted[] = {"libdnnl", "libmpi.", "libc.", "libm.", "libgomp", "libcuda", "libcublas"};
    char path[PATH_MAX];
    const char *name;

    (void)size;
    if (!info->dlpi_name || !realpath(info->dlpi_name, path))
        return 0;
    name = strrchr(path, '/') + 1;
    for (size_t i = 0; i < LH_ARRAY_LEN(wanted); i++)
        if (strncmp(name, wanted[i], strlen(wanted[i])) == 0)
            json_array_append_new(arg, json_string(name));
    return 0;
}

json_t *ckpt_machine_json(void)
{
    json_t *libraries = json_array();

    if (libraries)
        (void)dl_iterate_phdr(library_add, libraries);
    return json_pack("{s:o, s:o, s:s, s:s}", "isa", isa_json(), "libraries", libraries, "compiler", __VERSION__,
                     "longhaul", LH_VERSION);
}
