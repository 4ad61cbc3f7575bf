/* product_f32.c - products in fp32 with AVX-512: see product_f32.h.
 *
 * b is packed into panels of F32_COLS columns, a chunk at a time, by all threads. An item is
 * ITEM_ROWS rows of c and a block of columns whose panels stay in L2: it packs its rows of a, group
 * by group, into strips, each of which stays in L1 while the panels stream by. Elements of bf16 are
 * widened as they are packed. Between the chunks of K the sums wait in c, or where c is bf16 in
 * scratch.
 *
 * The cuts follow from the shapes alone, and one item makes its part of c: same bits for any number
 * of threads. The low-rank part of a product is some more steps of K: z of a strip is made first,
 * from the same packed rows of a.
 */
#include "kernels/cpu/product_f32.h"
#include "kernels/cpu/product_f32_tile.h"
#include "kernels/cpu/vec.h"

#define ITEM_ROWS 128
#define K_CHUNK 768            /* a strip of so many steps is half of L1 */
#define BLOCK_MAX (1400 << 10) /* bytes of panels that an item streams from L2 */
#define PACKED_MAX (4 << 20)   /* bytes of panels at a time, shared by all threads */
#define SUMS_MAX (8 << 20)     /* bytes of sums that wait between chunks of K */
#define RANK_MAX 32            /* of the low-rank part: one panel */

struct f32_product {
    struct kn_stream *s;
    struct kn_mat c, a, b;
    bool ta, tb;
    float alpha, beta;
    int64_t M, N, K;
    int64_t cols; /* of a block, whole panels */

    /* The chunk at work. */
    int64_t m0, m1, n0, n1, k0, k1;
    int64_t steps, low_steps;      /* of K, and of the low-rank part behind them */
    float *packed;                 /* panels */
    struct kn_mat sums;            /* of the chunk's rows and columns: part of c, or scratch */
    const struct product_low *low; /* or NULL, and */
    float *p_panel;                /* its own packed */
};

static int64_t f32_parts(int64_t n, int64_t of)
{
    return (n + of - 1) / of;
}

static int f32_vecs(int64_t cols)
{
    return (int)f32_parts(LH_MIN(F32_COLS, cols), F32_VEC);
}

static void f32_pack_item(void *arg, int64_t item, int thread)
{
    const struct f32_product *j = arg;
    int64_t n = j->n0 + item * F32_COLS, cols = LH_MIN(F32_COLS, j->n1 - n);
    float *to = j->packed + item * F32_COLS * (j->steps + j->low_steps);

    (void)thread;
    product_f32_pack_b(to, j->b, j->tb, n, cols, j->k0, j->k1);
    if (!j->low)
        return;
    product_f32_pack_b(to + j->steps * f32_vecs(cols) * F32_VEC, j->low->q, j->low->t, n, cols, 0,
                       j->low->z.cols);
    if (n == 0)
        product_f32_pack_b(j->p_panel, j->low->p, j->low->t, 0, j->low->z.cols, 0, j->K);
}

/* The tile's rows that c has from m on, its columns [n, n + cols): c = factor * tile (+ c). */
static void f32_put(struct kn_mat c, int64_t m, int64_t n, int64_t cols, const float *tile,
                    float factor, bool add)
{
    for (int64_t r = 0; r < LH_MIN(F32_ROWS, c.rows - m); r++) {
        for (int64_t v = 0; v < cols; v += VEC) {
            vf x = *(const vf *)(tile + r * F32_COLS + v) * factor;

            if (add)
                x += vf_load(c, m + r, n + v, cols - v);
            vf_store(c, m + r, n + v, cols - v, x);
        }
    }
}

/* One strip against the panel of the chunk's column n; m: row of the chunk. */
static void f32_tile(const struct f32_product *j, int64_t m, int64_t n, const float *strip,
                     struct f32_ahead ahead)
{
    int64_t cols = LH_MIN(F32_COLS, j->sums.cols - n), steps = j->steps + j->low_steps;
    const float *panel = j->packed + n * steps;
    bool add = j->k0 > 0 || (j->beta != 0.0f && j->sums.t == j->c.t);
    float tile[F32_ROWS * F32_COLS] __attribute__((aligned(64)));

