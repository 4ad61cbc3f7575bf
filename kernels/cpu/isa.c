/* isa.c - finds the processor's vector level; see isa.h. */
#include "kernels/cpu/isa.h"
#include "proto/base/attr.h"
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_REQ_XCOMP_PERM                                                                        \
    0x1023 /* asm/prctl.h of Linux 5.16, newer than Debian 12's libc headers name it */
#define XFEATURE_XTILEDATA 18

static const char *const isa_names[] = {"base", "avx2", "avx512", "avx512_bf16", "amx"};

const char *cpu_isa_name(enum cpu_isa isa)
{
    return isa_names[isa];
}

#ifdef __x86_64__
static enum cpu_isa isa_hardware(void)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return CPU_BASE;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return CPU_AVX2;
    if (!__builtin_cpu_supports("avx512bf16"))
        return CPU_AVX512;
    /* The kernel hands out the tile state on request; the permission holds for the whole process.
     */
    if (__builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
        syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0)
        return CPU_AMX;
    /* Without tiles Intel's cores do pairs of bf16 at half the rate of fp32 (86 against 175 GFLOP/s
     * measured), AMD's at twice the rate (228 against 114). */
    return __builtin_cpu_is("intel") ? CPU_AVX512 : CPU_AVX512_BF16;
}
#else
static enum cpu_isa isa_hardware(void)
{
    return CPU_BASE;
}
#endif

enum cpu_isa cpu_isa_detect(void)
{
    enum cpu_isa isa = isa_hardware();
    const char *limit = getenv("LONGHAUL_CPU_ISA");

    for (unsigned i = 0; limit && i < LH_ARRAY_LEN(isa_names); i++)
        if (strcmp(limit, isa_names[i]) == 0 && i < (unsigned)isa)
            isa = (enum cpu_isa)i;
    return isa;
}
