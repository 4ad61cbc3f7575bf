/* product_f32_tile.h - the inner part of product_f32.c: packed operands, and one tile of c.
 *
 * A tile is F32_ROWS rows and 1 to F32_VECS vectors of columns, all of its sums in registers. Each
 * step of K multiplies F32_ROWS elements of a strip with a row of a panel. Strips and panels are
 * always fp32, zeros where the operands end, and whole rounds of F32_STEPS steps.
 */
#pragma once
#include "kernels/tensor.h"
#include <stdbool.h>

#define F32_ROWS 8
#define F32_GROUP 32 /* rows that are packed together */
#define F32_VEC 16
#define F32_VECS 3
#define F32_COLS (F32_VEC * F32_VECS) /* of a panel; the last one of a matrix may be narrower */
#define F32_STEPS 8

static inline int64_t f32_up(int64_t n, int64_t of)
{
    return (n + of - 1) / of * of;
}

/* What will be packed next, asked for meanwhile: packing by itself would wait for memory, which
 * tiles leave idle. One line of cache from p on for every four steps of K, step bytes apart. */
struct f32_ahead {
    const char *p;
    int64_t step;
};

/* c (F32_ROWS rows of ldc) = or += strip times panel; steps: a multiple of F32_STEPS, not 0. */
void product_f32_tile(int vecs, int64_t steps, const float *strip, const float *panel, float *c,
                      int64_t ldc, bool add, struct f32_ahead ahead);

/* Rows [m, m + rows), rows <= F32_GROUP, and columns [k0, k1) of op(a), times alpha, as strips:
 * [k][F32_ROWS] each, ld elements from one to the next. ta: a is stored transposed. */
void product_f32_pack_a(float *to, int64_t ld, struct kn_mat a, bool ta, int64_t m, int64_t rows,
                        int64_t k0, int64_t k1, float alpha);

/* Columns [n, n + cols), cols <= F32_COLS, and rows [k0, k1) of op(b) as a panel: [k][vectors that
 * hold cols]. tb: b is stored transposed. */
void product_f32_pack_b(float *to, struct kn_mat b, bool tb, int64_t n, int64_t cols, int64_t k0,
                        int64_t k1);
