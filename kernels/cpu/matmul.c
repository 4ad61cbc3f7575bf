/* matmul.c - products through oneDNN's matmul primitive (the C API of 2.6); the only file that
 * knows oneDNN.
 *
 * c is cut into tiles whose size follows from the shapes alone, never from the number of threads;
 * the sum over K is never cut. Each tile is one single-threaded primitive on one pool thread.
 * Primitives are kept in a bounded cache: creating one costs half a millisecond, running one
 * microseconds. Sub-matrices and transposes are strides.
 *
 * Without products of bf16 pairs in the processor oneDNN's bf16 is emulated or a plain loop, so
 * there tiles are widened to fp32 (matmul_wide). Bf16 sums shorter than K_PAIRS_MIN, the second
 * factor of LoRA, miss oneDNN's tile kernels: such operands are copied into zero-padded ones.
 * Measured on an AMX processor at 512x576x8: 73 GFLOP/s as they are.
 */
#include "kernels/cpu/stream.h"
#include <dnnl.h>
#include <errno.h>
#include <omp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_SETS                                                                                 \
    128 /* a model has some 40 shapes; 512 primitives hold a few hundred MB at the very worst */
#define CACHE_WAYS 4 /* one product has at most 4 shapes of tile, so it never drops its own */
#define K_PAIRS_MIN 32
#define TILES_MANY 8 /* enough for the threads to share, evenly on 2 and fairly on more */

/* What decides which primitive a tile needs. Compared as bytes: always cleared first. */
struct matmul_key {
    int64_t M, N, K, lda, ldb, ldc;
    enum kn_dtype t_ab, t_c;
    int ta, tb, beta;
    float alpha;
};

struct matmul_prim {
    struct matmul_key key;
    uint64_t used;         /* the product that last asked for it: the oldest of a full set goes */
    dnnl_primitive_t prim; /* NULL: a free way */
    size_t scratch_bytes;
    dnnl_memory_desc_t a, b, c, scratch;
};

struct matmul_cache {
    dnnl_engine_t engine;
    int threads;
    dnnl_stream_t *stream; /* one a thread */
    uint64_t products;     /* so far */
    struct matmul_prim way[CACHE_SETS][CACHE_WAYS];
};

/* One product on its way through the pool. Tiles are of four shapes: whole, last row, last column,
 * corner. */
struct matmul_job {
    struct kn_stream *s;
    struct kn_mat c, a, b;
    bool ta, tb, wide;
    float alpha, beta;
    int64_t rows, cols;                   /* of a whole tile */
    int64_t n_rows, n_cols;               /* tiles down and across */
    const struct matmul_prim *prim[2][2]; /* [is the last row of tiles][is the last column] */
    uint64_t a_bytes, b_bytes, c_bytes,
        scratch_bytes; /* of one thread: widened operands, oneDNN's scratch */
    atomic_int failed; /* a dnnl_status_t */
};

int matmul_cache_new(int threads, struct matmul_cache **ret_cache, struct lh_err *reterr)
{
    struct matmul_cache *m = calloc(1, sizeof(*m));
    dnnl_status_t rc = dnnl_success;

    if (m)
        m->stream = calloc((size_t)threads, sizeof(dnnl_stream_t));
    if (!m || !m->stream) {
        free(m);
        return lh_err_set(reterr, -ENOMEM, "the cache of products");
    }
    m->threads = threads;
    rc = dnnl_engine_create(&m->engine, dnnl_cpu, 0);
    for (int i = 0; i < threads && rc == dnnl_success; i++)
        rc = dnnl_stream_create(&m->stream[i], m->engine, dnnl_stream_default_flags);
    if (rc != dnnl_success) {
        matmul_cache_free(m);
        return lh_err_set(reterr, LH_EINTERNAL, "oneDNN does not start on this machine (status %d)",
                          (int)rc);
    }
    *ret_cache = m;
    return 0;
}

static void matmul_prim_release(struct matmul_prim *p)
{
    if (p->prim)
        (void)dnnl_primitive_destroy(p->prim);
    *p = (struct matmul_prim){0};
}

void matmul_cache_free(struct matmul_cache *m)
{
    if (!m)
        return;
    for (int i = 0; i < CACHE_SETS; i++)
        for (int j = 0; j < CACHE_WAYS; j++)
            matmul_prim_release(&m->way[i][j]);
    for (int i = 0; i < m->threads; i++)
        if (m->stream[i])
            (void)dnnl_stream_destroy(m->stream[i]);
    if (m->engine)
        (void)dnnl_engine_destroy(m->engine);
    free(m->stream);
    free(m);
}

