/* matmul.c - products of any size out of single-threaded tiles (onednn.h).
 *
 * c is cut into tiles whose size follows from the shapes alone, never from the number of threads;
 * the sum over K is never cut. Sub-matrices and transposes are strides. When many tiles read the
 * same b, it is packed first, column by column of tiles, into the layout that oneDNN would
 * otherwise make for each tile again.
 *
 * With tile registers products go to product_amx.c, except those of a few rows. With AVX-512 the
 * others of fp32 that have many rows go to product_f32.c, and so do all of bf16 where the processor
 * has no fast products of bf16 pairs; without AVX-512 such are widened to fp32 tile by tile
 * ("wide"), since oneDNN's bf16 would be emulated or a plain loop.
 */
#include "kernels/cpu/onednn.h"
#include "kernels/cpu/product_amx.h"
#include "kernels/cpu/product_f32.h"
#include "kernels/cpu/stream.h"
#include <stdatomic.h>
#include <string.h>

#define ROWS_FEW 64
#define TILES_MANY 8      /* enough for the threads to share, evenly on 2 and fairly on more */
#define B_LARGE (8 << 20) /* elements: 16 MiB of bf16, more than L2 and most shares of L3 */
#define PACK_ROWS_MIN 4   /* tiles that read the same b before packing it first pays */
#define PACK_BYTES_MAX (32 << 20) /* a greater b leaves the caches before it is used */

/* One product on its way through the pool. Tiles are of four shapes: whole, last row, last column,
 * corner. */
struct matmul_job {
    struct kn_stream *s;
    struct kn_mat c, a, b;
    bool ta, tb, wide;
    float alpha, beta;
    int64_t rows, cols;                   /* of a whole tile */
    int64_t n_rows, n_cols;               /* tiles down and across */
    const struct onednn_prim *prim[2][2]; /* [is the last row of tiles][is the last column] */
    uint64_t a_bytes, b_bytes,
        c_bytes;            /* of one thread: widened operands, a tile of c before it is narrowed */
    uint64_t scratch_bytes; /* of one thread, behind them: oneDNN's */
    char *packed;           /* b, packed_bytes a column of tiles; NULL: read as it is */
    uint64_t packed_bytes;
    atomic_int failed; /* a status of oneDNN */
};

static int64_t matmul_inner(const struct matmul_job *j)
{
    return j->ta ? j->a.rows : j->a.cols;
}

