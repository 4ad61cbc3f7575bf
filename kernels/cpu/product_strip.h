/* product_strip.h - the inner part of product_amx.c: one strip of 32 rows against a block of
 * columns.
 *
 * c is made of blocks of 32 x 32, four tile registers of sums, two for a and two for b. K is cut so
 * that a strip's part of a stays in L1 while the panels stream by. Sums wait in fp32 between the
 * cuts and become elements of c once, at the end. The low-rank part of a product is one more step
 * of K: z of the strip is made first, from the same rows of a.
 */
#pragma once
#include "kernels/cpu/product_amx.h"
#include "kernels/cpu/product_pack.h"

struct product {
    struct kn_stream *s;
    struct kn_mat c, a, b;
    bool ta, tb, flip; /* flip: c is stored transposed */
    float alpha, beta;
    int64_t M, N, K;
    int64_t cols;   /* of a block of columns, whole panels */
    int64_t slices; /* of K, of a c with one strip; 0 for others */

    /* The chunk at work. */
    int64_t m0, m1, n0, n1, k0, k1;
    uint16_t *packed;
    uint16_t *rows; /* strips of the chunk's K, packed, or NULL: a is read as it is stored */
    /* (rows, columns) of the chunk in whole strips and panels, or NULL: K is one chunk. */
    float *sums;
    int64_t ld_sums, k0_sums; /* the first of K that they hold */

    struct product_low *low; /* or NULL */
};

/* A strip's rows as tile registers load them: row r of step k of K is at p + k * step + r * ld. */
struct product_rows {
    const uint16_t *p;
    int64_t ld, step;
};

/* What multiplies now: a strip's rows from k0 on against panels from n0 on. */
struct product_part {
    struct product_rows a;
    const uint16_t *packed;
    int64_t m, n0, n1, k0, k1;
    const char *ahead; /* memory that will be needed after this strip, or NULL: asked for */
};

static inline int64_t product_up(int64_t n)
{
    return (n + AMX_STEP - 1) / AMX_STEP * AMX_STEP;
}

/* One strip against the panels of a block of columns, all of the chunk's K. room: 32 rows of fp32
 * for the block's columns and 64 more. low: the strip's z as one step of K, or NULL. */
void product_strip(const struct product *j, const struct product_part *p, float *room,
                   const uint16_t *low);

/* Makes z of a strip: as one step of K for product_strip, and, when keep, as rows of the matrix z.
 * room: 32 x 32 floats. */
void product_low_strip(const struct product *j, const struct product_part *p, bool keep,
                       float *room, uint16_t *ret_low);

/* c of the block at (m, n) = alpha * sums + beta * c. */
void product_finish(const struct product *j, int64_t m, int64_t n, const float *sums, int64_t ld);