static dnnl_data_type_t matmul_type(enum kn_dtype t)
{
    return t == KN_F32 ? dnnl_f32 : dnnl_bf16;
}

static dnnl_status_t matmul_desc(dnnl_memory_desc_t *md, int64_t rows, int64_t cols, int64_t ld,
                                 bool transposed, enum kn_dtype t)
{
    dnnl_dims_t dims = {rows, cols};
    dnnl_dims_t strides = {transposed ? 1 : ld, transposed ? ld : 1};

    return dnnl_memory_desc_init_by_strides(md, 2, dims, matmul_type(t), strides);
}

static dnnl_status_t matmul_attr(const struct matmul_key *k, dnnl_primitive_attr_t attr)
{
    dnnl_status_t rc = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    dnnl_post_ops_t post = NULL;

    if (rc == dnnl_success && k->alpha != 1.0f)
        rc = dnnl_primitive_attr_set_output_scales(attr, 1, 0, &k->alpha);
    if (rc != dnnl_success || !k->beta)
        return rc;
    rc = dnnl_post_ops_create(&post);
    if (rc == dnnl_success)
        rc = dnnl_post_ops_append_sum(post, 1.0f);
    if (rc == dnnl_success)
        rc = dnnl_primitive_attr_set_post_ops(attr, post);
    if (post)
        (void)dnnl_post_ops_destroy(post);
    return rc;
}

static dnnl_status_t matmul_prim_init(struct matmul_cache *m, const struct matmul_key *k,
                                      struct matmul_prim *p)
{
    dnnl_matmul_desc_t desc;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t rc = matmul_desc(&p->a, k->M, k->K, k->lda, k->ta, k->t_ab);

    if (rc == dnnl_success)
        rc = matmul_desc(&p->b, k->K, k->N, k->ldb, k->tb, k->t_ab);
    if (rc == dnnl_success)
        rc = matmul_desc(&p->c, k->M, k->N, k->ldc, false, k->t_c);
    if (rc == dnnl_success)
        rc = dnnl_matmul_desc_init(&desc, &p->a, &p->b, NULL, &p->c);
    if (rc == dnnl_success)
        rc = dnnl_primitive_attr_create(&attr);
    if (rc == dnnl_success)
        rc = matmul_attr(k, attr);
    /* The primitive is built for as many threads as OpenMP would use here. */
    omp_set_num_threads(1);
    if (rc == dnnl_success)
        rc = dnnl_primitive_desc_create(&pd, &desc, attr, m->engine, NULL);
    if (rc == dnnl_success) {
        p->scratch = *dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
        p->scratch_bytes = dnnl_memory_desc_get_size(&p->scratch);
        rc = dnnl_primitive_create(&p->prim, pd);
    }
    p->key = *k;
    if (pd)
        (void)dnnl_primitive_desc_destroy(pd);
    if (attr)
        (void)dnnl_primitive_attr_destroy(attr);
    return rc;
}

static unsigned matmul_hash(const struct matmul_key *k)
{
    const unsigned char *p = (const unsigned char *)k;
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < sizeof(*k); i++)
        h = (h ^ p[i]) * 16777619u;
    return (h ^ h >> 16) % CACHE_SETS;
}

/* The primitive of a key, from the cache or new; NULL with the stream's error set. */
static struct matmul_prim *matmul_find(struct kn_stream *s, const struct matmul_key *k)
{
    struct matmul_cache *m = s->matmul;
    unsigned set = matmul_hash(k);
    struct matmul_prim *p = &m->way[set][0];
    dnnl_status_t rc;

    for (int i = 0; i < CACHE_WAYS; i++) {
        if (m->way[set][i].prim && memcmp(&m->way[set][i].key, k, sizeof(*k)) == 0) {
            m->way[set][i].used = m->products;
            return &m->way[set][i];
        }
        if (m->way[set][i].used < p->used)
            p = &m->way[set][i];
    }
    matmul_prim_release(p);
    rc = matmul_prim_init(m, k, p);
    p->used = m->products;
    if (rc == dnnl_success)
        return p;
    matmul_prim_release(p);
    stream_fail(s, rc == dnnl_out_of_memory ? -ENOMEM : LH_EINTERNAL,
                "oneDNN has no product of %lld x %lld by %lld (status %d)", (long long)k->M,
                (long long)k->N, (long long)k->K, (int)rc);
    return NULL;
}