    if (j->sums.t == KN_F32 && m + F32_ROWS <= j->sums.rows && cols % F32_VEC == 0) {
        product_f32_tile(f32_vecs(cols), steps, strip, panel,
                         (float *)j->sums.p + m * j->sums.ld + n, j->sums.ld, add, ahead);
        return;
    }
    product_f32_tile(f32_vecs(cols), steps, strip, panel, tile, F32_COLS, false, ahead);
    f32_put(j->sums, m, n, cols, tile, 1.0f, add);
}

/* z of a strip, rounded as it is stored, and what it adds to the strip. Every block of columns
 * makes it for itself, and the first one keeps it. */
static void f32_low_strip(const struct f32_product *j, int64_t m, bool keep, float *strip)
{
    const struct product_low *low = j->low;
    int64_t R = low->z.cols, rows = LH_MIN(F32_ROWS, j->M - m);
    float tile[F32_ROWS * F32_COLS] __attribute__((aligned(64))), room[F32_ROWS * RANK_MAX];
    struct kn_mat z = kn_mat(room, low->z.t, rows, R);

    product_f32_tile(f32_vecs(R), j->steps, strip, j->p_panel, tile, F32_COLS, false,
                     (struct f32_ahead){(const char *)strip, 0});
    f32_put(z, 0, 0, R, tile, low->z_scale, false);
    if (keep)
        f32_put(low->z, m, 0, R, tile, low->z_scale, false);
    product_f32_pack_a(strip + j->steps * F32_ROWS, 0, z, false, 0, rows, 0, R, low->c_scale);
}

/* Tile i of n of a group asks for its part of the rows of a that the group at m will be packed
 * from: some rows, or where a is stored transposed one line of a quarter of them. */
static struct f32_ahead f32_ahead(const struct f32_product *j, int64_t m, int64_t i, int64_t n)
{
    int64_t size = (int64_t)kn_dtype_bytes(j->a.t), rows = LH_MIN(F32_GROUP, j->M - m);
    int64_t per = f32_parts(rows, n), r = m, k = j->k0;

    if (j->ta) {
        k += i / 3 % 4 * (j->k1 - j->k0) / 4;
        r += LH_MIN(i % 3 * 64 / size, rows - 1);
        return (struct f32_ahead){(const char *)j->a.p + (k * j->a.ld + r) * size, j->a.ld * size};
    }
    r += LH_MIN(i * per, rows - 1);
    return (struct f32_ahead){(const char *)j->a.p + (r * j->a.ld + k) * size, 4 * per * size};
}

/* Blocks of columns one after the other, so that a block's panels stay in L2. */
static void f32_item(void *arg, int64_t item, int thread)
{
    const struct f32_product *j = arg;
    int64_t items = f32_parts(j->m1 - j->m0, ITEM_ROWS), ld = (j->steps + j->low_steps) * F32_ROWS;
    int64_t first = j->m0 + item % items * ITEM_ROWS, last = LH_MIN(j->m1, first + ITEM_ROWS);
    int64_t n0 = item / items * j->cols, n1 = LH_MIN(j->sums.cols, n0 + j->cols);
    int64_t panels = f32_parts(n1 - n0, F32_COLS);
    float *strips = j->s->local[thread].p;

    for (int64_t m = first; m < last; m += F32_ROWS) {
        int64_t strip = (m - first) % F32_GROUP / F32_ROWS, next = m - strip * F32_ROWS + F32_GROUP;
        float *at = strips + strip * ld;

        if (strip == 0)
            product_f32_pack_a(strips, ld, j->a, j->ta, m, LH_MIN(F32_GROUP, last - m), j->k0,
                               j->k1, j->alpha);
        if (j->low)
            f32_low_strip(j, m, j->n0 + n0 == 0, at);
        for (int64_t i = 0; i < panels; i++)
            f32_tile(j, m - j->m0, n0 + i * F32_COLS, at,
                     f32_ahead(j, LH_MIN(next, j->M - 1), strip * panels + i,
                               panels * (F32_GROUP / F32_ROWS)));
    }
}

