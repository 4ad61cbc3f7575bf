/* product_split.c - strips and panels of fp32 matrices, each element in three parts: the fp32 side
 * of product_pack.h.
 */
#include "kernels/cpu/product_pack.h"

/* n lanes of row r of x from column c on, zeros behind them and where the row is none of x's.
 * whole, everywhere below: nothing is missing, no need to ask. */
VEC_INLINE vf split_load(bool whole, struct kn_mat x, bool there, int64_t r, int64_t c, int64_t n)
{
    const float *at = (const float *)x.p + r * x.ld + c;

    if (whole)
        return *(const vf *)at;
    return there && n > 0 ? vf_load_f32(at, n) : (vf){0};
}

/* Columns [c, end) of row r of x, 32 of them at most. */
VEC_INLINE void split_load_row(bool whole, struct kn_mat x, bool there, int64_t r, int64_t c,
                               int64_t end, vu ret[SPLIT_PARTS])
{
    split_row(split_load(whole, x, there, r, c, end - c),
              split_load(whole, x, there, r, c + VEC, end - c - VEC), ret);
}

/* Pairs of rows (k, k + 1) of x, those below k1, at columns [c, end), VEC at most. */
VEC_INLINE void split_load_pairs(bool whole, struct kn_mat x, int64_t k, int64_t k1, int64_t c,
                                 int64_t end, vu ret[SPLIT_PARTS])
{
    split_pairs(split_load(whole, x, k < k1, k, c, end - c),
                split_load(whole, x, k + 1 < k1, k + 1, c, end - c), ret);
}

/* block[part], transposed, as rows of a block `stride` elements apart. */
VEC_INLINE void split_put_turned(uint16_t *to, int64_t stride, vu block[SPLIT_PARTS][VEC])
{
    for (int part = 0; part < SPLIT_PARTS; part++) {
        vu_transpose(block[part]);
        for (int i = 0; i < VEC; i++)
            *(vu *)(to + part * AMX_BLOCK + i * stride) = block[part][i];
    }
}

/* One step of 32 rows of an a that is stored transposed. The step after it is asked for: it is 32
 * rows of memory, too many for the processor to foresee. */
VEC_INLINE void split_step_turned(bool whole, uint16_t *to, struct kn_mat a, int64_t m,
                                  int64_t m_end, int64_t k, int64_t k1)
{
    for (int64_t half = 0; half < AMX_STEP; half += VEC) {
        vu block[SPLIT_PARTS][VEC];

        for (int i = 0; i < VEC; i++) {
            vu parts[SPLIT_PARTS];

            split_load_pairs(whole, a, k + 2 * i, k1, m + half, m_end, parts);
            for (int part = 0; part < SPLIT_PARTS; part++)
                block[part][i] = parts[part];
            for (int odd = 0; whole && odd < 2; odd++)
                __builtin_prefetch((const float *)a.p + (k + AMX_STEP + 2 * i + odd) * a.ld + m +
                                   half);
        }
        split_put_turned(to + half * AMX_STEP, AMX_STEP, block);
    }
}

/* Row i of a strip. */
VEC_INLINE void split_strip_row(bool whole, uint16_t *to, struct kn_mat a, bool there, int64_t r,
                                int64_t k0, int64_t k1)
{
    for (int64_t k = k0; k < k1; k += AMX_STEP, to += SPLIT_PARTS * AMX_BLOCK) {
        vu parts[SPLIT_PARTS];

        split_load_row(whole, a, there, r, k, k1, parts);
        for (int part = 0; part < SPLIT_PARTS; part++)
            *(vu *)(to + part * AMX_BLOCK) = parts[part];
    }
}

void product_split_a(uint16_t *to, struct kn_mat a, bool ta, int64_t m, int64_t rows, int64_t k0,
                     int64_t k1)
{
    bool whole = rows >= AMX_STEP && (k1 - k0) % AMX_STEP == 0;

    for (int64_t k = k0; ta && k < k1; k += AMX_STEP, to += SPLIT_PARTS * AMX_BLOCK)
        if (whole)
            split_step_turned(true, to, a, m, m + rows, k, k1);
        else
            split_step_turned(false, to, a, m, m + rows, k, k1);
    for (int64_t i = 0; !ta && i < AMX_STEP; i++)
        if (whole)
            split_strip_row(true, to + i * AMX_STEP, a, true, m + i, k0, k1);
        else
            split_strip_row(false, to + i * AMX_STEP, a, i < rows, m + i, k0, k1);
}

/* Two rows of a step of panels. */
VEC_INLINE void split_two_rows(bool whole, uint16_t *to, int64_t ld, struct kn_mat b, int64_t n0,
                               int64_t n1, int64_t k, int64_t k1)
{
    for (int64_t n = n0; n < n1; n += AMX_STEP) {
        for (int64_t half = 0; half < AMX_STEP; half += VEC) {
            uint16_t *at = to + (n - n0) * ld + half / VEC * AMX_TILE;
            vu parts[SPLIT_PARTS];

            split_load_pairs(whole, b, k, k1, n + half, n1, parts);
            for (int part = 0; part < SPLIT_PARTS; part++)
                *(vu *)(at + part * AMX_BLOCK) = parts[part];
        }
    }
}

void product_split_step(uint16_t *to, int64_t ld, struct kn_mat b, int64_t n0, int64_t n1,
                        int64_t k, int64_t k1)
{
    for (int64_t i = 0; i < AMX_STEP; i += 2, to += 2 * VEC)
        if ((n1 - n0) % AMX_STEP == 0 && k + AMX_STEP <= k1)
            split_two_rows(true, to, ld, b, n0, n1, k + i, k1);
        else
            split_two_rows(false, to, ld, b, n0, n1, k + i, k1);
}

/* One step of a panel of a b that is stored transposed. */
VEC_INLINE void split_panel_turned(bool whole, uint16_t *to, struct kn_mat b, int64_t n,
                                   int64_t n_end, int64_t k, int64_t k1)
{
    for (int64_t half = 0; half < AMX_STEP; half += VEC) {
        vu block[SPLIT_PARTS][VEC];

        for (int i = 0; i < VEC; i++) {
            vu parts[SPLIT_PARTS];

            split_load_row(whole, b, n + half + i < n_end, n + half + i, k, k1, parts);
            for (int part = 0; part < SPLIT_PARTS; part++)
                block[part][i] = parts[part];
        }
        split_put_turned(to + half * AMX_STEP, 2 * VEC, block);
    }
}

void product_split_b(uint16_t *to, struct kn_mat b, bool tb, int64_t n, int64_t cols, int64_t k0,
                     int64_t k1)
{
    bool whole = cols >= AMX_STEP && (k1 - k0) % AMX_STEP == 0;

    for (int64_t k = k0; k < k1; k += AMX_STEP, to += SPLIT_PARTS * AMX_BLOCK) {
        if (!tb)
            product_split_step(to, 0, b, n, n + cols, k, k1);
        else if (whole)
            split_panel_turned(true, to, b, n, n + cols, k, k1);
        else
            split_panel_turned(false, to, b, n, n + cols, k, k1);
    }
}