static int64_t matmul_inner(const struct matmul_job *j)
{
    return j->ta ? j->a.rows : j->a.cols;
}

/* Sizes of tiles. oneDNN repacks b for each tile, which costs 13 % of the time at 64 rows of 576 to 1536, 3 % at 256
 * and more when b does not fit the cache: so many rows, as long as there are tiles enough to share. Few rows are cut
 * across instead. Rows are not evened out over M: a smaller M must never need a larger tile, and with it more scratch.
 */
static void matmul_cut(struct matmul_job *j)
{
    int64_t M = j->c.rows, N = j->c.cols;
    int64_t cols_max = j->wide ? 512 : M > 256 ? 2048 : M > 64 ? 512 : 256;

    j->n_cols = (N + cols_max - 1) / cols_max;
    j->cols = (N + j->n_cols - 1) / j->n_cols;
    j->cols = (j->cols + 63) / 64 * 64;
    j->n_cols = (N + j->cols - 1) / j->cols;
    j->rows = LH_MIN(M, (M + 511) / 512 * j->n_cols >= TILES_MANY ? 512 : 256);
    j->n_rows = (M + j->rows - 1) / j->rows;
}

static int64_t matmul_tile_rows(const struct matmul_job *j, int64_t i)
{
    return LH_MIN(j->rows, j->c.rows - i * j->rows);
}

static int64_t matmul_tile_cols(const struct matmul_job *j, int64_t i)
{
    return LH_MIN(j->cols, j->c.cols - i * j->cols);
}

/* Finds the primitive of the tile at (row, col) of tiles. */
static bool matmul_plan_tile(struct matmul_job *j, int64_t row, int64_t col)
{
    struct matmul_key k;
    const struct matmul_prim **at = &j->prim[row == j->n_rows - 1][col == j->n_cols - 1];

    memset(&k, 0, sizeof(k));
    k.M = matmul_tile_rows(j, row);
    k.N = matmul_tile_cols(j, col);
    k.K = matmul_inner(j);
    k.ta = j->ta;
    k.tb = j->tb;
    k.alpha = j->alpha;
    k.lda = j->wide ? (j->ta ? k.M : k.K) : j->a.ld;
    k.ldb = j->wide ? (j->tb ? k.K : k.N) : j->b.ld;
    k.t_ab = j->wide ? KN_F32 : j->a.t;
    k.t_c = j->wide ? KN_F32 : j->c.t;
    k.ldc = j->c_bytes ? k.N : j->c.ld;
    k.beta = j->beta != 0.0f && !j->c_bytes;
    *at = matmul_find(j->s, &k);
    if (*at)
        j->scratch_bytes = LH_MAX(j->scratch_bytes, (*at)->scratch_bytes);
    return *at != NULL;
}

static uint64_t matmul_round(uint64_t bytes)
{
    return (bytes + 63) / 64 * 64;
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
    j->s->matmul->products++;
    for (int row = 0; row < 2; row++)
        for (int col = 0; col < 2; col++)
            if (!matmul_plan_tile(j, row ? j->n_rows - 1 : 0, col ? j->n_cols - 1 : 0))
                return false;
    return stream_local(j->s, j->a_bytes + j->b_bytes + j->c_bytes + j->scratch_bytes);
}

static dnnl_status_t matmul_execute(struct matmul_job *j, const struct matmul_prim *p, int thread,
                                    void *a, void *b, void *c, void *scratch)
{
    dnnl_engine_t engine = j->s->matmul->engine;
    dnnl_exec_arg_t args[4] = {{.arg = DNNL_ARG_SRC},
                               {.arg = DNNL_ARG_WEIGHTS},
                               {.arg = DNNL_ARG_DST},
                               {.arg = DNNL_ARG_SCRATCHPAD}};
    const dnnl_memory_desc_t *desc[4] = {&p->a, &p->b, &p->c, &p->scratch};
    void *data[4] = {a, b, c, scratch};
    dnnl_status_t rc = dnnl_success;

    omp_set_num_threads(1); /* this thread is one of ours; it must not start others */
    for (int i = 0; i < 4 && rc == dnnl_success; i++)
        rc = dnnl_memory_create(&args[i].memory, desc[i], engine, data[i]);
    if (rc == dnnl_success)
        rc = dnnl_primitive_execute(p->prim, j->s->matmul->stream[thread], 4, args);
    if (rc == dnnl_success)
        rc = dnnl_stream_wait(j->s->matmul->stream[thread]);
    for (int i = 0; i < 4; i++)
        if (args[i].memory)
            (void)dnnl_memory_destroy(args[i].memory);
    return rc;
}

