/* onednn.c - the cache of matmul primitives; the only file that knows oneDNN (the C API of 2.6).
 * See onednn.h. */
#include "kernels/cpu/onednn.h"
#include <dnnl.h>
#include <errno.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_SETS                                                                                 \
    128 /* a model has some 50 shapes; 1,024 primitives are some hundred MB at worst */
#define CACHE_WAYS (2 * ONEDNN_KEYS_MAX) /* so an op never drops a primitive of its own */

struct onednn_prim {
    struct onednn_key key;
    uint64_t used;         /* the op that last asked for it: the oldest of a full set goes */
    dnnl_primitive_t prim; /* NULL: a free way */
    dnnl_memory_desc_t a, b, c, scratch;
};

struct onednn {
    dnnl_engine_t engine;
    int threads;
    dnnl_stream_t *stream; /* one a thread */
    uint64_t ops;          /* so far */
    struct onednn_prim way[CACHE_SETS][CACHE_WAYS];
};

/* oneDNN finds the processor by itself, so a lower level must be told it. */
static void onednn_limit(enum cpu_isa isa)
{
    static const dnnl_cpu_isa_t level[] = {
        [CPU_BASE] = dnnl_cpu_isa_sse41,
        [CPU_AVX2] = dnnl_cpu_isa_avx2,
        [CPU_AVX512] = dnnl_cpu_isa_avx512_core,
        [CPU_AVX512_BF16] = dnnl_cpu_isa_avx512_core_bf16,
        [CPU_AMX] = dnnl_cpu_isa_all,
    };

    /* Refused once a primitive exists: then an earlier stream has set it. */
    (void)dnnl_set_max_cpu_isa(level[isa]);
}

int onednn_new(enum cpu_isa isa, int threads, struct onednn **ret_dnn, struct lh_err *reterr)
{
    struct onednn *d = calloc(1, sizeof(*d));
    dnnl_status_t rc;

    if (d)
        d->stream = calloc((size_t)threads, sizeof(dnnl_stream_t));
    if (!d || !d->stream) {
        free(d);
        return lh_err_set(reterr, -ENOMEM, "the cache of products");
    }
    d->threads = threads;
    onednn_limit(isa);
    rc = dnnl_engine_create(&d->engine, dnnl_cpu, 0);
    for (int i = 0; i < threads && rc == dnnl_success; i++)
        rc = dnnl_stream_create(&d->stream[i], d->engine, dnnl_stream_default_flags);
    if (rc != dnnl_success) {
        onednn_free(d);
        return lh_err_set(reterr, LH_EINTERNAL, "oneDNN does not start on this machine (status %d)",
                          (int)rc);
    }
    *ret_dnn = d;
    return 0;
}

static void onednn_release(struct onednn_prim *p)
{
    if (p->prim)
        (void)dnnl_primitive_destroy(p->prim);
    *p = (struct onednn_prim){0};
}

void onednn_free(struct onednn *d)
{
    if (!d)
        return;
    for (int i = 0; i < CACHE_SETS; i++)
        for (int j = 0; j < CACHE_WAYS; j++)
            onednn_release(&d->way[i][j]);
    for (int i = 0; i < d->threads; i++)
        if (d->stream[i])
            (void)dnnl_stream_destroy(d->stream[i]);
    if (d->engine)
        (void)dnnl_engine_destroy(d->engine);
    free(d->stream);
    free(d);
}

static dnnl_status_t onednn_desc(dnnl_memory_desc_t *md, int64_t rows, int64_t cols, int64_t ld,
                                 bool transposed, enum kn_dtype t)
{
    dnnl_dims_t dims = {rows, cols};
    dnnl_dims_t strides = {transposed ? 1 : ld, transposed ? ld : 1};

    return dnnl_memory_desc_init_by_strides(md, 2, dims, t == KN_F32 ? dnnl_f32 : dnnl_bf16,
                                            strides);
}

static dnnl_status_t onednn_desc_any(dnnl_memory_desc_t *md, int64_t rows, int64_t cols,
                                     enum kn_dtype t)
{
    dnnl_dims_t dims = {rows, cols};

    return dnnl_memory_desc_init_by_tag(md, 2, dims, t == KN_F32 ? dnnl_f32 : dnnl_bf16,
                                        dnnl_format_tag_any);
}

static dnnl_status_t onednn_attr(const struct onednn_key *k, dnnl_primitive_attr_t attr)
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

static dnnl_status_t onednn_create(struct onednn *d, const struct onednn_key *k,
                                   struct onednn_prim *p)
{
    dnnl_matmul_desc_t desc;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t rc = onednn_desc(&p->a, k->M, k->K, k->lda, k->ta, k->t_ab);

    if (rc == dnnl_success)
        rc = k->packed ? onednn_desc_any(&p->b, k->K, k->N, k->t_ab)
                       : onednn_desc(&p->b, k->K, k->N, k->ldb, k->tb, k->t_ab);
    if (rc == dnnl_success)
        rc = onednn_desc(&p->c, k->M, k->N, k->ldc, false, k->t_c);
    if (rc == dnnl_success)
        rc = dnnl_matmul_desc_init(&desc, &p->a, &p->b, NULL, &p->c);
    if (rc == dnnl_success)
        rc = dnnl_primitive_attr_create(&attr);
    if (rc == dnnl_success)
        rc = onednn_attr(k, attr);
    omp_set_num_threads(
        1); /* the primitive is built for as many threads as OpenMP would use here */
    if (rc == dnnl_success)
        rc = dnnl_primitive_desc_create(&pd, &desc, attr, d->engine, NULL);
    if (rc == dnnl_success) {
        p->b = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
        p->scratch = *dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
        rc = dnnl_primitive_create(&p->prim, pd);
    }
    p->key = *k;
    if (pd)
        (void)dnnl_primitive_desc_destroy(pd);
    if (attr)
        (void)dnnl_primitive_attr_destroy(attr);
    return rc;
}

