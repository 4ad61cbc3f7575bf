/* kn_test.h - what the tests of kernels/ share: seeded random matrices, poisoned outputs, and
 * comparison with the reference in double.
 *
 * A test matrix has spare columns (ld > cols) and spare rows filled with a pattern; kt_check also
 * fails when an op has written there. Tolerances are of two kinds: the L2 norm of the difference
 * over that of the reference, and the greatest difference over the greatest reference element. NaN
 * fails both.
 */
#pragma once
#include "kernels/ops.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

struct kt_rng {
    uint64_t state;
};

/* The seed of this run: LONGHAUL_TEST_SEED, or a fixed one; printed by kt_setup. */
struct kt_rng kt_rng(uint64_t salt);
int kt_setup(void **state);
uint64_t kt_u64(struct kt_rng *r);
int64_t kt_between(struct kt_rng *r, int64_t low, int64_t high); /* both included */
double kt_normal(struct kt_rng *r);

/* A matrix of its own memory, poisoned with NaN; spare columns behind each row when strided. */
struct kn_mat kt_new(enum kn_dtype t, int64_t rows, int64_t cols, bool strided);
void kt_free(struct kn_mat m);
void kt_poison(struct kn_mat m);
/* Normal numbers of the given size, rounded to the type. */
void kt_random(struct kt_rng *r, struct kn_mat m, double size);
/* A double copy, and a copy of the same type and stride. */
struct kn_mat kt_f64(struct kn_mat m);
struct kn_mat kt_copy(struct kn_mat m);
double kt_get(struct kn_mat m, int64_t row, int64_t col);
void kt_set(struct kn_mat m, int64_t row, int64_t col, double x);

struct kt_tol {
    double l2, max;
};
/* got against want, which is F64. Prints what and the errors when they exceed the tolerance, then
 * fails the test. */
#define kt_check(got, want, tol, ...) kt_check_at(__FILE__, __LINE__, got, want, tol, __VA_ARGS__)
void kt_check_at(const char *file, int line, struct kn_mat got, struct kn_mat want,
                 struct kt_tol tol, const char *fmt, ...) __attribute__((format(printf, 6, 7)));
/* Same bits, spare columns aside. */
#define kt_check_same_bits(a, b, ...) kt_check_bits_at(__FILE__, __LINE__, a, b, __VA_ARGS__)
void kt_check_bits_at(const char *file, int line, struct kn_mat a, struct kn_mat b, const char *fmt,
                      ...) __attribute__((format(printf, 5, 6)));

/* The derivative of a loss (a forward pass and a dot product) along random directions of x, by
 * central differences, against the dot products of these with dx; all in double. */
typedef double kt_loss_fn(void *arg);
double kt_dot(struct kn_mat a, struct kn_mat b);
void kt_check_gradient(struct kt_rng *r, kt_loss_fn *loss, void *arg, struct kn_mat x,
                       struct kn_mat dx, const char *what);

/* A stream, or a failed test; and sync that must succeed. */
struct kn_stream *kt_stream(const struct kn_ops *ops, int threads);
void kt_sync(const struct kn_ops *ops, struct kn_stream *s);

/* A random micro-batch: rows, documents or none, an S2 group or none. documents is owned by the
 * caller. */
struct kn_segments_spec kt_segments_spec(struct kt_rng *r, int64_t tokens_max, int64_t heads,
                                         int32_t **ret_documents);
void kt_segments_print(const struct kn_segments_spec *spec);
