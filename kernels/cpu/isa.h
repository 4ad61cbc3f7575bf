/* isa.h - what the processor can do, found once per stream.
 *
 * LONGHAUL_CPU_ISA (base, avx2, avx512, avx512_bf16, amx) lowers the level, never raises it: for
 * tests of the lower paths on a machine that has more.
 */
#pragma once

/* Levels are what is worth using: each includes those before it. */
enum cpu_isa {
    CPU_BASE,
    CPU_AVX2,        /* with FMA */
    CPU_AVX512,      /* F, BW, VL, DQ */
    CPU_AVX512_BF16, /* products of bf16 pairs */
    CPU_AMX,         /* bf16 tiles, allowed to this process by the kernel */
};

enum cpu_isa cpu_isa_detect(void);
const char *cpu_isa_name(enum cpu_isa isa);
