/* bench.h - what the parts of kn-bench share: the back end under test, and how a size is timed. */
#pragma once
#include "kernels/ops.h"
#include <jansson.h>

struct bench {
    const struct kn_ops *ops;
    struct kn_stream *s;
    enum kn_dtype t;
    int repeats;
    const char *only; /* part of the names to run, or NULL */
    uint64_t random;
    json_t *results;
};

/* What one size costs: bytes is the traffic that no implementation can avoid. */
struct bench_cost {
    double flop, bytes;
};

typedef void bench_fn(struct bench *b, void *arg);

/* Prints one sentence and ends the program. */
_Noreturn void bench_die(const char *what);

/* Memory of the device, and a matrix of random numbers in it; ended is who cannot have it. */
void *bench_alloc(struct bench *b, uint64_t bytes);
struct kn_mat bench_mat(struct bench *b, enum kn_dtype t, int64_t rows, int64_t cols);
/* Frees n matrices. */
void bench_free(struct bench *b, const struct kn_mat *m, int n);

/* Times fn: once to warm up, then repeats; prints and keeps the best. */
void bench_run(struct bench *b, const char *op, const char *what, struct bench_cost cost,
               bench_fn *fn, void *arg);
/* Prints and keeps a rate that was measured otherwise. */
void bench_tell(struct bench *b, const char *op, const char *what, double rate, const char *unit);

/* The groups of ops that the command line names. */
void bench_matmul(struct bench *b);
void bench_attention(struct bench *b);
void bench_rows(struct bench *b);
void bench_optim(struct bench *b);
