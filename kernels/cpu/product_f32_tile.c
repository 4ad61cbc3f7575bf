/* product_f32_tile.c - see product_f32_tile.h.
 *
 * In assembler: 24 sums, 3 vectors of b and the elements of a in turns fill the 32 registers, and
 * what GCC 12 makes of the same loop depends on its mood (175 to 205 GFLOP/s where this has 217 of
 * the 240 that the registers allow).
 */
#include "kernels/cpu/product_f32_tile.h"

/* X(arguments, row, register of a's element, the row's sums, address of c's row). Elements of a
 * take turns in registers, so that none waits for the one before. */
#define ROWS(X, u)                                                                                 \
    X(u, 0, 3, 8, 9, 10, "(%[c])")                                                                 \
    X(u, 1, 4, 11, 12, 13, "(%[c],%[ld])")                                                         \
    X(u, 2, 5, 14, 15, 16, "(%[c],%[ld],2)")                                                       \
    X(u, 3, 6, 17, 18, 19, "(%[c],%[ld3])")                                                        \
    X(u, 4, 7, 20, 21, 22, "(%[d])")                                                               \
    X(u, 5, 3, 23, 24, 25, "(%[d],%[ld])")                                                         \
    X(u, 6, 4, 26, 27, 28, "(%[d],%[ld],2)")                                                       \
    X(u, 7, 5, 29, 30, 31, "(%[d],%[ld3])")

#define Z(i) "%%zmm" #i
#define CLEAR(i) "vpxord " Z(i) "," Z(i) "," Z(i) "\n\t"
#define LOAD(at, i) "vmovups " at "(%[b])," Z(i) "\n\t"
#define ELEMENT(u, i, e) "vbroadcastss 32*" #u "+4*" #i "(%[a])," Z(e) "\n\t"
#define FMA(b, e, sum) "vfmadd231ps " Z(b) "," Z(e) "," Z(sum) "\n\t"
#define ADD(at, i, row) "vaddps " #at row "," Z(i) "," Z(i) "\n\t"
#define PUT(at, i, row) "vmovups " Z(i) "," #at row "\n\t"
#define FETCH(at, row) "prefetchw " #at row "\n\t"

#define FETCH_ROW(u, i, e, x, y, z, row) FETCH(0, row) FETCH(64, row) FETCH(128, row)

#define CLEAR_1(u, i, e, x, y, z, row) CLEAR(x)
#define CLEAR_2(u, i, e, x, y, z, row) CLEAR(x) CLEAR(y)
#define CLEAR_3(u, i, e, x, y, z, row) CLEAR(x) CLEAR(y) CLEAR(z)
#define FMA_1(u, i, e, x, y, z, row) ELEMENT(u, i, e) FMA(0, e, x)
#define FMA_2(u, i, e, x, y, z, row) ELEMENT(u, i, e) FMA(0, e, x) FMA(1, e, y)
#define FMA_3(u, i, e, x, y, z, row) ELEMENT(u, i, e) FMA(0, e, x) FMA(1, e, y) FMA(2, e, z)
#define ADD_1(u, i, e, x, y, z, row) ADD(0, x, row)
#define ADD_2(u, i, e, x, y, z, row) ADD(0, x, row) ADD(64, y, row)
#define ADD_3(u, i, e, x, y, z, row) ADD(0, x, row) ADD(64, y, row) ADD(128, z, row)
#define PUT_1(u, i, e, x, y, z, row) PUT(0, x, row)
#define PUT_2(u, i, e, x, y, z, row) PUT(0, x, row) PUT(64, y, row)
#define PUT_3(u, i, e, x, y, z, row) PUT(0, x, row) PUT(64, y, row) PUT(128, z, row)
#define LOAD_1(u) LOAD(#u "*64", 0)
#define LOAD_2(u) LOAD(#u "*128", 0) LOAD(#u "*128+64", 1)
#define LOAD_3(u) LOAD(#u "*192", 0) LOAD(#u "*192+64", 1) LOAD(#u "*192+128", 2)
#define STEP(v, u) LOAD_##v(u) ROWS(FMA_##v, u)

#define CLOBBERED                                                                                  \
    "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",        \
        "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18",   \
        "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28",  \
        "xmm29", "xmm30", "xmm31"

/* A round is four steps, so many bytes of a panel. c's lines are asked for while the sums are made.
 */
#define TILE(v, bytes)                                                                             \
    static void tile_##v(int64_t rounds, const float *a, const float *b, float *c, int64_t ldc,    \
                         bool add, struct f32_ahead ahead)                                         \
    {                                                                                              \
        __asm__ volatile(                                                                          \
            ROWS(FETCH_ROW, 0)                                                                     \
                ROWS(CLEAR_##v, 0) ".p2align 6\n"                                                  \
                                   "1:\n\t" STEP(v, 0) STEP(v, 1) STEP(v, 2)                       \
                                       STEP(v, 3) "prefetcht1 (%[ahead])\n\t"                      \
                                                  "add %[step], %[ahead]\n\t"                      \
                                                  "add $128, %[a]\n\t"                             \
                                                  "add $" #bytes ", %[b]\n\t"                      \
                                                  "dec %[n]\n\t"                                   \
                                                  "jnz 1b\n\t"                                     \
                                                  "test %[add], %[add]\n\t"                        \
                                                  "jz 2f\n\t" ROWS(ADD_##v, 0) "2:\n\t" ROWS(      \
                                                      PUT_##v, 0) "vzeroupper"                     \
            : [a] "+r"(a), [b] "+r"(b), [n] "+r"(rounds), [ahead] "+r"(ahead.p)                    \
            : [c] "r"(c), [d] "r"(c + 4 * ldc), [ld] "r"(4 * ldc), [ld3] "r"(12 * ldc),            \
              [add] "r"((int)add), [step] "r"(ahead.step)                                          \
            : CLOBBERED);                                                                          \
    }
TILE(1, 256)
TILE(2, 512)
TILE(3, 768)

void product_f32_tile(int vecs, int64_t steps, const float *strip, const float *panel, float *c,
                      int64_t ldc, bool add, struct f32_ahead ahead)
{
    if (vecs == 3)
        tile_3(steps / 4, strip, panel, c, ldc, add, ahead);
    else if (vecs == 2)
        tile_2(steps / 4, strip, panel, c, ldc, add, ahead);
    else
        tile_1(steps / 4, strip, panel, c, ldc, add, ahead);
}
