/* product_amx.c - products by tile registers: see product_amx.h.
 *
 * b is packed into panels of 32 columns in the order that the registers want, a chunk at a time, by
 * all threads; a is read where it lies when it is bf16 and its rows are whole steps. An item walks
 * down strips of 32 rows (product_strip.h), with a block of columns whose panels stream from L2.
 * Items of fp32 in parts go the other way round (product_parts.c).
 *
 * The cuts follow from the shapes alone, and one item makes a block of c from first to last: same
 * bits for any number of threads. A c of few columns is made transposed, so that the long side runs
 * along the panels. When c has one strip only, nothing is shared by rows: items are slices of K
 * then, pack for themselves, and their sums are added in order.
 */
#include "kernels/cpu/product_amx.h"
#include "kernels/cpu/product_strip.h"
#include "kernels/cpu/vec.h"

#define ITEM_ROWS 128
#define K_CHUNK 4096             /* of packed panels */
#define K_LOW_PARTS 2048         /* of a product of parts with a low-rank one: K is one chunk */
#define PACKED_MAX (4 << 20)     /* bytes of panels at a time, shared by all threads */
#define BLOCK_MAX (1 << 20)      /* bytes of panels that an item streams from L2 */
#define BLOCK_ALONE (5 << 18)    /* where that is all */
#define SLICE_K 512              /* of a c with one strip: K is shared out in slices, */
#define SLICE_STEP 128           /* packed so much at a time, */
#define SLICE_COLS 64            /* in blocks of columns; */
#define SLICE_COLS_MAX 2048      /* of whole rows of b more */
#define K_CHUNK_PARTS 768        /* of parts */
#define STRIPS_BYTES (900 << 10) /* of an item of parts, */
#define COLS_PARTS 1024          /* against so many columns at the most */
#define K_CHUNK_T 1024      /* of a that is stored transposed: its rows are packed like panels, */
#define ROWS_MAX (8 << 20)  /* so many bytes of them at a time */
#define SUMS_MAX (16 << 20) /* bytes of sums that wait between chunks of K */

/* Points p at the rows of a that strip m needs, in place or copied to room. Of bf16 only. */
static void product_rows(const struct product *j, struct product_part *p, uint16_t *room)
{
    int64_t K = product_up(p->k1 - p->k0);

    p->a = (struct product_rows){room, AMX_STEP, AMX_BLOCK};
    p->ahead[0] = (struct product_ahead){NULL, AHEAD_BYTES};
    p->ahead[1] = p->ahead[0];
    if (product_direct(j, p->m, p->n0))
        p->ahead[1].p = (const char *)((float *)j->c.p + (p->m + AMX_STEP) * j->c.ld + p->n0);
    else if (j->sums && j->slices == 0)
        p->ahead[1].p =
            (const char *)(j->sums + (p->m + AMX_STEP - j->m0) * j->ld_sums + (p->n0 - j->n0));
    if (j->rows) {
        p->a.p = j->rows + (p->m - j->m0) * K;
        p->ahead[0].p = (const char *)(p->a.p + AMX_STEP * K);
    } else if (!j->ta && product_in_place(j->a, p->m, p->k1 - p->k0)) {
        p->a = (struct product_rows){(const uint16_t *)j->a.p + p->m * j->a.ld + p->k0, j->a.ld,
                                     AMX_STEP};
        p->ahead[0].p = (const char *)(p->a.p + AMX_STEP * j->a.ld);
    } else {
        product_pack_a(room, j->a, j->ta, p->m, LH_MIN(AMX_STEP, j->M - p->m), p->k0, p->k1);
    }
}

/* Panels of columns [n0, n1), one behind the other. */
static void product_pack_panels(uint16_t *to, struct kn_mat b, bool tb, int64_t n0, int64_t n1,
                                int64_t k0, int64_t k1)
{
    int64_t K = product_up(k1 - k0);

    for (int64_t n = n0; tb && n < n1; n += AMX_STEP)
        product_pack_b(to + (n - n0) * K, b, true, n, LH_MIN(AMX_STEP, n1 - n), k0, k1);
    for (int64_t k = k0; !tb && k < k1; k += AMX_STEP)
        product_pack_step(to + (k - k0) * AMX_STEP, K, b, n0, n1, k, k1);
}

