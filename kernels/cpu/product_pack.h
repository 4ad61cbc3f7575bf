/* product_pack.h - operands in the order that tile registers want, for product_amx.c and
 * loss_amx.c.
 *
 * An element of a bf16 matrix is one bf16, an element of an fp32 matrix three of them, its parts
 * (split.h); of a step of K first part 0 of all rows or columns is packed, then part 1, then 2.
 */
#pragma once
#include "kernels/cpu/amx.h"
#include "kernels/tensor.h"
#include <stdbool.h>

#define AMX_BLOCK (AMX_STEP * AMX_STEP) /* of a strip or a panel in one step of K, one part */

static inline int64_t product_parts(enum kn_dtype t)
{
    return t == KN_BF16 ? 1 : SPLIT_PARTS;
}

/* Tile registers 0 to 7 of 16 rows of 64 bytes, from begin to end; one thread's. */
void product_amx_begin(void);
void product_amx_end(void);

/* Rows [m, m + rows) and columns [k0, k1) of op(a): step after step of K, part after part, 32 rows
 * of 32 elements; zeros outside. ta: a is stored transposed. */
void product_pack_a(uint16_t *to, struct kn_mat a, bool ta, int64_t m, int64_t rows, int64_t k0,
                    int64_t k1);

/* Is a strip of rows read where it lies? Tile registers take whole strips and steps of bf16. And
 * rows that are a multiple of 2 KiB apart share so few sets of L1 that not even a cut of K stays
 * there. */
static inline bool product_in_place(struct kn_mat a, int64_t m, int64_t K)
{
    return a.t == KN_BF16 && m + AMX_STEP <= a.rows && K % AMX_STEP == 0 && a.ld % 1024 != 0;
}

/* The panel of columns [n, n + cols), cols <= AMX_STEP, and rows [k0, k1) of op(b): step after step
 * of K, part after part, two tiles of 16 columns, each 16 rows of pairs (b[2k][.], b[2k + 1][.]);
 * zeros outside. tb: b is stored transposed. */
void product_pack_b(uint16_t *to, struct kn_mat b, bool tb, int64_t n, int64_t cols, int64_t k0,
                    int64_t k1);

/* One step of K, rows [k, k + 32) of b as it lies as far as they are below k1, of all panels of
 * columns [n0, n1): panels are ld * AMX_STEP bf16 apart. Rows are read from end to end, as memory
 * likes it. */
void product_pack_step(uint16_t *to, int64_t ld, struct kn_mat b, int64_t n0, int64_t n1, int64_t k,
                       int64_t k1);

/* These three for fp32. */
void product_split_a(uint16_t *to, struct kn_mat a, bool ta, int64_t m, int64_t rows, int64_t k0,
                     int64_t k1);
void product_split_b(uint16_t *to, struct kn_mat b, bool tb, int64_t n, int64_t cols, int64_t k0,
                     int64_t k1);
void product_split_step(uint16_t *to, int64_t ld, struct kn_mat b, int64_t n0, int64_t n1,
                        int64_t k, int64_t k1);