static unsigned onednn_hash(const struct onednn_key *k)
{
    const unsigned char *p = (const unsigned char *)k;
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < sizeof(*k); i++)
        h = (h ^ p[i]) * 16777619u;
    return (h ^ h >> 16) % CACHE_SETS;
}

void onednn_begin(struct onednn *d)
{
    d->ops++;
}

const struct onednn_prim *onednn_find(struct onednn *d, const struct onednn_key *k,
                                      struct lh_err *reterr)
{
    unsigned set = onednn_hash(k);
    struct onednn_prim *p = &d->way[set][0];
    dnnl_status_t rc;

    for (int i = 0; i < CACHE_WAYS; i++) {
        struct onednn_prim *at = &d->way[set][i];

        if (at->prim && memcmp(&at->key, k, sizeof(*k)) == 0) {
            at->used = d->ops;
            return at;
        }
        if (at->used < p->used)
            p = at;
    }
    onednn_release(p);
    rc = onednn_create(d, k, p);
    p->used = d->ops;
    if (rc == dnnl_success)
        return p;
    onednn_release(p);
    (void)lh_err_set(reterr, rc == dnnl_out_of_memory ? -ENOMEM : LH_EINTERNAL,
                     "oneDNN has no product of %lld x %lld by %lld (status %d)", (long long)k->M,
                     (long long)k->N, (long long)k->K, (int)rc);
    return NULL;
}

uint64_t onednn_scratch_bytes(const struct onednn_prim *p)
{
    return dnnl_memory_desc_get_size(&p->scratch);
}

uint64_t onednn_packed_bytes(const struct onednn_prim *p)
{
    if (!p->key.packed || p->b.format_kind != dnnl_blocked ||
        p->b.format_desc.blocking.inner_nblks == 0)
        return 0;
    return dnnl_memory_desc_get_size(&p->b);
}

bool onednn_same_packing(const struct onednn_prim *p, const struct onednn_prim *q)
{
    return dnnl_memory_desc_equal(&p->b, &q->b) != 0;
}

/* Runs prim with n memories. The descriptions and data of args i are desc[i] and data[i]. */
static dnnl_status_t onednn_execute(struct onednn *d, dnnl_primitive_t prim, int thread, int n,
                                    dnnl_exec_arg_t *args, const dnnl_memory_desc_t *const *desc,
                                    void *const *data)
{
    dnnl_status_t rc = dnnl_success;

    omp_set_num_threads(1); /* this thread is one of ours; it must not start others */
    for (int i = 0; i < n && rc == dnnl_success; i++)
        rc = dnnl_memory_create(&args[i].memory, desc[i], d->engine, data[i]);
    if (rc == dnnl_success)
        rc = dnnl_primitive_execute(prim, d->stream[thread], n, args);
    if (rc == dnnl_success)
        rc = dnnl_stream_wait(d->stream[thread]);
    for (int i = 0; i < n; i++)
        if (args[i].memory)
            (void)dnnl_memory_destroy(args[i].memory);
    return rc;
}

int onednn_pack(struct onednn *d, const struct onednn_prim *p, int thread, void *b, int64_t ldb,
                void *packed)
{
    const struct onednn_key *k = &p->key;
    dnnl_memory_desc_t plain;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t reorder = NULL;
    dnnl_exec_arg_t args[2] = {{.arg = DNNL_ARG_FROM}, {.arg = DNNL_ARG_TO}};
    dnnl_status_t rc = onednn_desc(&plain, k->K, k->N, ldb, k->tb, k->t_ab);

    omp_set_num_threads(1);
    /* Created anew: oneDNN keeps such primitives itself, and a thousand of them by default. */
    if (rc == dnnl_success)
        rc = dnnl_reorder_primitive_desc_create(&pd, &plain, d->engine, &p->b, d->engine, NULL);
    if (rc == dnnl_success)
        rc = dnnl_primitive_create(&reorder, pd);
    if (rc == dnnl_success)
        rc = onednn_execute(d, reorder, thread, 2, args,
                            (const dnnl_memory_desc_t *const[]){&plain, &p->b},
                            (void *const[]){b, packed});
    if (reorder)
        (void)dnnl_primitive_destroy(reorder);
    if (pd)
        (void)dnnl_primitive_desc_destroy(pd);
    return (int)rc;
}

int onednn_run(struct onednn *d, const struct onednn_prim *p, int thread, void *a, void *b, void *c,
               void *scratch)
{
    dnnl_exec_arg_t args[4] = {{.arg = DNNL_ARG_SRC},
                               {.arg = DNNL_ARG_WEIGHTS},
                               {.arg = DNNL_ARG_DST},
                               {.arg = DNNL_ARG_SCRATCHPAD}};

    return (int)onednn_execute(
        d, p->prim, thread, 4, args,
        (const dnnl_memory_desc_t *const[]){&p->a, &p->b, &p->c, &p->scratch},
        (void *const[]){a, b, c, scratch});
}
