/* machine.c - the instruction set and the libraries that a run computes with, as they are in this
 * process.
 *
 * Bits are promised for one instruction set and one set of libraries; a checkpoint says which ones
 * made it. Names of libraries come from the loader, so they tell what is really loaded and not what
 * was compiled against.
 */
#include "worker/ckpt/layout.h"
#include <gnu/libc-version.h>
#include <limits.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#else
#include <sys/utsname.h>
#endif

/* Appends a word and, between words, a blank. */
static void word(char *list, size_t cap, const char *text)
{
    size_t used = strlen(list);

    (void)snprintf(list + used, cap - used, "%s%s", used ? " " : "", text);
}

static void cpu_name(char ret_name[static 128])
{
    FILE *f = fopen("/proc/cpuinfo", "re");
    char line[256];

    (void)snprintf(ret_name, 128, "unknown");
    if (!f)
        return;
    while (fgets(line, sizeof(line), f))
        if (sscanf(line, "model name : %127[^\n]", ret_name) == 1)
            break;
    (void)fclose(f);
}

static void isa_names(char ret_names[static 256])
{
    *ret_names = '\0';
#if defined(__x86_64__)
    static const struct {
        const char *name;
        unsigned leaf, subleaf, reg, bit; /* reg: 0 eax, 1 ebx, 2 ecx, 3 edx */
    } features[] = {
        {"sse4_2", 1, 0, 2, 20},   {"fma", 1, 0, 2, 12},         {"avx2", 7, 0, 1, 5},
        {"avx512f", 7, 0, 1, 16},  {"avx512_vnni", 7, 0, 2, 11}, {"avx512_bf16", 7, 1, 0, 5},
        {"amx_bf16", 7, 0, 3, 22}, {"avx512_fp16", 7, 0, 3, 23},
    };
    for (size_t i = 0; i < LH_ARRAY_LEN(features); i++) {
        unsigned reg[4] = {0};

        if (__get_cpuid_count(features[i].leaf, features[i].subleaf, &reg[0], &reg[1], &reg[2],
                              &reg[3]) &&
            (reg[features[i].reg] >> features[i].bit & 1))
            word(ret_names, 256, features[i].name);
    }
#else
    struct utsname machine;

    if (uname(&machine) == 0)
        word(ret_names, 256, machine.machine);
#endif
}

static int library_add(struct dl_phdr_info *info, size_t size, void *arg)
{
    static const char *const wanted[] = {"libdnnl", "libmpi.", "libgomp", "libcuda", "libcublas"};
    char path[PATH_MAX];
    const char *name;

    (void)size;
    if (!info->dlpi_name || !realpath(info->dlpi_name, path))
        return 0;
    name = strrchr(path, '/') + 1;
    for (size_t i = 0; i < LH_ARRAY_LEN(wanted); i++)
        if (strncmp(name, wanted[i], strlen(wanted[i])) == 0)
            word(arg, 512, name);
    return 0;
}

json_t *ckpt_machine_json(void)
{
    char cpu[128], isa[256], libraries[512] = "";

    cpu_name(cpu);
    isa_names(isa);
    (void)dl_iterate_phdr(library_add, libraries);
    /* libc and libm carry no version in their names. */
    word(libraries, sizeof(libraries), "glibc-");
    (void)snprintf(libraries + strlen(libraries), sizeof(libraries) - strlen(libraries), "%s",
                   gnu_get_libc_version());
    return json_pack("{s:s, s:s, s:s, s:s, s:s}", "cpu", cpu, "isa", isa, "library", libraries,
                     "compiler", __VERSION__, "longhaul", LH_VERSION);
}
