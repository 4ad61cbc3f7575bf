/* product_f32.c - products of fp32 matrices with AVX-512: see product_f32.h.
 *
 * b is packed into panels, a chunk at a time, by all threads. An item is some rows of c and a block
 * of columns, whose panels stay in L2: it packs its strips of a, each of which then stays in L1
 * while the panels stream by. c collects the sums of the chunks of K, one after the other.
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
#define RANK_MAX 32

struct f32_product {
    struct kn_stream *s;
    struct kn_mat c, a, b;
    bool ta, tb;
    float alpha, beta;
    int64_t M, N, K;
    int64_t cols;                 /* of a block, whole panels */
    int64_t n0, n1, k0, k1;       /* the chunk at work, */
    int64_t steps, low_steps;     /* its steps of K, and those of the low-rank part behind them, */
    float *packed;                /* and its panels */
    struct product_f32_low *low;  /* or NULL */
};

static int64_t f32_vecs(int64_t cols)
{
    return (LH_MIN(F32_COLS, cols) + F32_VEC - 1) / F32_VEC;
}

static void f32_pack_item(void *arg, int64_t item, int thread)
{
    const struct f32_product *j = arg;
    int64_t n = j->n0 + item * F32_COLS, cols = LH_MIN(F32_COLS, j->n1 - n);
    int64_t steps = j->steps + j->low_steps;
    float *to = j->packed + item * F32_COLS * steps;

    (void)thread;
    product_f32_pack_b(to, j->b, j->tb, n, cols, j->k0, j->k1);
    if (!j->low)
        return;
    product_f32_pack_b(to + j->steps * f32_vecs(cols) * F32_VEC, j->low->q, j->low->t, n, cols, 0,
                       j->low->z.cols);
    if (n == 0)
        product_f32_pack_b(j->low->p_panel, j->low->p, j->low->t, 0, j->low->z.cols, 0, j->K);
}

/* Rows [m, ...) and cols columns from n on of c = factor * tile (+ c). */
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

/* One strip against the panel of column n. */
static void f32_tile(const struct f32_product *j, int64_t m, int64_t n, const float *strip,
                     struct f32_ahead ahead)
{
    int64_t cols = LH_MIN(F32_COLS, j->n1 - n), steps = j->steps + j->low_steps;
    const float *panel = j->packed + (n - j->n0) * steps;
    bool add = j->k0 > 0 || j->beta != 0.0f;
    float tile[F32_ROWS * F32_COLS] __attribute__((aligned(64)));

    if (m + F32_ROWS <= j->M && cols % F32_VEC == 0) {
        product_f32_tile((int)f32_vecs(cols), steps, strip, panel,
                         (float *)j->c.p + m * j->c.ld + n, j->c.ld, add, ahead);
        return;
    }
    product_f32_tile((int)f32_vecs(cols), steps, strip, panel, tile, F32_COLS, false, ahead);
    f32_put(j->c, m, n, cols, tile, 1.0f, add);
}

/* z of a strip, and what it adds to the strip. Other blocks of columns find z where the first has
 * put it. */
static void f32_low_strip(const struct f32_product *j, int64_t m, bool first, float *strip)
{
    const struct product_f32_low *low = j->low;
    int64_t R = low->z.cols;
    float tile[F32_ROWS * F32_COLS] __attribute__((aligned(64)));

    if (first) {
        product_f32_tile((int)f32_vecs(R), j->steps, strip, low->p_panel, tile, F32_COLS, false,
                         (struct f32_ahead){(const char *)strip, 0});
        f32_put(low->z, m, 0, R, tile, low->z_scale, false);
    }
    product_f32_pack_a(strip + j->steps * F32_ROWS, 0, low->z, false, m, LH_MIN(F32_ROWS, j->M - m),
                       0, R, low->c_scale);
}

/* Tile i of n of a group asks for its part of the rows of a that the group at m will be packed
 * from: some rows, or where a is stored transposed one line of a quarter of them. */