/* Sums in scratch become rows of c. */
static void f32_finish_item(void *arg, int64_t item, int thread)
{
    const struct f32_product *j = arg;
    struct kn_mat c = kn_sub(j->c, j->m0, j->m1 - j->m0, j->n0, j->n1 - j->n0);
    int64_t first = item * F32_ROWS, last = LH_MIN(c.rows, first + F32_ROWS);

    (void)thread;
    if (j->beta != 0.0f)
        j->s->level->add_part(c, c, j->sums, first, last);
    else
        j->s->level->copy_part(c, j->sums, first, last);
}

static void f32_chunk(struct f32_product *j, int64_t k_chunk, float *scratch)
{
    int64_t rows = j->m1 - j->m0, cols = j->n1 - j->n0;

    j->sums =
        scratch ? kn_mat(scratch, KN_F32, rows, cols) : kn_sub(j->c, j->m0, rows, j->n0, cols);
    for (j->k0 = 0; j->k0 < j->K; j->k0 = j->k1) {
        j->k1 = LH_MIN(j->K, j->k0 + k_chunk);
        j->steps = f32_up(j->k1 - j->k0, F32_STEPS);
        pool_run(j->s->pool, f32_parts(cols, F32_COLS), f32_pack_item, j);
        pool_run(j->s->pool, f32_parts(cols, j->cols) * f32_parts(rows, ITEM_ROWS), f32_item, j);
    }
    if (scratch)
        pool_run(j->s->pool, f32_parts(rows, F32_ROWS), f32_finish_item, j);
}

/* Sizes the chunks, takes scratch for them, and makes c of them. */
static void f32_run(struct f32_product *j)
{
    int64_t N = f32_up(j->N, F32_COLS), k_chunks = f32_parts(j->K, K_CHUNK), rows = j->M, chunk;
    int64_t k_chunk = f32_up(f32_parts(j->K, k_chunks), F32_STEPS), steps = k_chunk;
    uint64_t packed, low = 0, sums = 0;

    if (j->low) {
        j->low_steps = f32_up(j->low->z.cols, F32_STEPS);
        steps += j->low_steps;
        low = (uint64_t)(k_chunk * F32_COLS) * 4;
    }
    j->cols = LH_MAX(1, BLOCK_MAX / 4 / steps / F32_COLS) * F32_COLS;
    j->cols = f32_up(f32_parts(N, f32_parts(N, j->cols)), F32_COLS);
    chunk = LH_MIN(N, LH_MAX(1, PACKED_MAX / 4 / steps / j->cols) * j->cols);
    packed = (uint64_t)(chunk * steps) * 4;
    if (k_chunks > 1 && j->c.t != KN_F32) {
        rows = LH_MIN(rows, LH_MAX(1, SUMS_MAX / 4 / chunk / ITEM_ROWS) * ITEM_ROWS);
        sums = (uint64_t)(rows * chunk) * 4;
    }
    j->packed = stream_shared(j->s, packed + low + sums);
    if (!j->packed || !stream_local(j->s, (uint64_t)(F32_GROUP * steps) * 4))
        return;
    if (j->low)
        j->p_panel = j->packed + chunk * steps;
    for (j->n0 = 0; j->n0 < j->N; j->n0 = j->n1) {
        j->n1 = LH_MIN(j->N, j->n0 + chunk);
        for (j->m0 = 0; j->m0 < j->M; j->m0 = j->m1) {
            j->m1 = LH_MIN(j->M, j->m0 + rows);
            f32_chunk(j, k_chunk, sums > 0 ? j->packed + (packed + low) / 4 : NULL);
        }
    }
}

void product_f32(struct kn_stream *s, struct kn_mat c, struct kn_mat a, bool ta, struct kn_mat b,
                 bool tb, float alpha, float beta)
{
    struct f32_product j = {.s = s,
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

    f32_run(&j);
}

bool product_f32_low_fits(int64_t K, int64_t R)
{
    return K > 0 && K <= K_CHUNK && R > 0 && R <= RANK_MAX;
}

void product_f32_low(struct kn_stream *s, struct kn_mat c, struct kn_mat a, struct kn_mat b,
                     float beta, const struct product_low *low)
{
    struct f32_product j = {.s = s,
                            .c = c,
                            .a = a,
                            .b = b,
                            .tb = low->t,
                            .alpha = 1.0f,
                            .beta = beta,
                            .M = c.rows,
                            .N = c.cols,
                            .K = a.cols,
                            .low = low};

    f32_run(&j);
}
