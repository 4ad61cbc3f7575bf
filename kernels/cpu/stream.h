/* stream.h - what the CPU back end's files share: the stream, its scratch, and the table's slots.
 *
 * Ops run at once, on the caller's thread and the pool's; sync() only hands over the first error.
 * Scratch only grows, and only before work is handed to the pool: after an op has once run with its
 * largest shapes it finds what it needs.
 */
#pragma once
#include "kernels/check.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/pool.h"
#include "kernels/ops.h"

struct matmul_cache;

struct cpu_block {
    void *p;
    uint64_t bytes;
};

struct kn_stream {
    struct lh_err err; /* the first error since the last sync */
    enum cpu_isa isa;
    int threads;
    struct pool *pool;
    struct cpu_block shared; /* one op's scratch, seen by all threads */
    struct cpu_block *local; /* one for each thread */
    struct matmul_cache *matmul;
};

/* At least bytes of scratch, 64-byte aligned, contents undefined; NULL, with the stream's error
 * set, when memory is out. The last call's memory is gone. */
void *stream_shared(struct kn_stream *s, uint64_t bytes);
/* The same for every thread, then found at s->local[thread].p. */
LH_MUST_CHECK bool stream_local(struct kn_stream *s, uint64_t bytes);
void stream_fail(struct kn_stream *s, int code, const char *fmt, ...) LH_PRINTF(3, 4);

static inline struct kn_check cpu_check(struct kn_stream *s, const char *op)
{
    return (struct kn_check){.err = &s->err, .op = op, .f64 = false};
}

/* Work by rows: item i is rows [i*per, ...) of n, with per chosen by the size of a row alone. */
struct cpu_rows {
    int64_t n, per;
};

static inline struct cpu_rows cpu_rows(int64_t n, int64_t cols)
{
    int64_t per = cols > 0
                      ? 32768 / cols
                      : n; /* 64-128 KiB: a share of L2, and enough work to wake a thread for */

    return (struct cpu_rows){.n = n, .per = per < 1 ? 1 : per};
}

static inline int64_t cpu_rows_items(struct cpu_rows r)
{
    return (r.n + r.per - 1) / r.per;
}

static inline int64_t cpu_rows_end(struct cpu_rows r, int64_t item)
{
    return LH_MIN(r.n, (item + 1) * r.per);
}

LH_MUST_CHECK int matmul_cache_new(int threads, struct matmul_cache **ret_cache,
                                   struct lh_err *reterr);
void matmul_cache_free(struct matmul_cache *c);

/* Rows [r0, r1) of y = x and of y = a + b, on the calling thread. */
void cpu_copy_part(struct kn_mat y, struct kn_mat x, int64_t r0, int64_t r1);
void cpu_add_part(struct kn_mat y, struct kn_mat a, struct kn_mat b, int64_t r0, int64_t r1);

/* The table's first slots: the stream itself and memory. stream_copy is both upload and download.
 */
int stream_new(int threads, struct kn_stream **ret_stream, struct lh_err *reterr);
void stream_free(struct kn_stream *s);
int stream_sync(struct kn_stream *s, struct lh_err *reterr);
uint64_t stream_scratch_bytes(const struct kn_stream *s);
void *stream_alloc(struct kn_stream *s, uint64_t bytes);
void stream_release(struct kn_stream *s, void *p);
void stream_copy(struct kn_stream *s, void *to, const void *from, uint64_t bytes);

/* The slots of the table; each file fills those of its name. Their contracts stand in ops.h. */
void cpu_matmul(struct kn_stream *s, struct kn_mat c, struct kn_mat a, bool ta, struct kn_mat b,
                bool tb, float alpha, float beta);
void cpu_embed_fwd(struct kn_stream *s, struct kn_mat x, struct kn_mat table, const int32_t *id);
void cpu_embed_bwd(struct kn_stream *s, struct kn_mat dtable, struct kn_mat dx, const int32_t *id);
void cpu_rmsnorm_fwd(struct kn_stream *s, struct kn_mat y, float *rstd, struct kn_mat x,
                     const float *g, float eps);
void cpu_rmsnorm_bwd(struct kn_stream *s, struct kn_mat dx, float *dg, struct kn_mat dy,
                     struct kn_mat x, const float *g, const float *rstd);
void cpu_rope(struct kn_stream *s, struct kn_mat x, int64_t D, const float *cos_sin,
              const int32_t *pos, bool inverse);
void cpu_attention_fwd(struct kn_stream *s, struct kn_mat o, float *lse, struct kn_mat q,
                       struct kn_mat k, struct kn_mat v, const struct kn_segments *seg, int64_t H,
                       int64_t KV, int64_t D, float scale);
void cpu_attention_cached(struct kn_stream *s, struct kn_mat o, struct kn_mat q, struct kn_mat k,
                          struct kn_mat v, int64_t q0, int64_t H, int64_t KV, int64_t D,
                          float scale);
void cpu_attention_bwd(struct kn_stream *s, struct kn_mat dq, struct kn_mat dk, struct kn_mat dv,
                       struct kn_mat d_o, struct kn_mat q, struct kn_mat k, struct kn_mat v,
                       struct kn_mat o, const float *lse, const struct kn_segments *seg, int64_t H,
                       int64_t KV, int64_t D, float scale);
void cpu_swiglu_fwd(struct kn_stream *s, struct kn_mat h, struct kn_mat gate, struct kn_mat up);
void cpu_swiglu_bwd(struct kn_stream *s, struct kn_mat dgate, struct kn_mat dup, struct kn_mat dh,
                    struct kn_mat gate, struct kn_mat up);
void cpu_add(struct kn_stream *s, struct kn_mat y, struct kn_mat a, struct kn_mat b);
void cpu_copy(struct kn_stream *s, struct kn_mat y, struct kn_mat x);
void cpu_fill(struct kn_stream *s, struct kn_mat y, float value);
void cpu_first_nonfinite(struct kn_stream *s, int64_t *ret_index, struct kn_mat x);
void cpu_cross_entropy(struct kn_stream *s, double *nll, struct kn_mat dlogits,
                       struct kn_mat logits, const int32_t *label, float grad_scale);
void cpu_sum_squares(struct kn_stream *s, double *ret, const float *x, int64_t n);
void cpu_adamw(struct kn_stream *s, float *p, float *m, float *v, const float *g, uint16_t *low,
               int64_t n, const struct kn_adamw *h);