static struct f32_ahead f32_ahead(const struct f32_product *j, int64_t m, int64_t i, int64_t n)
{
    int64_t size = (int64_t)kn_dtype_bytes(j->a.t), rows = LH_MIN(F32_GROUP, j->M - m);
    int64_t per = (rows + n - 1) / n, r = m, k = j->k0;

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
    int64_t groups = (j->M + ITEM_ROWS - 1) / ITEM_ROWS, ld = (j->steps + j->low_steps) * F32_ROWS;
    int64_t m0 = item % groups * ITEM_ROWS, m1 = LH_MIN(j->M, m0 + ITEM_ROWS);
    int64_t n0 = j->n0 + item / groups * j->cols, n1 = LH_MIN(j->n1, n0 + j->cols);
    int64_t panels = (n1 - n0 + F32_COLS - 1) / F32_COLS;
    float *strips = j->s->local[thread].p;

    for (int64_t m = m0; m < m1; m += F32_ROWS) {
        int64_t strip = (m - m0) % F32_GROUP / F32_ROWS, next = m - strip * F32_ROWS + F32_GROUP;
        float *at = strips + strip * ld;

        if (strip == 0)
            product_f32_pack_a(strips, ld, j->a, j->ta, m, LH_MIN(F32_GROUP, m1 - m), j->k0, j->k1,
                               j->alpha);
        if (j->low)
            f32_low_strip(j, m, n0 == 0, at);
        for (int64_t i = 0; i < panels; i++)
            f32_tile(j, m, n0 + i * F32_COLS, at,
                     f32_ahead(j, LH_MIN(next, j->M - 1), strip * panels + i,
                               panels * (F32_GROUP / F32_ROWS)));
    }
}

static void f32_run(struct f32_product *j)
{
    int64_t low_steps = j->low ? f32_up(j->low->z.cols, F32_STEPS) : 0, N = f32_up(j->N, F32_COLS);
    int64_t k_chunks = (j->K + K_CHUNK - 1) / K_CHUNK;
    int64_t k_chunk = f32_up((j->K + k_chunks - 1) / k_chunks, F32_STEPS);
    int64_t steps = k_chunk + low_steps, blocks, chunk;
    uint64_t low_floats = j->low ? (uint64_t)(k_chunk * F32_COLS) : 0;

    j->cols = LH_MAX(1, BLOCK_MAX / 4 / steps / F32_COLS) * F32_COLS;
    blocks = (N + j->cols - 1) / j->cols;
    j->cols = f32_up((N + blocks - 1) / blocks, F32_COLS);
    chunk = LH_MAX(1, PACKED_MAX / 4 / steps / j->cols) * j->cols;
    chunk = LH_MIN(N, chunk);
    j->packed = stream_shared(j->s, ((uint64_t)(chunk * steps) + low_floats) * 4);
    if (!j->packed ||
        !stream_local(j->s, (uint64_t)(F32_GROUP * steps) * 4))
        return;
    if (j->low)
        j->low->p_panel = j->packed + chunk * steps;
    j->low_steps = low_steps;
    for (j->n0 = 0; j->n0 < j->N; j->n0 = j->n1) {
        j->n1 = LH_MIN(j->N, j->n0 + chunk);
        for (j->k0 = 0; j->k0 < j->K; j->k0 = j->k1) {
            j->k1 = LH_MIN(j->K, j->k0 + k_chunk);
            j->steps = f32_up(j->k1 - j->k0, F32_STEPS);
            pool_run(j->s->pool, (j->n1 - j->n0 + F32_COLS - 1) / F32_COLS, f32_pack_item, j);
            pool_run(j->s->pool,
                     (j->n1 - j->n0 + j->cols - 1) / j->cols * ((j->M + ITEM_ROWS - 1) / ITEM_ROWS),
                     f32_item, j);
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

bool product_f32_low_suits(int64_t M, int64_t N, int64_t K, int64_t R)
{
    return product_f32_suits(M, N) && K <= K_CHUNK && R > 0 && R <= RANK_MAX;
}

void product_f32_low(struct kn_stream *s, struct kn_mat c, struct kn_mat a, struct kn_mat b,
                     float beta, struct product_f32_low *low)
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
