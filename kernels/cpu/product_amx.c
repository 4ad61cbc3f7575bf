/* product_amx.c - products of bf16 matrices by tile registers: see product_amx.h.
 *
 * c is made of blocks of 32 x 32, four tile registers of sums, two for a and two for b. b is packed
 * into panels of 32 columns in the order that the registers want, a chunk at a time, by all
 * threads; a is read where it lies when its rows are whole steps. An item walks down strips of 32
 * rows; for each strip K is cut so that the strip's part of a stays in L1 while the panels of a
 * block of columns stream from L2. Sums wait in fp32 between the cuts and become elements of c
 * once, at the end.
 *
 * The cuts follow from the shapes alone, and one item makes a block of c from first to last: same
 * bits for any number of threads. A c of few columns is made transposed, so that the long side runs
 * along the panels. When c has one strip only, nothing is shared by rows: items are slices of K
 * then, pack for themselves, and their sums are added in order.
 */
#include "kernels/cpu/product_amx.h"
#include "kernels/cpu/product_pack.h"
#include "kernels/cpu/vec.h"
#include <immintrin.h>
#include <string.h>

#define ITEM_ROWS 128
#define K_CHUNK 4096          /* of packed panels */
#define K_CUT 320             /* of a strip: 20 KiB of a beside as much of a panel in L1 */
#define PACKED_MAX (4 << 20)  /* bytes of panels at a time, shared by all threads */
#define BLOCK_MAX (768 << 10) /* bytes of panels that an item streams from L2 */
#define SLICE_K 512           /* of a c with one strip: K is shared out in slices, */
#define SLICE_STEP 128        /* packed so much at a time, */
#define SLICE_COLS 64         /* in blocks of columns; */
#define SLICE_COLS_MAX 2048   /* of whole rows of b more */
#define SUMS_MAX (16 << 20)   /* bytes of sums that wait between chunks of K */

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
    float *
        sums; /* (rows, columns) of the chunk in whole strips and panels, or NULL: K is one chunk */
    int64_t ld_sums, k0_sums; /* the first of K that they hold */
};

/* Where one block of 32 x 32 collects its sums. */
struct product_sums {
    float *p;
    int64_t ld;
    bool add; /* there are some already */
};

/* What multiplies now: a strip's rows from k0 on against panels from n0 on. */
struct product_part {
    const uint16_t *a, *packed;
    int64_t lda, m, n0, n1, k0, k1;
};

static int64_t product_up(int64_t n)
{
    return (n + AMX_STEP - 1) / AMX_STEP * AMX_STEP;
}

/* low, right: are there more than 16 rows, columns? */
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
        a += AMX_STEP;
        b += 2 * AMX_TILE;
    }
    _tile_stored(0, c.p, stride);
    if (right)
        _tile_stored(1, c.p + 16, stride);
    if (low)
        _tile_stored(2, c.p + 16 * c.ld, stride);
    if (low && right)
        _tile_stored(3, c.p + 16 * c.ld + 16, stride);
}

static __attribute__((target("amx-tile,amx-bf16"))) void
product_multiply(int64_t rows, int64_t cols, int64_t steps, const uint16_t *a, int64_t lda,
                 const uint16_t *b, struct product_sums c)
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

/* c of the block at (m, n) = alpha * sums + beta * c. */
static void product_finish(const struct product *j, int64_t m, int64_t n, const float *sums,
                           int64_t ld)
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

/* One strip against the panels of a block of columns, all of the chunk's K. strip: room for the
 * block's sums. */
static void product_strip(const struct product *j, const struct product_part *p, float *strip)
{
    int64_t K = product_up(p->k1 - p->k0), cuts = (K + K_CUT - 1) / K_CUT;
    int64_t step = product_up((K + cuts - 1) / cuts), ld_strip = p->n1 - p->n0 + AMX_STEP;

    for (int64_t k = 0; k < K; k += step) {
        bool last = p->k1 == j->K && k + step >= K && j->slices == 0;

        for (int64_t n = p->n0; n < p->n1; n += AMX_STEP) {
            bool direct = product_direct(j, p->m, n);
            struct product_sums sums = {strip + (n - p->n0), ld_strip, k > 0};

            if (direct)
                sums = (struct product_sums){(float *)j->c.p + p->m * j->c.ld + n, j->c.ld,
                                             k > 0 || p->k0 > 0 || j->beta != 0.0f};
            else if (j->sums)
                sums = (struct product_sums){j->sums + (p->m - j->m0) * j->ld_sums + (n - j->n0),
                                             j->ld_sums, k > 0 || p->k0 > j->k0_sums};
            product_multiply(j->M - p->m, j->N - n, LH_MIN(step, K - k) / AMX_STEP, p->a + k,
                             p->lda, p->packed + (n - p->n0) * K + k * AMX_STEP, sums);
            if (last && !direct)
                product_finish(j, p->m, n, sums.p, sums.ld);
        }
    }
}

