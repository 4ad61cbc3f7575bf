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
    int64_t parts;  /* of an element of a and b */
    int64_t cols;   /* of a block of columns, whole panels */
    int64_t strips; /* of an item of parts */
    int64_t slices; /* of K, of a c with one strip; 0 for others */

    /* The chunk at work. */
    int64_t m0, m1, n0, n1, k0, k1;
    uint16_t *packed;
    uint16_t *rows; /* strips of the chunk's K, packed, or NULL: a is read as it is stored */
    /* (rows, columns) of the chunk in whole strips and panels, or NULL: K is one chunk. */
    float *sums;
    int64_t ld_sums, k0_sums; /* the first of K that they hold */

    const struct product_low *low; /* or NULL, and */
    uint16_t *p_panel, *q_panels;  /* its own; of q one step of K for each panel of the chunk */
};

/* A strip's rows as tile registers load them: row r of step k of K is at p + k * step + r * ld.
 * Parts are packed. */
struct product_rows {
    const uint16_t *p;
    int64_t ld, step;
};

/* Memory that will be needed soon, asked for meanwhile: runs of two lines, ld bytes apart. p NULL:
 * none. */
struct product_ahead {
    const char *p;
    int64_t ld;
};
#define AHEAD_BYTES 128
#define STRIPS_MAX 8 /* of an item of parts */
/* Runs for a step of K: of parts of the next panel, so that STRIPS_MAX strips ask for all of it,
 * and of the next block of c. */
#define AHEAD_PARTS (SPLIT_PARTS * AMX_BLOCK * 2 / AHEAD_BYTES / STRIPS_MAX)
#define AHEAD_ROWS 4

/* What multiplies now: a strip's rows from k0 on against panels from n0 on. */
struct product_part {
    struct product_rows a;
    const uint16_t *packed;
    int64_t m, n0, n1, k0, k1;
    struct product_ahead ahead[2];
};

static inline int64_t product_up(int64_t n)
{
    return (n + AMX_STEP - 1) / AMX_STEP * AMX_STEP;
}

/* bf16 that K elements of a packed row or column take. */
static inline int64_t product_packed(const struct product *j, int64_t K)
{
    return product_up(K) * j->parts;
}

/* One strip against the panels of a block of columns, all of the chunk's K. room: 32 rows of fp32
 * for the block's columns and 64 more. low: the strip's z as one step of K, or NULL. */
void product_strip(const struct product *j, const struct product_part *p, float *room,
                   const uint16_t *low);

/* The step of K from k on of the strips of rows [m0, m1), of an a that is stored transposed: its
 * rows are read from end to end. */
void product_pack_turned(const struct product *j, uint16_t *to, int64_t m0, int64_t m1, int64_t k);

/* Items of a chunk of parts, for a pool: j->strips strips against j->cols columns. */
void product_parts_item(void *arg, int64_t item, int thread);

/* Makes z of a strip: as one step of K for product_strip, and, when keep, as rows of the matrix z.
 * room: 32 x 32 floats. */
void product_low_strip(const struct product *j, const struct product_part *p, bool keep,
                       float *room, uint16_t *ret_low);

/* Do tile registers load and store this block of c itself? */
bool product_direct(const struct product *j, int64_t m, int64_t n);

/* c of the block at (m, n) = alpha * sums + beta * c. */
void product_finish(const struct product *j, int64_t m, int64_t n, const float *sums, int64_t ld);
