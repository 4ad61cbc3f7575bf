/* split.h - numbers of fp32 as sums of three of bf16, so that tile registers multiply fp32.
 *
 * x = x0 + x1 + x2: x0 is x rounded to the 8 bits of a bf16, x1 the rest rounded likewise, x2 what
 * is left then. The three hold the 24 bits of x, so nothing is lost (below 2^-110 in magnitude x2
 * may be a denormal, which tile registers take for 0). Of the nine products of two such sums six
 * are made, those of parts i and j with i + j <= 2: what is left out is at most 2^-24 of |x y|, no
 * more than one fp32 product is rounded by. All is summed in fp32, so a product of matrices is as
 * exact as one of fp32 instructions. (Henry, Tang and Heinecke: Leveraging the bfloat16 Artificial
 * Intelligence Datatype For Higher-Precision Computations, ARITH 2019.)
 *
 * NaN stays NaN. Infinity, and what rounds to it in bf16 (above 3.39e38), becomes NaN in a product.
 *
 * Storage, everywhere: 32 elements, one step of K, are three runs of 32 bf16, one a part; so an
 * element takes SPLIT_BYTES. Included by files with AVX-512 only.
 */
#pragma once
#include "kernels/cpu/vec.h"

#define SPLIT_PARTS 3
#define SPLIT_BYTES (2 * SPLIT_PARTS)

#ifdef __AVX512BW__
/* Part i of lane l in the upper half of lane l of ret[i]. The lower half is 0, but for a denormal
 * part 2. Ties are rounded up in magnitude: what is left is exact either way. */
VEC_INLINE void split_lanes(vf x, vu ret[SPLIT_PARTS])
{
    for (int i = 0; i < SPLIT_PARTS - 1; i++) {
        ret[i] = ((vu)x + 0x8000u) & 0xffff0000u;
        x -= (vf)ret[i];
    }
    ret[SPLIT_PARTS - 1] = (vu)x;
}

/* A row of 32 elements, x and then y, as rows of 32 parts. */
VEC_INLINE void split_row(vf x, vf y, vu ret[SPLIT_PARTS])
{
    static const uint16_t upper[32] __attribute__((aligned(64))) = {
        1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
        33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    vu left[SPLIT_PARTS], right[SPLIT_PARTS];

    split_lanes(x, left);
    split_lanes(y, right);
    for (int i = 0; i < SPLIT_PARTS; i++)
        ret[i] = (vu)_mm512_permutex2var_epi16((__m512i)left[i], _mm512_load_si512(upper),
                                               (__m512i)right[i]);
}

/* Parts of two rows side by side, lane by lane: pairs, even below odd. */
VEC_INLINE void split_join(const vu even[SPLIT_PARTS], const vu odd[SPLIT_PARTS],
                           vu ret[SPLIT_PARTS])
{
    for (int i = 0; i < SPLIT_PARTS; i++)
        ret[i] =
            (vu)_mm512_mask_blend_epi16(0xaaaaaaaau, (__m512i)(even[i] >> 16), (__m512i)odd[i]);
}

/* Two rows as pairs of their parts. */
VEC_INLINE void split_pairs(vf even, vf odd, vu ret[SPLIT_PARTS])
{
    vu lower[SPLIT_PARTS], upper[SPLIT_PARTS];

    split_lanes(even, lower);
    split_lanes(odd, upper);
    split_join(lower, upper, ret);
}
#endif