/* Points p at the rows of a that strip m needs, in place or copied to room. */
static void product_rows(const struct product *j, struct product_part *p, uint16_t *room)
{
    if (!j->ta && p->m + AMX_STEP <= j->M && (p->k1 - p->k0) % AMX_STEP == 0) {
        p->a = (const uint16_t *)j->a.p + p->m * j->a.ld + p->k0;
        p->lda = j->a.ld;
        return;
    }
    p->lda = product_up(p->k1 - p->k0);
    p->a = room;
    product_pack_a(room, p->lda, j->a, j->ta, p->m, LH_MIN(AMX_STEP, j->M - p->m), p->k0, p->k1);
}

/* Panels of columns [n0, n1), one behind the other. */
static void product_pack_panels(uint16_t *to, struct kn_mat b, bool tb, int64_t n0, int64_t n1,
                                int64_t k0, int64_t k1)
{
    for (int64_t n = n0; n < n1; n += AMX_STEP)
        product_pack_b(to + (n - n0) * product_up(k1 - k0), b, tb, n, LH_MIN(AMX_STEP, n1 - n), k0,
                       k1);
}

static void product_pack_item(void *arg, int64_t item, int thread)
{
    const struct product *j = arg;
    int64_t n = j->n0 + item * AMX_STEP;

    (void)thread;
    product_pack_b(j->packed + item * AMX_STEP * product_up(j->k1 - j->k0), j->b, j->tb, n,
                   LH_MIN(AMX_STEP, j->N - n), j->k0, j->k1);
}

/* Blocks of columns one after the other, so that a block's panels stay in L2; ITEM_ROWS rows an
 * item. */
static void product_item(void *arg, int64_t item, int thread)
{
    const struct product *j = arg;
    int64_t groups = (j->m1 - j->m0 + ITEM_ROWS - 1) / ITEM_ROWS, K = product_up(j->k1 - j->k0);
    int64_t m_first = j->m0 + item % groups * ITEM_ROWS, n0 = j->n0 + item / groups * j->cols;
    struct product_part p = {.packed = j->packed + (n0 - j->n0) * K,
                             .n0 = n0,
                             .n1 = LH_MIN(j->n1, n0 + j->cols),
                             .k0 = j->k0,
                             .k1 = j->k1};
    uint16_t *room = j->s->local[thread].p;

    product_amx_begin();
    for (p.m = m_first; p.m < LH_MIN(j->m1, m_first + ITEM_ROWS); p.m += AMX_STEP) {
        product_rows(j, &p, room);
        product_strip(j, &p, (float *)(room + AMX_STEP * K));
    }
    product_amx_end();
}

/* One slice of K for one block of columns of a c with one strip; the sums go to the slice's own. */
static void product_slice_item(void *arg, int64_t item, int thread)
{
    const struct product *j = arg;
    int64_t blocks = (j->N + j->cols - 1) / j->cols, slice = item / blocks;
    int64_t end = LH_MIN(j->K, (slice + 1) * SLICE_K);
    struct product part = *j;
    uint16_t *room = j->s->local[thread].p, *panels = room + AMX_STEP * SLICE_STEP;
    struct product_part p = {.packed = panels,
                             .n0 = item % blocks * j->cols,
                             .n1 = LH_MIN(j->N, (item % blocks + 1) * j->cols)};

    part.sums = j->sums + slice * AMX_STEP * j->ld_sums;
    part.k0_sums = slice * SLICE_K;
    product_amx_begin();
    for (p.k0 = slice * SLICE_K; p.k0 < end; p.k0 = p.k1) {
        p.k1 = LH_MIN(end, p.k0 + SLICE_STEP);
        product_pack_panels(panels, j->b, j->tb, p.n0, p.n1, p.k0, p.k1);
        product_rows(j, &p, room);
        product_strip(&part, &p, NULL);
    }
    product_amx_end();
}

/* Adds up the slices of one block of columns. */
static void product_slices_item(void *arg, int64_t item, int thread)
{
    const struct product *j = arg;

    (void)thread;
    for (int64_t n = item * AMX_STEP; n < LH_MIN(j->N, (item + 1) * AMX_STEP); n += AMX_STEP) {
        for (int64_t r = 0; r < LH_MIN(AMX_STEP, j->M); r++) {
            float *to = j->sums + r * j->ld_sums + n;

            for (int64_t i = 1; i < j->slices; i++)
                for (int64_t k = 0; k < AMX_STEP; k += VEC)
                    *(vf *)(to + k) += *(const vf *)(to + i * AMX_STEP * j->ld_sums + k);
        }
        product_finish(j, 0, n, j->sums + n, j->ld_sums);
    }
}

