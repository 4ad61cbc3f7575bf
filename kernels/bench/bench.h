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
    json_t *results; /* objects, in the order of measuring */
};

/* What one size costs: bytes is the traffic that no implementation can avoid. */
struct bench_cost {
    double flop, bytes;
};

typedef void bench_fn(struct bench *b, void *arg);

/* Prints one sentence and ends the program. */
_Noreturn void bench_die(const char *what);

/* Memory of the device, and a matrix of random numbers in it; the program ends when there is none.
 */
void *bench_alloc(struct bench *b, uint64_t bytes);
struct kn_mat bench_mat(struct bench *b, enum kn_dtype t, int64_t rows, int64_t cols);

/* Times fn, once to warm up and then repeats times; prints the best, and keeps it. */
void bench_run(struct bench *b, const char *what, struct bench_cost cost, bench_fn *fn, void *arg);

/* The loss of the head, and its gradient (bench_loss.c). */
void bench_loss(struct bench *b);

/* Attention, forward and backward (bench_attention.c). */
void bench_attention(struct bench *b);

/* What the machine can do at most: registers, a large product, a large copy (bench_peak.c). */
void bench_peak(struct bench *b);

/* Prints a rate that was measured otherwise, and keeps it: {"name", "rate", "unit"}. */
void bench_tell(struct bench *b, const char *what, double rate, const char *unit);

/* Writes the results to a file, with what was measured where and when (bench_json.c). */
void bench_write(const struct bench *b, const char *path, const char *commit, int threads);