static uint64_t matmul_round(uint64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static int64_t matmul_parts(int64_t n, int64_t of)
{
    return (n + of - 1) / of;
}

/* Sizes of tiles; measured with bf16 on a processor with tile registers.
 *
 * Where b fits the caches, tiles are whole rows of c, because oneDNN has its best kernels for a
 * dense c only. It repacks b for each tile: 13 % of the time at 64 rows of 576 to 1536, 3 % at 256.
 * So rows as many as leave tiles to share. A b beyond the caches is read again for each row of
 * tiles: many rows then, and columns cut to get tiles to share (512 x 4096 x 4096: 24 ms so, 31 ms
 * by the rule above). A few rows are bound by reading b and cut across as well. Widened operands
 * bound their scratch by cutting both ways. A smaller M must never get a larger tile, and with it
 * more scratch.
 */
static void matmul_cut(struct matmul_job *j)
{
    int64_t M = j->c.rows, N = j->c.cols, cols = N;

    j->rows = M >= 2048 ? 256 : M >= 512 ? 128 : 64;
    if (j->wide || M <= ROWS_FEW) {
        cols = 512;
    } else if (N * matmul_inner(j) > B_LARGE) {
        j->rows = 512;
        cols = LH_MAX(192, LH_MIN(2048, N * matmul_parts(M, j->rows) / TILES_MANY));
    }
    j->rows = LH_MIN(M, j->rows);
    j->n_rows = matmul_parts(M, j->rows);
    j->cols = matmul_parts(N, matmul_parts(N, cols));
    if (j->cols < N)
        j->cols = matmul_parts(j->cols, 64) * 64;
    j->n_cols = matmul_parts(N, j->cols);
}

static int64_t matmul_tile_rows(const struct matmul_job *j, int64_t i)
{
    return LH_MIN(j->rows, j->c.rows - i * j->rows);
}

static int64_t matmul_tile_cols(const struct matmul_job *j, int64_t i)
{
    return LH_MIN(j->cols, j->c.cols - i * j->cols);
}

static const struct onednn_prim *matmul_prim(const struct matmul_job *j, int64_t row, int64_t col)
{
    return j->prim[row == j->n_rows - 1][col == j->n_cols - 1];
}

/* Finds the primitives of the four shapes of tile. */
static bool matmul_find(struct matmul_job *j, bool packed)
{
    for (int corner = 0; corner < 4; corner++) {
        int64_t row = corner & 1 ? j->n_rows - 1 : 0, col = corner & 2 ? j->n_cols - 1 : 0;
        const struct onednn_prim **at = &j->prim[row == j->n_rows - 1][col == j->n_cols - 1];
        struct onednn_key k;

        memset(&k, 0, sizeof(k));
        k.M = matmul_tile_rows(j, row);
        k.N = matmul_tile_cols(j, col);
        k.K = matmul_inner(j);
        k.ta = j->ta;
        k.tb = j->tb;
        k.packed = packed;
        k.alpha = j->alpha;
        k.lda = j->wide ? (j->ta ? k.M : k.K) : j->a.ld;
        k.ldb = packed ? 0 : j->wide ? (j->tb ? k.K : k.N) : j->b.ld;
        k.t_ab = j->wide ? KN_F32 : j->a.t;
        k.t_c = j->wide ? KN_F32 : j->c.t;
        k.ldc = j->c_bytes ? k.N : j->c.ld;
        k.beta = j->beta != 0.0f && !j->c_bytes;
        *at = onednn_find(j->s->dnn, &k, &j->s->err);
        if (!*at)
            return false;
        j->scratch_bytes = LH_MAX(j->scratch_bytes, onednn_scratch_bytes(*at));
    }
    return true;
}

/* Is b worth packing, and can all tiles of a column read the same? Then the primitives are those
 * for it. */
static bool matmul_packs(struct matmul_job *j)
{
    if (j->wide || j->n_rows < PACK_ROWS_MIN || !matmul_find(j, true))
        return false;
    j->packed_bytes = 0;
    for (int64_t col = 0; col < j->n_cols; col += LH_MAX(1, j->n_cols - 1)) {
        const struct onednn_prim *first = matmul_prim(j, 0, col),
                                 *last = matmul_prim(j, j->n_rows - 1, col);

        if (onednn_packed_bytes(first) == 0 || !onednn_same_packing(first, last))
            return false;
        j->packed_bytes = LH_MAX(j->packed_bytes, matmul_round(onednn_packed_bytes(first)));
    }
    return (uint64_t)j->n_cols * j->packed_bytes <= PACK_BYTES_MAX;
}

static bool matmul_plan(struct matmul_job *j)
{
    uint64_t K = (uint64_t)matmul_inner(j);

    matmul_cut(j);
    if (j->wide) {
        j->a_bytes = matmul_round((uint64_t)j->rows * K * 4);
        j->b_bytes = matmul_round((uint64_t)j->cols * K * 4);
        j->c_bytes = j->c.t == KN_BF16 ? matmul_round((uint64_t)(j->rows * j->cols) * 4) : 0;
    }
    onednn_begin(j->s->dnn);
    if (matmul_packs(j)) {
        j->packed = stream_shared(j->s, (uint64_t)j->n_cols * j->packed_bytes);
        if (!j->packed)
            return false;
    } else if (j->s->err.code != 0 || !matmul_find(j, false)) {
        return false;
    }
    return stream_local(j->s, j->a_bytes + j->b_bytes + j->c_bytes + j->scratch_bytes);
}

/* The columns of b that a column of tiles reads. */
static struct kn_mat matmul_b(const struct matmul_job *j, int64_t col)
{
    int64_t c0 = col * j->cols, cols = matmul_tile_cols(j, col), K = matmul_inner(j);

    return j->tb ? kn_sub(j->b, c0, cols, 0, K) : kn_sub(j->b, 0, K, c0, cols);
}

static void matmul_pack_item(void *arg, int64_t col, int thread)
{
    struct matmul_job *j = arg;
    int rc = onednn_pack(j->s->dnn, matmul_prim(j, 0, col), thread, matmul_b(j, col).p, j->b.ld,
                         j->packed + (uint64_t)col * j->packed_bytes);

    if (rc != 0)
        atomic_store(&j->failed, rc);
}

static void matmul_item(void *arg, int64_t item, int thread)
{
    struct matmul_job *j = arg;
    int64_t row = item / j->n_cols, col = item % j->n_cols, K = matmul_inner(j);
    int64_t r0 = row * j->rows, rows = matmul_tile_rows(j, row), c0 = col * j->cols,
            cols = matmul_tile_cols(j, col);
    struct kn_mat a = j->ta ? kn_sub(j->a, 0, K, r0, rows) : kn_sub(j->a, r0, rows, 0, K);
    struct kn_mat b = matmul_b(j, col), c = kn_sub(j->c, r0, rows, c0, cols), c_tile = c;
    char *local = j->s->local[thread].p;
    const struct cpu_level *level = j->s->level;
    int rc;

    if (j->packed)
        b.p = j->packed + (uint64_t)col * j->packed_bytes;
    if (j->wide) {
        struct kn_mat wide_a = kn_mat(local, KN_F32, a.rows, a.cols);
        struct kn_mat wide_b = kn_mat(local + j->a_bytes, KN_F32, b.rows, b.cols);

        level->copy_part(wide_a, a, 0, a.rows);
        level->copy_part(wide_b, b, 0, b.rows);
        a = wide_a;
        b = wide_b;
    }
    if (j->c_bytes)
        c_tile = kn_mat(local + j->a_bytes + j->b_bytes, KN_F32, rows, cols);
    rc = onednn_run(j->s->dnn, matmul_prim(j, row, col), thread, a.p, b.p, c_tile.p,
                    local + j->a_bytes + j->b_bytes + j->c_bytes);
    if (rc != 0)
        atomic_store(&j->failed, rc);
    else if (j->c_bytes && j->beta != 0.0f)
        level->add_part(c, c, c_tile, 0, rows);
    else if (j->c_bytes)
        level->copy_part(c, c_tile, 0, rows);
}

#ifdef __x86_64__
/* Is this one for product_f32.c? */
static bool matmul_in_f32(const struct kn_stream *s, struct kn_mat a, bool ta, struct kn_mat c)
{
    if (a.t == KN_BF16)
        return s->isa == CPU_AVX512 && c.rows > 0 && c.cols > 0;
    return s->isa >= CPU_AVX512 && product_f32_suits(c.rows, c.cols, ta ? a.rows : a.cols, ta);
}
#endif

void cpu_matmul(struct kn_stream *s, struct kn_mat c, struct kn_mat a, bool ta, struct kn_mat b,
                bool tb, float alpha, float beta)
{
    struct matmul_job j = {
        .s = s, .c = c, .a = a, .b = b, .ta = ta, .tb = tb, .alpha = alpha, .beta = beta};

    if (!kn_check_matmul(cpu_check(s, "matmul"), c, a, ta, b, tb, beta) || c.rows == 0 ||
        c.cols == 0)
        return;
    if (matmul_inner(&j) == 0) {
        if (beta == 0.0f)
            s->level->ops.fill(s, c, 0.0f);
        return;
    }
#ifdef __x86_64__
    if (s->isa == CPU_AMX && product_amx_suits(a.t, c.rows, c.cols, matmul_inner(&j), ta)) {
        product_amx(s, c, a, ta, b, tb, alpha, beta);
        return;
    }
    if (matmul_in_f32(s, a, ta, c)) {
        product_f32(s, c, a, ta, b, tb, alpha, beta);
        return;
    }
#endif
    j.wide = a.t == KN_BF16 && s->isa < CPU_AVX512_BF16;
    if (!matmul_plan(&j))
        return;
    if (j.packed)
        pool_run(s->pool, j.n_cols, matmul_pack_item, &j);
    pool_run(s->pool, j.n_rows * j.n_cols, matmul_item, &j);
    if (atomic_load(&j.failed) != 0)
        stream_fail(s, LH_EINTERNAL, "oneDNN failed in a product of %lld x %lld (status %d)",
                    (long long)c.rows, (long long)c.cols, atomic_load(&j.failed));
}

void cpu_matmul_low(struct kn_stream *s, struct kn_mat c, struct kn_mat z, struct kn_mat a,
                    struct kn_mat b, struct kn_mat p, struct kn_mat q, bool t, float z_scale,
                    float c_scale, float beta)
{
#ifdef __x86_64__
    const struct product_low low = {
        .z = z, .p = p, .q = q, .t = t, .z_scale = z_scale, .c_scale = c_scale};
#endif

    if (!kn_check_matmul_low(cpu_check(s, "matmul_low"), c, z, a, b, p, q, t, beta))
        return;
#ifdef __x86_64__
    if (s->isa == CPU_AMX && product_amx_low_suits(a.t, c.rows, a.cols, z.cols)) {
        product_amx_low(s, c, a, b, beta, &low);
        return;
    }
    if (matmul_in_f32(s, a, false, c) && product_f32_low_fits(a.cols, z.cols)) {
        product_f32_low(s, c, a, b, beta, &low);
        return;
    }
#endif
    cpu_matmul(s, z, a, false, p, t, z_scale, 0.0f);
    cpu_matmul(s, c, a, false, b, t, 1.0f, beta);
    cpu_matmul(s, c, z, false, q, t, c_scale, 1.0f);
}
