/* product_strip.c - see product_strip.h. */
#include "kernels/cpu/product_strip.h"
#include "kernels/cpu/vec.h"

#define K_CUT 320 /* of a strip: 20 KiB of a beside as much of a panel in L1 */

AMX_INLINE void product_step(int64_t parts, bool low, bool right, const uint16_t *a, int64_t lda,
                             const uint16_t *b)
{
    struct amx_operand rows = {a, lda, 16 * lda, AMX_BLOCK},
                       cols = {b, AMX_STEP, AMX_TILE, AMX_BLOCK};

    if (parts == 1)
        amx_step(low, right, rows, cols);
    else
        amx_step_parts(low, right, rows, cols);
}

/* What goes on beside a block's steps. The block before becomes elements of c, a few rows with each
 * step: all of them at once would fill the processor's store buffer with lines that are in none of
 * its caches. And what the next strip needs of a and of its sums is asked for. */
struct product_beside {
    const float *sums; /* 32 rows of 32; NULL: no block waits */
    uint16_t *c;
    int64_t ldc;
    struct product_ahead ahead[2];
};
#define BESIDE_ROWS 4

VEC_INLINE void product_beside_row(struct product_beside d, bool add, int64_t r)
{
    vf left = *(const vf *)(d.sums + r * AMX_STEP),
       right = *(const vf *)(d.sums + r * AMX_STEP + VEC);
    uint16_t *c = d.c + r * d.ldc;

    if (add) {
        left += vf_from_bf16(*(const vh *)c);
        right += vf_from_bf16(*(const vh *)(c + VEC));
    }
    _mm512_storeu_si512(c, (__m512i)_mm512_cvtne2ps_pbh((__m512)right, (__m512)left));
}

VEC_INLINE void product_ask(struct product_ahead ahead, int64_t first, int64_t n)
{
    for (int64_t i = first; ahead.p && i < first + n; i++) {
        _mm_prefetch(ahead.p + i * ahead.ld, _MM_HINT_T1);
        _mm_prefetch(ahead.p + i * ahead.ld + AHEAD_BYTES / 2, _MM_HINT_T1);
    }
}

/* After the steps of a block of bf16. */
VEC_INLINE void product_beside_next(struct product_beside *d, int64_t steps)
{
    for (int i = 0; i < 2; i++)
        if (d->ahead[i].p)
            d->ahead[i].p += steps * AHEAD_BYTES;
}

/* A block of sums: those `from` (NULL: zeros) and the products go `to`. */
struct product_sums {
    const float *from;
    float *to;
    int64_t ld_from, ld_to;
    const uint16_t *low_a, *low_b; /* one more step of K, or NULL */
};

/* All that calls it is inlined around it: structs in memory would be read back from behind the
 * stores of the block before. */
AMX_INLINE void product_block(int64_t parts, bool low, bool right, int64_t steps,
                              struct product_rows a, const uint16_t *b, struct product_sums c,
                              bool add, struct product_beside d)
{
    amx_sums(low, right, c.from, c.ld_from);
    for (int64_t k = 0; k < steps; k++) {
        product_step(parts, low, right, a.p, a.ld, b);
        for (int64_t r = k * BESIDE_ROWS; d.sums && r < LH_MIN(AMX_STEP, (k + 1) * BESIDE_ROWS);
             r++)
            product_beside_row(d, add, r);
        if (parts == 1) {
            product_ask(d.ahead[0], k, 1);
            product_ask(d.ahead[1], k, 1);
        } else {
            product_ask(d.ahead[0], k * AHEAD_PARTS, AHEAD_PARTS);
            if (k * AHEAD_ROWS < AMX_STEP)
                product_ask(d.ahead[1], k * AHEAD_ROWS, AHEAD_ROWS);
        }
        a.p += a.step;
        b += parts * AMX_BLOCK;
    }
    if (c.low_a)
        product_step(parts, low, right, c.low_a, AMX_STEP, c.low_b);
    for (int64_t r = steps * BESIDE_ROWS; d.sums && r < AMX_STEP; r++)
        product_beside_row(d, add, r);
    amx_store(low, right, c.to, c.ld_to);
}

