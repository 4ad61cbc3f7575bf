/* peak.c - what one core's registers allow, the measure that products are held against, and how
 * attention compares with them.
 *
 * Each probe runs one instruction on registers (or tiles) alone, enough independent sums to hide
 * its latency, for some milliseconds of this thread's processor time; the best of a few rounds
 * counts, because other programs only ever take something away. In assembler: a compiler sees that
 * nothing is done with the sums.
 */
#include "kernels/cpu/isa.h"
#include "kernels/profile.h"
#include "proto/base/attr.h"
#include <time.h>

#ifdef __x86_64__
#define ROUNDS 200000 /* 1 to 5 ms a probe */
#define REPEATS 7
#define TILE_REPEATS 30 /* tile registers take some 20 ms to come up to speed */

static double thread_seconds(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Twelve sums: latency 4 on two ports, or 6 on two, are hidden. kind: of the register's name. */
#define SUM(op, kind, i) #op " %%" #kind "12, %%" #kind "13, %%" #kind #i "\n\t"
#define SUMS(op, kind)                                                                             \
    SUM(op, kind, 0)                                                                               \
    SUM(op, kind, 1)                                                                               \
    SUM(op, kind, 2)                                                                               \
    SUM(op, kind, 3)                                                                               \
    SUM(op, kind, 4)                                                                               \
    SUM(op, kind, 5)                                                                               \
    SUM(op, kind, 6)                                                                               \
    SUM(op, kind, 7) SUM(op, kind, 8) SUM(op, kind, 9) SUM(op, kind, 10) SUM(op, kind, 11)
#define PROBE(name, op, kind)                                                                      \
    static void name(void)                                                                         \
    {                                                                                              \
        int64_t n = ROUNDS;                                                                        \
        const float x = 0x1.807e8p-1f; /* as bits two bf16 of 0.75 */                              \
                                                                                                   \
        __asm__ volatile("vbroadcastss %1, %%" #kind "12\n\t"                                      \
                         "vmovaps %%" #kind "12, %%" #kind "13\n"                                  \
                         "1:\n\t" SUMS(op, kind) "dec %0\n\t"                                      \
                                                 "jnz 1b\n\t"                                      \
                                                 "vzeroupper"                                      \
                         : "+r"(n)                                                                 \
                         : "m"(x)                                                                  \
                         : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",   \
                           "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13");                    \
    }
PROBE(fma_ymm, vfmadd231ps, ymm)
PROBE(fma_zmm, vfmadd231ps, zmm)
PROBE(pairs_zmm, vdpbf16ps, zmm)

/* Two by two tiles of sums, as a product uses them. */
static void tiles(void)
{
    struct {
        uint8_t palette, start_row, zero[14];
        uint16_t cols_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    static const uint32_t ones[16 * 16] = {[0 ... 255] = 0x3f803f80};
    int64_t n = ROUNDS / 4, stride = 64;

    for (int i = 0; i < 8; i++) {
        config.cols_bytes[i] = 64;
        config.rows[i] = 16;
    }
    __asm__ volatile("ldtilecfg %1\n\t"
                     "tilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\ttilezero %%tmm3\n\t"
                     "tileloadd (%2,%3), %%tmm4\n\ttileloadd (%2,%3), %%tmm5\n\t"
                     "tileloadd (%2,%3), %%tmm6\n\ttileloadd (%2,%3), %%tmm7\n"
                     "1:\n\t"
                     "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n\ttdpbf16ps %%tmm7, %%tmm4, %%tmm1\n\t"
                     "tdpbf16ps %%tmm6, %%tmm5, %%tmm2\n\ttdpbf16ps %%tmm7, %%tmm5, %%tmm3\n\t"
                     "dec %0\n\t"
                     "jnz 1b\n\t"
                     "tilerelease"
                     : "+r"(n)
                     : "m"(config), "r"(ones), "r"(stride)
                     : "cc", "memory");
}

static double rate(void (*probe)(void), int repeats, double flop)
{
    double best = 0;

    for (int i = 0; i < repeats; i++) {
        double s = thread_seconds();

        probe();
        s = thread_seconds() - s;
        best = s > 0 ? LH_MAX(best, flop / s) : best;
    }
    return best;
}

double kn_cpu_peak(enum kn_dtype t)
{
    enum cpu_isa isa = cpu_isa_detect();
    double sums = (double)ROUNDS * 12, best = 0;

    /* Products of bf16 may be made in fp32, and those of fp32 in bf16: what is fastest is the peak.
     */
    if (isa >= CPU_AVX2)
        best = rate(fma_ymm, REPEATS, sums * 8 * 2);
    if (isa >= CPU_AVX512)
        best = LH_MAX(best, rate(fma_zmm, REPEATS, sums * 16 * 2));
    if (isa >= CPU_AVX512_BF16 && t == KN_BF16)
        best = LH_MAX(best, rate(pairs_zmm, REPEATS, sums * 32 * 2));
    if (isa >= CPU_AMX) /* one product of fp32 is made of six (split.h) */
        best = LH_MAX(best, rate(tiles, TILE_REPEATS, (double)(ROUNDS / 4) * 4 * 16 * 16 * 32 * 2) /
                                (t == KN_F32 ? 6 : 1));
    return best;
}
#else
double kn_cpu_peak(enum kn_dtype t)
{
    (void)t;
    return 0;
}
#endif

double kn_cpu_attention_weight(enum kn_dtype t)
{
    /* GFLOP/s a core of the products of SmolLM2-135M's layers over those of its attention, S2 and
     * dense in 2048 tokens, on a processor with tiles that was held to each level (oneDNN too):
     * bf16 27/20, 77/63, 194/140, 1650/590; fp32 28/18, 89/58, 192/140, 325/185. Pairs of bf16 are
     * not worth using there; their weight is that of an AMD's products and a prototype of
     * attention, 195/135.
     */
    static const double weight[][2] = {
        [CPU_BASE] = {1.5, 1.4},        [CPU_AVX2] = {1.5, 1.2}, [CPU_AVX512] = {1.4, 1.4},
        [CPU_AVX512_BF16] = {1.4, 1.4}, [CPU_AMX] = {1.8, 2.8},
    };

    return weight[cpu_isa_detect()][t == KN_BF16];
}