static void matmul_item(void *arg, int64_t item, int thread)
{
    struct matmul_job *j = arg;
    int64_t row = item / j->n_cols, col = item % j->n_cols, K = matmul_inner(j);
    int64_t r0 = row * j->rows, rows = matmul_tile_rows(j, row), c0 = col * j->cols,
            cols = matmul_tile_cols(j, col);
    const struct matmul_prim *p = j->prim[row == j->n_rows - 1][col == j->n_cols - 1];
    struct kn_mat a = j->ta ? kn_sub(j->a, 0, K, r0, rows) : kn_sub(j->a, r0, rows, 0, K);
    struct kn_mat b = j->tb ? kn_sub(j->b, c0, cols, 0, K) : kn_sub(j->b, 0, K, c0, cols);
    struct kn_mat c = kn_sub(j->c, r0, rows, c0, cols), c_tile = c;
    char *local = j->s->local[thread].p;
    dnnl_status_t rc;

    if (j->wide) {
        struct kn_mat wide_a = kn_mat(local, KN_F32, a.rows, a.cols);
        struct kn_mat wide_b = kn_mat(local + j->a_bytes, KN_F32, b.rows, b.cols);

        j->s->level->copy_part(wide_a, a, 0, a.rows);
        j->s->level->copy_part(wide_b, b, 0, b.rows);
        a = wide_a;
        b = wide_b;
        if (j->c_bytes)
            c_tile = kn_mat(local + j->a_bytes + j->b_bytes, KN_F32, rows, cols);
    }
    rc = matmul_execute(j, p, thread, a.p, b.p, c_tile.p,
                        local + j->a_bytes + j->b_bytes + j->c_bytes);
    if (rc != dnnl_success)
        atomic_store(&j->failed, (int)rc);
    else if (c_tile.p != c.p && j->beta != 0.0f)
        j->s->level->add_part(c, c, c_tile, 0, rows);
    else if (c_tile.p != c.p)
        j->s->level->copy_part(c, c_tile, 0, rows);
}

/* Copies op(x), or its transpose, into rows of K_PAIRS_MIN elements with zeros behind: (n,
 * K_PAIRS_MIN). */
static struct kn_mat matmul_pad(uint16_t *to, struct kn_mat x, bool k_down)
{
    int64_t n = k_down ? x.cols : x.rows, K = k_down ? x.rows : x.cols;
    const uint16_t *from = x.p;

    memset(to, 0, (size_t)(n * K_PAIRS_MIN) * sizeof(*to));
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < K; k++)
            to[i * K_PAIRS_MIN + k] = from[k_down ? k * x.ld + i : i * x.ld + k];
    return kn_mat(to, KN_BF16, n, K_PAIRS_MIN);
}

static bool matmul_pad_both(struct matmul_job *j)
{
    uint16_t *pad =
        stream_shared(j->s, (uint64_t)((j->c.rows + j->c.cols) * K_PAIRS_MIN) * sizeof(*pad));

    if (!pad)
        return false;
    j->a = matmul_pad(pad, j->a, j->ta);
    j->b = matmul_pad(pad + j->c.rows * K_PAIRS_MIN, j->b, !j->tb);
    j->ta = false;
    j->tb = true;
    return true;
}

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
    j.wide = a.t == KN_BF16 && s->isa < CPU_AVX512_BF16;
    if (a.t == KN_BF16 && s->isa == CPU_AMX && matmul_inner(&j) < K_PAIRS_MIN &&
        !matmul_pad_both(&j))
        return;
    if (!matmul_plan(&j))
        return;
    pool_run(s->pool, j.n_rows * j.n_cols, matmul_item, &j);
    if (atomic_load(&j.failed) != dnnl_success)
        stream_fail(s, LH_EINTERNAL, "oneDNN failed in a product of %lld x %lld (status %d)",
                    (long long)c.rows, (long long)c.cols, atomic_load(&j.failed));
}