AMX_INLINE void product_block_of(int64_t parts, int64_t rows, int64_t cols, int64_t steps,
                                 struct product_rows a, const uint16_t *b, struct product_sums c,
                                 struct product_beside d)
{
    if (rows > 16 && cols > 16)
        product_block(parts, true, true, steps, a, b, c, false, d);
    else if (rows > 16)
        product_block(parts, true, false, steps, a, b, c, false, d);
    else if (cols > 16)
        product_block(parts, false, true, steps, a, b, c, false, d);
    else
        product_block(parts, false, false, steps, a, b, c, false, d);
}

AMX_INLINE void product_block_alone(int64_t parts, int64_t rows, int64_t cols, int64_t steps,
                                    struct product_rows a, const uint16_t *b, struct product_sums c,
                                    struct product_beside d)
{
    if (parts == 1)
        product_block_of(1, rows, cols, steps, a, b, c, d);
    else
        product_block_of(SPLIT_PARTS, rows, cols, steps, a, b, c, d);
}

__attribute__((target("amx-tile,amx-bf16"))) void
product_multiply(int64_t parts, int64_t rows, int64_t cols, int64_t steps, const uint16_t *a,
                 int64_t lda, int64_t a_step, const uint16_t *b, float *sums, const uint16_t *ahead)
{
    product_block_alone(parts, rows, cols, steps, (struct product_rows){a, lda, a_step}, b,
                        (struct product_sums){.to = sums, .ld_to = AMX_STEP},
                        (struct product_beside){.ahead = {{(const char *)ahead, AHEAD_BYTES}}});
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

bool product_direct(const struct product *j, int64_t m, int64_t n)
{
    return j->c.t == KN_F32 && j->alpha == 1.0f && !j->flip && j->slices == 0 &&
           m + AMX_STEP <= j->M && n + AMX_STEP <= j->N;
}

/* The cuts of K of a strip. */
struct product_cuts {
    int64_t K, cut;
    int64_t ld_room;
};

static struct product_cuts product_cut(const struct product *j, const struct product_part *p)
{
    int64_t K = product_up(p->k1 - p->k0);
    /* L2 gives parts as fast as they are multiplied. */
    int64_t cuts = j->parts == 1 ? (K + K_CUT - 1) / K_CUT : 1;

    return (struct product_cuts){
        .K = K, .cut = product_up((K + cuts - 1) / cuts), .ld_room = p->n1 - p->n0 + AMX_STEP};
}

static struct product_rows product_rows_from(const struct product_part *p, int64_t k)
{
    return (struct product_rows){p->a.p + k / AMX_STEP * p->a.step, p->a.ld, p->a.step};
}

/* Do the blocks of this strip become bf16 whole and at once, by product_beside_row? */
static bool product_simple(const struct product *j, const struct product_part *p)
{
    return j->parts == 1 && j->c.t == KN_BF16 && j->alpha == 1.0f && !j->flip && !j->sums &&
           p->m + AMX_STEP <= j->M && (p->n1 - p->n0) % AMX_STEP == 0;
}

/* A strip of them. The sums of the last cut lie in one block behind those of the others: it is
 * empty before the next block's sums go there. */
AMX_INLINE void product_strip_simple(const struct product *j, const struct product_part *p,
                                     bool add, float *room, const uint16_t *low)
{
    struct product_cuts u = product_cut(j, p);
    float *last = room + AMX_STEP * u.ld_room;
    uint16_t *c = (uint16_t *)j->c.p + p->m * j->c.ld + p->n0;
    struct product_beside d = {.ldc = j->c.ld, .ahead = {p->ahead[0], p->ahead[1]}};

    for (int64_t k = 0; k < u.K; k += u.cut) {
        int64_t steps = LH_MIN(u.cut, u.K - k) / AMX_STEP;
        struct product_rows a = product_rows_from(p, k);
        const uint16_t *b = p->packed + k * AMX_STEP;

        for (int64_t n = 0; n < p->n1 - p->n0; n += AMX_STEP, b += u.K * AMX_STEP) {
            struct product_sums sums = {.from = k > 0 ? room + n : NULL,
                                        .to = room + n,
                                        .ld_from = u.ld_room,
                                        .ld_to = u.ld_room};

            if (k + u.cut < u.K) {
                product_block(1, true, true, steps, a, b, sums, add, d);
            } else {
                sums.to = last;
                sums.ld_to = AMX_STEP;
                sums.low_a = low;
                if (low)
                    sums.low_b = j->q_panels + (p->n0 - j->n0 + n) * AMX_STEP;
                product_block(1, true, true, steps, a, b, sums, add, d);
                d.sums = last;
                d.c = c + n;
            }
            product_beside_next(&d, steps);
        }
    }
    for (int64_t r = 0; r < AMX_STEP; r++)
        product_beside_row(d, add, r);
}

/* Any other strip. */
__attribute__((target("amx-tile,amx-bf16"))) static void
product_strip_any(const struct product *j, const struct product_part *p, float *room,
                  const uint16_t *low)
{
    struct product_cuts u = product_cut(j, p);
    struct product_beside d = {.ahead = {p->ahead[0], p->ahead[1]}};

    for (int64_t k = 0; k < u.K; k += u.cut) {
        int64_t steps = LH_MIN(u.cut, u.K - k) / AMX_STEP;
        bool last = p->k1 == j->K && k + u.cut >= u.K && j->slices == 0;

        for (int64_t n = p->n0; n < p->n1; n += AMX_STEP) {
            bool direct = product_direct(j, p->m, n), add = k > 0;
            float *at = room + (n - p->n0);
            int64_t ld = u.ld_room;
            struct product_sums sums = {0};

            if (direct) {
                at = (float *)j->c.p + p->m * j->c.ld + n;
                ld = j->c.ld;
                add = add || p->k0 > 0 || j->beta != 0.0f;
            } else if (j->sums) {
                at = j->sums + (p->m - j->m0) * j->ld_sums + (n - j->n0);
                ld = j->ld_sums;
                add = add || p->k0 > j->k0_sums;
            }
            sums = (struct product_sums){
                .from = add ? at : NULL, .to = at, .ld_from = ld, .ld_to = ld};
            if (low && k + u.cut >= u.K) {
                sums.low_a = low;
                sums.low_b = j->q_panels + (n - j->n0) * AMX_STEP * j->parts;
            }
            product_block_alone(j->parts, j->M - p->m, j->N - n, steps, product_rows_from(p, k),
                                p->packed + ((n - p->n0) * u.K + k * AMX_STEP) * j->parts, sums, d);
            product_beside_next(&d, steps);
            if (last && !direct)
                product_finish(j, p->m, n, at, ld);
        }
    }
}

__attribute__((target("amx-tile,amx-bf16"))) void product_strip(const struct product *j,
                                                                const struct product_part *p,
                                                                float *room, const uint16_t *low)
{
    if (!product_simple(j, p))
        product_strip_any(j, p, room, low);
    else if (j->beta != 0.0f)
        product_strip_simple(j, p, true, room, low);
    else
        product_strip_simple(j, p, false, room, low);
}

void product_low_strip(const struct product *j, const struct product_part *p, bool keep,
                       float *room, uint16_t *ret_low)
{
    const struct product_low *low = j->low;
    int64_t R = low->z.cols, rows = LH_MIN(AMX_STEP, j->M - p->m);
    struct kn_mat step = j->parts == 1 ? kn_mat(ret_low, KN_BF16, AMX_STEP, AMX_STEP)
                                       : kn_mat(room, KN_F32, AMX_STEP, AMX_STEP);

    product_multiply(j->parts, rows, R, product_up(j->K) / AMX_STEP, p->a.p, p->a.ld, p->a.step,
                     j->p_panel, room, NULL);
    for (int64_t r = 0; r < AMX_STEP; r++) {
        for (int64_t i = 0; i < AMX_STEP; i += VEC) {
            vf z = *(const vf *)(room + r * AMX_STEP + i) * low->z_scale;

            /* Rounded as z is, so that the gradients see what the product saw. */
            if (j->parts == 1)
                z = vf_from_bf16(vf_to_bf16(z));
            if (keep && r < rows && i < R)
                vf_store(low->z, p->m + r, i, R - i, z);
            z *= low->c_scale;
            vf_store(step, r, i, VEC,
                     i < R && r < rows ? vf_tail(z, LH_MIN(VEC, R - i), 0.0f) : (vf){0});
        }
    }
    if (j->parts > 1)
        product_pack_a(ret_low, step, false, 0, AMX_STEP, 0, AMX_STEP);
}
