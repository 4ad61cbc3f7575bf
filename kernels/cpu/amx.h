/* amx.h - tile registers: their set-up, and one step of K of a block of 32 x 32 sums.
 *
 * Eight registers of 16 rows of 64 bytes. 0 to 3 are the sums (rows 0-15: 0 and 1, rows 16-31: 2
 * and 3), 4 and 5 hold 16 rows of a each, 6 and 7 16 columns of b each, so that each load is used
 * twice. A row of a is 32 bf16; a row of b is 16 pairs (b[2k][n], b[2k + 1][n]). Included by files
 * that run only where there are tile registers; begin and end stand around all use of them, on each
 * thread.
 */
#pragma once
#include "kernels/cpu/split.h"
#include <immintrin.h>
#include <stdbool.h>

#define AMX_STEP 32  /* rows and columns of a block, elements of K in one step */
#define AMX_TILE 512 /* elements of one tile register */
#define AMX_INLINE VEC_INLINE __attribute__((target("amx-tile,amx-bf16")))

struct amx_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

AMX_INLINE void amx_begin(void)
{
    /* Constant: the intrinsic tells the compiler of the first 8 bytes only, and stores to others
     * could be dropped. */
    static const struct amx_config config = {.palette = 1,
                                             .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
                                             .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

    _tile_loadconfig(&config);
}

AMX_INLINE void amx_end(void)
{
    _tile_release();
}

/* Sums += a b. low, right: are there more than 16 rows, columns? lda: elements from row to row; b:
 * two tiles of 16 columns, one behind the other. */
AMX_INLINE void amx_step(bool low, bool right, const uint16_t *a, int64_t lda, const uint16_t *b)
{
    _tile_loadd(6, b, 64);
    _tile_loadd(4, a, lda * 2);
    _tile_dpbf16ps(0, 4, 6);
    if (right) {
        _tile_loadd(7, b + AMX_TILE, 64);
        _tile_dpbf16ps(1, 4, 7);
    }
    if (low) {
        _tile_loadd(5, a + 16 * lda, lda * 2);
        _tile_dpbf16ps(2, 5, 6);
        if (right)
            _tile_dpbf16ps(3, 5, 7);
    }
}

/* One of a step's products. new_a, new_b: which of the two are not those of the product before. */
AMX_INLINE void amx_pair(bool new_a, bool new_b, bool low, bool right, const uint16_t *a,
                         int64_t lda, const uint16_t *b)
{
    if (new_b)
        _tile_loadd(6, b, 64);
    if (new_a)
        _tile_loadd(4, a, lda * 2);
    _tile_dpbf16ps(0, 4, 6);
    if (new_a && low)
        _tile_loadd(5, a + 16 * lda, lda * 2);
    if (low)
        _tile_dpbf16ps(2, 5, 6);
    if (new_b && right)
        _tile_loadd(7, b + AMX_TILE, 64);
    if (right)
        _tile_dpbf16ps(1, 4, 7);
    if (low && right)
        _tile_dpbf16ps(3, 5, 7);
}

/* The same of fp32 in parts (split.h), a_part and b_part elements from one part to the next: in an
 * order in which each product keeps an operand of the one before, and the greatest comes last: 1 *
 * x is x then. */
AMX_INLINE void amx_step_parts(bool low, bool right, const uint16_t *a, int64_t lda, int64_t a_part,
                               const uint16_t *b, int64_t b_part)
{
    amx_pair(true, true, low, right, a + 2 * a_part, lda, b);
    amx_pair(true, false, low, right, a + a_part, lda, b);
    amx_pair(false, true, low, right, a + a_part, lda, b + b_part);
    amx_pair(true, false, low, right, a, lda, b + b_part);
    amx_pair(false, true, low, right, a, lda, b + 2 * b_part);
    amx_pair(false, true, low, right, a, lda, b);
}
