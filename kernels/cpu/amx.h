/* amx.h - tile registers: their set-up, and one step of K of a block of 32 x 32 sums.
 *
 * Eight registers of 16 rows of 64 bytes. 0 to 3 are the sums (rows 0-15: 0 and 1, rows 16-31: 2
 * and 3), 4 and 5 hold 16 rows of a each, 6 and 7 16 columns of b each, so that each load is used
 * twice. A row of a is 32 bf16; a row of b is 16 pairs, (b[2k][n], b[2k + 1][n]) where a's elements
 * lie in their order. Included by files
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

/* 32 rows of a or 32 columns of b in one step of K: register row r of the first 16 is at p + r *
 * ld, the second 16 are `second` elements on; part: elements to the next part (split.h), if any. */
struct amx_operand {
    const uint16_t *p;
    int64_t ld, second, part;
};

/* Sums += a b. low, right: are there more than 16 rows, columns? */
AMX_INLINE void amx_step(bool low, bool right, struct amx_operand a, struct amx_operand b)
{
    _tile_loadd(6, b.p, b.ld * 2);
    _tile_loadd(4, a.p, a.ld * 2);
    _tile_dpbf16ps(0, 4, 6);
    if (right) {
        _tile_loadd(7, b.p + b.second, b.ld * 2);
        _tile_dpbf16ps(1, 4, 7);
    }
    if (low) {
        _tile_loadd(5, a.p + a.second, a.ld * 2);
        _tile_dpbf16ps(2, 5, 6);
        if (right)
            _tile_dpbf16ps(3, 5, 7);
    }
}

/* The product of parts i of a and k of b. new_a, new_b: which of them are not those of the product
 * before. */
AMX_INLINE void amx_pair(bool new_a, bool new_b, bool low, bool right, struct amx_operand a,
                         int64_t i, struct amx_operand b, int64_t k)
{
    const uint16_t *rows = a.p + i * a.part, *cols = b.p + k * b.part;

    if (new_b)
        _tile_loadd(6, cols, b.ld * 2);
    if (new_a)
        _tile_loadd(4, rows, a.ld * 2);
    _tile_dpbf16ps(0, 4, 6);
    if (new_a && low)
        _tile_loadd(5, rows + a.second, a.ld * 2);
    if (low)
        _tile_dpbf16ps(2, 5, 6);
    if (new_b && right)
        _tile_loadd(7, cols + b.second, b.ld * 2);
    if (right)
        _tile_dpbf16ps(1, 4, 7);
    if (low && right)
        _tile_dpbf16ps(3, 5, 7);
}

/* Sums += a b of fp32 in parts: in an order in which each product keeps an operand of the one
 * before, so that 14 tiles are loaded for 24 products, and the greatest comes last: 1 * x is x
 * then. */
AMX_INLINE void amx_step_parts(bool low, bool right, struct amx_operand a, struct amx_operand b)
{
    amx_pair(true, true, low, right, a, 2, b, 0);
    amx_pair(true, false, low, right, a, 1, b, 0);
    amx_pair(false, true, low, right, a, 1, b, 1);
    amx_pair(true, false, low, right, a, 0, b, 1);
    amx_pair(false, true, low, right, a, 0, b, 2);
    amx_pair(false, true, low, right, a, 0, b, 0);
}

/* The sums become zero, or those at c: 32 rows of ld floats. */
AMX_INLINE void amx_sums(bool low, bool right, const float *c, int64_t ld)
{
    if (!c) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        return;
    }
    _tile_loadd(0, c, ld * 4);
    if (right)
        _tile_loadd(1, c + 16, ld * 4);
    if (low)
        _tile_loadd(2, c + 16 * ld, ld * 4);
    if (low && right)
        _tile_loadd(3, c + 16 * ld + 16, ld * 4);
}

/* And go there. */
AMX_INLINE void amx_store(bool low, bool right, float *c, int64_t ld)
{
    _tile_stored(0, c, ld * 4);
    if (right)
        _tile_stored(1, c + 16, ld * 4);
    if (low)
        _tile_stored(2, c + 16 * ld, ld * 4);
    if (low && right)
        _tile_stored(3, c + 16 * ld + 16, ld * 4);
}
