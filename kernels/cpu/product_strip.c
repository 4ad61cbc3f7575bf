/* product_strip.c - see product_strip.h. */
#include "kernels/cpu/product_strip.h"
#include "kernels/cpu/vec.h"
#include <immintrin.h>

#define K_CUT 320 /* of a strip: 20 KiB of a beside as much of a panel in L1 */

/* One step of K: tiles 0-3 are the sums. low, right: are there more than 16 rows, columns? */
VEC_INLINE __attribute__((target("amx-tile,amx-bf16"))) void
product_step(bool low, bool right, const uint16_t *a, int64_t lda, const uint16_t *b)
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

VEC_INLINE __attribute__((target("amx-tile,amx-bf16"))) void
product_block(bool low, bool right, int64_t steps, const uint16_t *a, int64_t lda,
              const uint16_t *b, struct product_sums c)
{
    int64_t stride = c.ld * 4;

    if (c.add) {
        _tile_loadd(0, c.p, stride);
        if (right)
            _tile_loadd(1, c.p + 16, stride);
        if (low)
            _tile_loadd(2, c.p + 16 * c.ld, stride);
        if (low && right)
            _tile_loadd(3, c.p + 16 * c.ld + 16, stride);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t k = 0; k < steps; k++) {
        product_step(low, right, a, lda, b);
        a += AMX_STEP;
        b += 2 * AMX_TILE;
    }
    if (c.low_a)
        product_step(low, right, c.low_a, AMX_STEP, c.low_b);
    _tile_stored(0, c.p, stride);
    if (right)
        _tile_stored(1, c.p + 16, stride);
    if (low)
        _tile_stored(2, c.p + 16 * c.ld, stride);
    if (low && right)
        _tile_stored(3, c.p + 16 * c.ld + 16, stride);
}

__attribute__((target("amx-tile,amx-bf16"))) void product_multiply(int64_t rows, int64_t cols,
                                                                   int64_t steps, const uint16_t *a,
                                                                   int64_t lda, const uint16_t *b,
                                                                   struct product_sums c)
{
    if (rows > 16 && cols > 16)
        product_block(true, true, steps, a, lda, b, c);
    else if (rows > 16)
        product_block(true, false, steps, a, lda, b, c);
    else if (cols > 16)
        product_block(false, true, steps, a, lda, b, c);
    else
        product_block(false, false, steps, a, lda, b, c);
}

/* Row r of the block at (m, n), all its columns there: c = alpha * sums + beta * c. */
VEC_INLINE void product_finish_row(struct kn_mat c, int64_t m, int64_t n, const float *sums,
                                   float alpha, bool add)
{
    vf left = *(const vf *)sums * alpha, right = *(const vf *)(sums + VEC) * alpha;

    if (add) {
        left += vf_load(c, m, n, VEC);
        right += vf_load(c, m, n + VEC, VEC);
    }
    vf_store(c, m, n, VEC, left);
    vf_store(c, m, n + VEC, VEC, right);
}

VEC_INLINE void product_finish_rows(enum kn_dtype t, const struct product *j, int64_t m, int64_t n,
                                    const float *sums, int64_t ld)
{
    struct kn_mat c = {j->c.p, t, j->c.rows, j->c.cols, j->c.ld};

    if (j->beta != 0.0f)
        for (int64_t r = 0; r < LH_MIN(AMX_STEP, j->M - m); r++)
            product_finish_row(c, m + r, n, sums + r * ld, j->alpha, true);
    else
        for (int64_t r = 0; r < LH_MIN(AMX_STEP, j->M - m); r++)
            product_finish_row(c, m + r, n, sums + r * ld, j->alpha, false);
}