/* One panel of a b that is stored transposed, else one step of K. */
static void product_pack_item(void *arg, int64_t item, int thread)
{
    const struct product *j = arg;
    int64_t K = product_packed(j, j->k1 - j->k0), n = j->n0 + item * AMX_STEP;

    (void)thread;
    if (j->tb)
        product_pack_b(j->packed + item * AMX_STEP * K, j->b, true, n, LH_MIN(AMX_STEP, j->N - n),
                       j->k0, j->k1);
    else
        product_pack_step(j->packed + item * AMX_BLOCK * j->parts, K, j->b, j->n0, j->n1,
                          j->k0 + item * AMX_STEP, j->k1);
}

static void product_pack_low_item(void *arg, int64_t item, int thread)
{
    const struct product *j = arg;
    const struct product_low *low = j->low;
    int64_t n = j->n0 + item * AMX_STEP;

    (void)thread;
    product_pack_b(j->q_panels + item * AMX_BLOCK * j->parts, low->q, low->t, n,
                   LH_MIN(AMX_STEP, j->N - n), 0, low->z.cols);
    if (n == 0)
        product_pack_b(j->p_panel, low->p, low->t, 0, low->z.cols, 0, j->K);
}

void product_pack_turned(const struct product *j, uint16_t *to, int64_t m0, int64_t m1, int64_t k)
{
    int64_t K = product_packed(j, j->k1 - j->k0);

    for (int64_t m = m0; m < m1; m += AMX_STEP)
        product_pack_a(to + (m - m0) * K + (k - j->k0) * AMX_STEP * j->parts, j->a, true, m,
                       LH_MIN(AMX_STEP, j->M - m), k, LH_MIN(j->k1, k + AMX_STEP));
}