/* Rows of b are read whole when they lie along N, columns of it in blocks when they lie along K. */
static void product_one_strip(struct product *j)
{
    j->cols = LH_MIN(product_up(j->N), j->tb ? SLICE_COLS : SLICE_COLS_MAX);
    j->ld_sums = product_up(j->N) + AMX_STEP;
    j->sums = stream_shared(j->s, (uint64_t)(j->slices * AMX_STEP * j->ld_sums) * 4);
    if (!j->sums || !stream_local(j->s, (uint64_t)((AMX_STEP + j->cols) * SLICE_STEP) * 2))
        return;
    pool_run(j->s->pool, j->slices * ((j->N + j->cols - 1) / j->cols), product_slice_item, j);
    pool_run(j->s->pool, (j->N + AMX_STEP - 1) / AMX_STEP, product_slices_item, j);
}

static void product_chunk(struct product *j)
{
    int64_t panels = (j->n1 - j->n0 + AMX_STEP - 1) / AMX_STEP;
    int64_t blocks = (j->n1 - j->n0 + j->cols - 1) / j->cols;
    int64_t groups = (j->m1 - j->m0 + ITEM_ROWS - 1) / ITEM_ROWS;

    if (j->m0 == 0 || j->sums) /* else the panels of the rows before are these */
        pool_run(j->s->pool, panels, product_pack_item, j);
    pool_run(j->s->pool, blocks * groups, product_item, j);
}

static void product_many(struct product *j)
{
    int64_t K = LH_MIN(product_up(j->K), K_CHUNK), chunk, rows = j->M;
    uint64_t packed, sums = 0;

    j->cols = LH_MAX(AMX_STEP, LH_MIN(BLOCK_MAX / (2 * K), product_up(j->N)) / AMX_STEP * AMX_STEP);
    chunk = LH_MIN(product_up(j->N), LH_MAX(j->cols, PACKED_MAX / (2 * K) / j->cols * j->cols));
    packed = (uint64_t)(chunk * K) * 2;
    if (j->K > K_CHUNK) {
        j->ld_sums = chunk + AMX_STEP;
        rows = LH_MAX(ITEM_ROWS, SUMS_MAX / 4 / j->ld_sums / ITEM_ROWS * ITEM_ROWS);
        rows = LH_MIN(product_up(j->M), rows);
        sums = (uint64_t)(rows * j->ld_sums) * 4;
    }
    j->packed = stream_shared(j->s, packed + sums);
    if (!j->packed || !stream_local(j->s, (uint64_t)(AMX_STEP * K) * 2 +
                                              (uint64_t)(AMX_STEP * (j->cols + AMX_STEP)) * 4))
        return;
    j->sums = sums > 0 ? (float *)((char *)j->packed + packed) : NULL;
    for (j->n0 = 0; j->n0 < j->N; j->n0 = j->n1) {
        j->n1 = LH_MIN(j->N, j->n0 + chunk);
        for (j->m0 = 0; j->m0 < j->M; j->m0 = j->m1) {
            j->m1 = LH_MIN(j->M, j->m0 + rows);
            for (j->k0 = 0; j->k0 < j->K; j->k0 = j->k1) {
                j->k1 = LH_MIN(j->K, j->k0 + K_CHUNK);
                product_chunk(j);
            }
        }
    }
}

void product_amx(struct kn_stream *s, struct kn_mat c, struct kn_mat a, bool ta, struct kn_mat b,
                 bool tb, float alpha, float beta)
{
    struct product j = {.s = s,
                        .c = c,
                        .a = a,
                        .b = b,
                        .ta = ta,
                        .tb = tb,
                        .alpha = alpha,
                        .beta = beta,
                        .M = c.rows,
                        .N = c.cols,
                        .K = ta ? a.rows : a.cols};

    if (ta && !tb && j.N <= AMX_STEP && j.M > j.N) {
        j = (struct product){.s = s,
                             .c = c,
                             .a = b,
                             .b = a,
                             .ta = true,
                             .tb = false,
                             .flip = true,
                             .alpha = alpha,
                             .beta = beta,
                             .M = c.cols,
                             .N = c.rows,
                             .K = j.K};
    }
    if (j.M <= AMX_STEP) {
        j.slices = (j.K + SLICE_K - 1) / SLICE_K;
        product_one_strip(&j);
    } else {
        product_many(&j);
    }
}