void product_finish(const struct product *j, int64_t m, int64_t n, const float *sums, int64_t ld)
{
    int64_t rows = LH_MIN(AMX_STEP, j->M - m), cols = LH_MIN(AMX_STEP, j->N - n);

    if (!j->flip && cols == AMX_STEP) {
        if (j->c.t == KN_BF16)
            product_finish_rows(KN_BF16, j, m, n, sums, ld);
        else
            product_finish_rows(KN_F32, j, m, n, sums, ld);
        return;
    }
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < cols; i++) {
            int64_t row = j->flip ? n + i : m + r, col = j->flip ? m + r : n + i;
            vf x = vf_all(sums[r * ld + i] * j->alpha);

            if (j->beta != 0.0f)
                x += vf_load(j->c, row, col, 1);
            vf_store(j->c, row, col, 1, x);
        }
    }
}

/* Can tile registers load and store this block of c itself? */
static bool product_direct(const struct product *j, int64_t m, int64_t n)
{
    return j->c.t == KN_F32 && j->alpha == 1.0f && !j->flip && j->slices == 0 &&
           m + AMX_STEP <= j->M && n + AMX_STEP <= j->N;
}

void product_strip(const struct product *j, const struct product_part *p, float *room,
                   const uint16_t *low)
{
    int64_t K = product_up(p->k1 - p->k0), cuts = (K + K_CUT - 1) / K_CUT;
    int64_t step = product_up((K + cuts - 1) / cuts), ld_room = p->n1 - p->n0 + AMX_STEP;

    for (int64_t k = 0; k < K; k += step) {
        bool last = p->k1 == j->K && k + step >= K && j->slices == 0;

        for (int64_t n = p->n0; n < p->n1; n += AMX_STEP) {
            bool direct = product_direct(j, p->m, n);
            struct product_sums sums = {.p = room + (n - p->n0), .ld = ld_room, .add = k > 0};

            if (direct)
                sums = (struct product_sums){.p = (float *)j->c.p + p->m * j->c.ld + n,
                                             .ld = j->c.ld,
                                             .add = k > 0 || p->k0 > 0 || j->beta != 0.0f};
            else if (j->sums)
                sums =
                    (struct product_sums){.p = j->sums + (p->m - j->m0) * j->ld_sums + (n - j->n0),
                                          .ld = j->ld_sums,
                                          .add = k > 0 || p->k0 > j->k0_sums};
            if (low && k + step >= K) {
                sums.low_a = low;
                sums.low_b = j->low->q_panels + (n - j->n0) * AMX_STEP;
            }
            product_multiply(j->M - p->m, j->N - n, LH_MIN(step, K - k) / AMX_STEP, p->a + k,
                             p->lda, p->packed + (n - p->n0) * K + k * AMX_STEP, sums);
            if (last && !direct)
                product_finish(j, p->m, n, sums.p, sums.ld);
        }
    }
}

void product_low_strip(const struct product *j, const struct product_part *p, bool keep,
                       float *room, uint16_t *ret_low)
{
    const struct product_low *low = j->low;
    int64_t R = low->z.cols, rows = LH_MIN(AMX_STEP, j->M - p->m);
    struct kn_mat step = kn_mat(ret_low, KN_BF16, AMX_STEP, AMX_STEP);

    product_multiply(rows, R, product_up(j->K) / AMX_STEP, p->a, p->lda, low->p_panel,
                     (struct product_sums){.p = room, .ld = AMX_STEP});
    for (int64_t r = 0; r < AMX_STEP; r++) {
        for (int64_t i = 0; i < AMX_STEP; i += VEC) {
            /* Rounded as z is, so that the gradients see what the product saw. */
            vh z = vf_to_bf16(*(const vf *)(room + r * AMX_STEP + i) * low->z_scale);
            vf scaled = vf_from_bf16(z) * low->c_scale;

            if (keep && r < rows && i < R)
                vf_store_bf16((uint16_t *)low->z.p + (p->m + r) * low->z.ld + i, R - i, z);
            vf_store(step, r, i, VEC,
                     i < R && r < rows ? vf_tail(scaled, LH_MIN(VEC, R - i), 0.0f) : (vf){0});
        }
    }
}