static void product_pack_rows_item(void *arg, int64_t item, int thread)
{
    const struct product *j = arg;

    (void)thread;
    product_pack_turned(j, j->rows, j->m0, j->m1, j->k0 + item * AMX_STEP);
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
    uint16_t *low = j->s->local[thread].p, *rows = low + AMX_BLOCK;
    float *room = (float *)(rows + AMX_STEP * K);

    product_amx_begin();
    for (p.m = m_first; p.m < LH_MIN(j->m1, m_first + ITEM_ROWS); p.m += AMX_STEP) {
        product_rows(j, &p, rows);
        if (j->low)
            product_low_strip(j, &p, n0 == 0, room, low);
        product_strip(j, &p, room, j->low ? low : NULL);
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
        product_strip(&part, &p, NULL, NULL);
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
    int64_t rows = j->parts == 1 ? ITEM_ROWS : j->strips * AMX_STEP;
    int64_t groups = (j->m1 - j->m0 + rows - 1) / rows;
    int64_t steps = (j->k1 - j->k0 + AMX_STEP - 1) / AMX_STEP;

    if (j->m0 == 0 || j->sums) { /* else the panels of the rows before are these */
        pool_run(j->s->pool, j->tb ? panels : steps, product_pack_item, j);
        if (j->low)
            pool_run(j->s->pool, panels, product_pack_low_item, j);
    }
    if (j->rows)
        pool_run(j->s->pool, steps, product_pack_rows_item, j);
    pool_run(j->s->pool, blocks * groups, j->parts == 1 ? product_item : product_parts_item, j);
}

/* Columns of a block; K: bf16 of a packed one. */
static int64_t product_block_cols(const struct product *j, int64_t N, int64_t K)
{
    int64_t even = (N + COLS_PARTS - 1) / COLS_PARTS; /* blocks of parts */

    if (j->parts > 1)
        return product_up((N + even - 1) / even);
    if (2 * K * product_up(N) <= BLOCK_ALONE)
        return product_up(N);
    return LH_MAX(AMX_STEP, BLOCK_MAX / (2 * K) / AMX_STEP * AMX_STEP);
}

/* Sizes the chunks and takes scratch for them. *ret_chunk: columns, *ret_rows: rows. */
static bool product_reserve(struct product *j, int64_t k_chunk, int64_t *ret_chunk,
                            int64_t *ret_rows)
{
    int64_t K = product_packed(j, LH_MIN(j->K, k_chunk)), rows = product_up(j->M), chunk;
    bool shared = j->ta && j->parts == 1;
    uint64_t packed, strips, sums = 0, low = 0;
    char *at;

    j->cols = product_block_cols(j, j->N, K);
    chunk = LH_MIN(product_up(j->N), LH_MAX(j->cols, PACKED_MAX / (2 * K) / j->cols * j->cols));
    if (j->K > k_chunk) {
        j->ld_sums = chunk + AMX_STEP;
        rows = LH_MIN(rows, LH_MAX(ITEM_ROWS, SUMS_MAX / 4 / j->ld_sums / ITEM_ROWS * ITEM_ROWS));
    }
    if (shared)
        rows = LH_MIN(rows, LH_MAX(ITEM_ROWS, ROWS_MAX / (2 * K) / ITEM_ROWS * ITEM_ROWS));
    if (j->K > k_chunk)
        sums = (uint64_t)(rows * j->ld_sums) * 4;
    if (j->low)
        low = (uint64_t)((chunk * j->parts + K) * AMX_STEP) * 2;
    packed = (uint64_t)(chunk * K) * 2;
    strips = shared ? (uint64_t)(rows * K) * 2 : 0;
    *ret_chunk = chunk;
    *ret_rows = rows;
    at = stream_shared(j->s, packed + sums + strips + low);
    if (!at)
        return false;
    j->packed = (uint16_t *)at;
    j->sums = sums > 0 ? (float *)(at + packed) : NULL;
    j->rows = shared ? (uint16_t *)(at + packed + sums) : NULL;
    if (j->low) {
        j->q_panels = (uint16_t *)(at + packed + sums + strips);
        j->p_panel = j->q_panels + chunk * AMX_STEP * j->parts;
    }
    j->strips = j->parts == 1 ? 1 : LH_MAX(1, LH_MIN(STRIPS_MAX, STRIPS_BYTES / (64 * K)));
    return stream_local(j->s, (uint64_t)(j->strips * AMX_STEP * (AMX_STEP * j->parts + K)) * 2 +
                                  (uint64_t)(AMX_STEP * (j->cols + 2 * AMX_STEP)) * 4);
}

/* Of whole steps. The low-rank part needs all of K at once. Parts come in chunks of one size. */
static int64_t product_k_chunk(const struct product *j)
{
    int64_t chunks = (j->K + K_CHUNK_PARTS - 1) / K_CHUNK_PARTS;

    if (j->low || (j->parts == 1 && !j->ta))
        return K_CHUNK;
    return j->parts == 1 ? K_CHUNK_T : product_up((j->K + chunks - 1) / chunks);
}

static void product_many(struct product *j)
{
    int64_t k_chunk = product_k_chunk(j), chunk, rows;

    if (!product_reserve(j, k_chunk, &chunk, &rows))
        return;
    for (j->n0 = 0; j->n0 < j->N; j->n0 = j->n1) {
        j->n1 = LH_MIN(j->N, j->n0 + chunk);
        for (j->m0 = 0; j->m0 < j->M; j->m0 = j->m1) {
            j->m1 = LH_MIN(j->M, j->m0 + rows);
            for (j->k0 = 0; j->k0 < j->K; j->k0 = j->k1) {
                j->k1 = LH_MIN(j->K, j->k0 + k_chunk);
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
                        .K = ta ? a.rows : a.cols,
                        .parts = product_parts(a.t)};

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
                             .K = j.K,
                             .parts = j.parts};
    }
    if (j.M <= AMX_STEP) {
        j.slices = (j.K + SLICE_K - 1) / SLICE_K;
        product_one_strip(&j);
    } else {
        product_many(&j);
    }
}

bool product_amx_low_suits(enum kn_dtype t, int64_t M, int64_t K, int64_t R)
{
    return M > AMX_STEP && K <= (t == KN_BF16 ? K_CHUNK : K_LOW_PARTS) && R > 0 && R <= AMX_STEP;
}

void product_amx_low(struct kn_stream *s, struct kn_mat c, struct kn_mat a, struct kn_mat b,
                     float beta, const struct product_low *low)
{
    struct product j = {.s = s,
                        .c = c,
                        .a = a,
                        .b = b,
                        .tb = low->t,
                        .alpha = 1.0f,
                        .beta = beta,
                        .M = c.rows,
                        .N = c.cols,
                        .K = a.cols,
                        .parts = product_parts(a.t),
                        .low = low};

    product_many(&j);
}
