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

struct onednn;
struct loss_job;

/* The vector code, compiled for one instruction set (level.h). Of ops only the slots of such code
 * are filled. */
struct cpu_level {
    struct kn_ops ops;
    /* Rows [r0, r1) of y = x and of y = a + b, on the calling thread. */
    void (*copy_part)(struct kn_mat y, struct kn_mat x, int64_t r0, int64_t r1);
    void (*add_part)(struct kn_mat y, struct kn_mat a, struct kn_mat b, int64_t r0, int64_t r1);
    /* The parts of cross_entropy (loss.h). */
    void (*loss_block)(const struct loss_job *j, int64_t b, const float *logits, int64_t ld,
                       int64_t t0, int64_t n);
    void (*loss_tokens)(const struct loss_job *j, int64_t t0, int64_t t1);
    void (*loss_scale)(const struct loss_job *j, int64_t b);
};
extern const struct cpu_level cpu_level_ops_base;
#ifdef __x86_64__
extern const struct cpu_level cpu_level_ops_avx2, cpu_level_ops_avx512, cpu_level_ops_avx512_bf16;
#endif

struct cpu_block {
    void *p;
    uint64_t bytes;
};

struct kn_stream {
    struct lh_err err; /* the first error since the last sync */
    enum cpu_isa isa;
    const struct cpu_level *level;
    int threads;
    struct pool *pool;
    struct cpu_block shared; /* one op's scratch, seen by all threads */
    struct cpu_block outer;  /* that of an op which calls others */
    struct cpu_block *local; /* one for each thread */
    struct onednn *dnn;
};

/* At least bytes of scratch, 64-byte aligned, contents undefined; NULL, with the stream's error
 * set, when memory is out. The last call's memory is gone. */
void *stream_shared(struct kn_stream *s, uint64_t bytes);
/* The same, not touched by the ops that use stream_shared. */
void *stream_outer(struct kn_stream *s, uint64_t bytes);
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

/* The table's first slots: the stream itself and memory. stream_copy is both upload and download.
 */
int stream_new(int threads, struct kn_stream **ret_stream, struct lh_err *reterr);
void stream_free(struct kn_stream *s);
int stream_sync(struct kn_stream *s, struct lh_err *reterr);
uint64_t stream_scratch_bytes(const struct kn_stream *s);
void stream_rehearse(struct kn_stream *s);
void *stream_alloc(struct kn_stream *s, uint64_t bytes);
void stream_release(struct kn_stream *s, void *p);
void stream_copy(struct kn_stream *s, void *to, const void *from, uint64_t bytes);

/* matmul.c; it has one version, the library under it chooses by itself. */
void cpu_matmul(struct kn_stream *s, struct kn_mat c, struct kn_mat a, bool ta, struct kn_mat b,
                bool tb, float alpha, float beta);
void cpu_matmul_low(struct kn_stream *s, struct kn_mat c, struct kn_mat z, struct kn_mat a,
                    struct kn_mat b, struct kn_mat p, struct kn_mat q, bool t, float z_scale,
                    float c_scale, float beta);
