/* kn_test.c - see kn_test.h. */
#include "tests/kernels/kn_test.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SPARE_COLS 5
#define SPARE_BYTE 0x5b

static uint64_t kt_seed(void)
{
    const char *text = getenv("LONGHAUL_TEST_SEED");

    return text ? strtoull(text, NULL, 0) : 20261121;
}

int kt_setup(void **state)
{
    (void)state;
    print_message("seed %llu (LONGHAUL_TEST_SEED sets it)\n", (unsigned long long)kt_seed());
    return 0;
}

struct kt_rng kt_rng(uint64_t salt)
{
    struct kt_rng r = {kt_seed() * 0x9e3779b97f4a7c15u + salt};

    (void)kt_u64(&r);
    return r;
}

uint64_t kt_u64(struct kt_rng *r) /* splitmix64 */
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

int64_t kt_between(struct kt_rng *r, int64_t low, int64_t high)
{
    return low + (int64_t)(kt_u64(r) % (uint64_t)(high - low + 1));
}

double kt_normal(struct kt_rng *r)
{
    double u = ((double)(kt_u64(r) >> 11) + 0.5) * 0x1p-53, v = (double)(kt_u64(r) >> 11) * 0x1p-53;

    return sqrt(-2.0 * log(u)) * cos(2.0 * M_PI * v);
}

double kt_get(struct kn_mat m, int64_t row, int64_t col)
{
    int64_t i = row * m.ld + col;

    if (m.t == KN_F64)
        return ((const double *)m.p)[i];
    return m.t == KN_F32 ? (double)((const float *)m.p)[i]
                         : (double)kn_bf16_to_f32(((const uint16_t *)m.p)[i]);
}

void kt_set(struct kn_mat m, int64_t row, int64_t col, double x)
{
    int64_t i = row * m.ld + col;

    if (m.t == KN_F64)
        ((double *)m.p)[i] = x;
    else if (m.t == KN_F32)
        ((float *)m.p)[i] = (float)x;
    else
        ((uint16_t *)m.p)[i] = kn_f32_to_bf16((float)x);
}

struct kn_mat kt_new(enum kn_dtype t, int64_t rows, int64_t cols, bool strided)
{
    struct kn_mat m = {NULL, t, rows, cols, cols + (strided ? SPARE_COLS : 0)};
    size_t bytes = (size_t)((rows + 1) * m.ld) * kn_dtype_bytes(t); /* one spare row */

    m.p = malloc(bytes);
    assert_non_null(m.p);
    memset(m.p, SPARE_BYTE, bytes);
    kt_poison(m);
    return m;
}

void kt_free(struct kn_mat m)
{
    free(m.p);
}

void kt_poison(struct kn_mat m)
{
    for (int64_t r = 0; r < m.rows; r++)
        for (int64_t c = 0; c < m.cols; c++)
            kt_set(m, r, c, (double)NAN);
}

void kt_random(struct kt_rng *r, struct kn_mat m, double size)
{
    for (int64_t i = 0; i < m.rows; i++)
        for (int64_t c = 0; c < m.cols; c++)
            kt_set(m, i, c, size * kt_normal(r));
}

struct kn_mat kt_f64(struct kn_mat m)
{
    struct kn_mat d = kt_new(KN_F64, m.rows, m.cols, false);

    for (int64_t r = 0; r < m.rows; r++)
        for (int64_t c = 0; c < m.cols; c++)
            kt_set(d, r, c, kt_get(m, r, c));
    return d;
}

struct kn_mat kt_copy(struct kn_mat m)
{
    struct kn_mat d = kt_new(m.t, m.rows, m.cols, m.ld != m.cols);

    for (int64_t r = 0; r < m.rows; r++)
        memcpy((char *)d.p + (size_t)(r * d.ld) * kn_dtype_bytes(m.t),
               (const char *)m.p + (size_t)(r * m.ld) * kn_dtype_bytes(m.t),
               (size_t)m.cols * kn_dtype_bytes(m.t));
    return d;
}

static bool kt_spare_is_intact(struct kn_mat m)
{
    const unsigned char *p = m.p;
    size_t element = kn_dtype_bytes(m.t);

    for (int64_t r = 0; r <= m.rows; r++)
        for (size_t i = (size_t)(r * m.ld + (r < m.rows ? m.cols : 0)) * element;
             i < (size_t)((r + 1) * m.ld) * element; i++)
            if (p[i] != SPARE_BYTE)
                return false;
    return true;
}

void kt_check_at(const char *file, int line, struct kn_mat got, struct kn_mat want,
                 struct kt_tol tol, const char *fmt, ...)
{
    double diff2 = 0.0, want2 = 0.0, diff_max = 0.0, want_max = 0.0;
    bool intact = kt_spare_is_intact(got);
    char what[256];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    assert_int_equal(got.rows, want.rows);
    assert_int_equal(got.cols, want.cols);
    for (int64_t r = 0; r < got.rows; r++) {
        for (int64_t c = 0; c < got.cols; c++) {
            double w = kt_get(want, r, c), d = kt_get(got, r, c) - w;

            diff2 += d * d;
            want2 += w * w;
            diff_max =
                !(fabs(d) <= diff_max) ? fabs(d) : diff_max; /* a NaN sticks, diff2 has it too */
            want_max = fmax(want_max, fabs(w));
        }
    }
    if (want2 == 0.0)
        want2 = want_max = 1.0;
    if (intact && sqrt(diff2 / want2) <= tol.l2 && diff_max / want_max <= tol.max)
        return;
    print_error("%s: L2 error %.3g (limit %.3g), greatest %.3g (limit %.3g)%s\n", what,
                sqrt(diff2 / want2), tol.l2, diff_max / want_max, tol.max,
                intact ? "" : ", and memory outside of the matrix was written");
    _fail(file, line);
}

void kt_check_bits_at(const char *file, int line, struct kn_mat a, struct kn_mat b, const char *fmt,
                      ...)
{
    char what[256];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    assert_int_equal(a.rows, b.rows);
    assert_int_equal(a.cols, b.cols);
    for (int64_t r = 0; r < a.rows; r++) {
        size_t element = kn_dtype_bytes(a.t);

        if (memcmp((const char *)a.p + (size_t)(r * a.ld) * element,
                   (const char *)b.p + (size_t)(r * b.ld) * element, (size_t)a.cols * element) == 0)
            continue;
        print_error("%s: row %lld differs\n", what, (long long)r);
        _fail(file, line);
    }
}

static const double fd_step = 1e-5, fd_tolerance = 1e-6;

double kt_dot(struct kn_mat a, struct kn_mat b)
{
    double sum = 0.0;

    for (int64_t r = 0; r < a.rows; r++)
        for (int64_t c = 0; c < a.cols; c++)
            sum += kt_get(a, r, c) * kt_get(b, r, c);
    return sum;
}

static double norm(struct kn_mat a)
{
    return sqrt(kt_dot(a, a));
}

static void move(struct kn_mat x, struct kn_mat from, struct kn_mat direction, double by)
{
    for (int64_t r = 0; r < x.rows; r++)
        for (int64_t c = 0; c < x.cols; c++)
            kt_set(x, r, c, kt_get(from, r, c) + by * kt_get(direction, r, c));
}

void kt_check_gradient(struct kt_rng *r, kt_loss_fn *loss, void *arg, struct kn_mat x,
                       struct kn_mat dx, const char *what)
{
    struct kn_mat direction = kt_new(x.t, x.rows, x.cols, false), saved = kt_copy(x);
    double expected, got, scale;

    for (int round = 0; round < 3; round++) {
        kt_random(r, direction, 1.0);
        move(x, saved, direction, fd_step);
        expected = loss(arg);
        move(x, saved, direction, -fd_step);
        expected = (expected - loss(arg)) / (2.0 * fd_step);
        move(x, saved, direction, 0.0);
        got = kt_dot(direction, dx);
        scale = norm(dx) * norm(direction) / sqrt((double)(x.rows * x.cols)) + 1e-12;
        if (!(fabs(got - expected) <= fd_tolerance * fmax(fabs(expected), scale)))
            fail_msg("%s: gradient %.12g, difference quotient %.12g", what, got, expected);
    }
    kt_free(direction);
    kt_free(saved);
}

struct kn_stream *kt_stream(const struct kn_ops *ops, int threads)
{
    struct kn_stream *s = NULL;
    struct lh_err err = {0};

    if (ops->stream_new(threads, &s, &err) != 0)
        fail_msg("no stream: %s", err.text);
    return s;
}

void kt_sync(const struct kn_ops *ops, struct kn_stream *s)
{
    struct lh_err err = {0};

    if (ops->sync(s, &err) != 0)
        fail_msg("%s: %s", ops->name, err.text);
}

struct kn_segments_spec kt_segments_spec(struct kt_rng *r, int64_t tokens_max, int64_t heads,
                                         int32_t **ret_documents)
{
    struct kn_segments_spec spec = {.rows = kt_between(r, 1, 3), .heads = heads};
    int64_t T;

    spec.row_tokens = kt_between(r, 1, tokens_max / spec.rows);
    spec.group = kt_between(r, 0, 2) == 0 ? 0 : 2 * kt_between(r, 1, spec.row_tokens / 2 + 2);
    *ret_documents = NULL;
    if (kt_between(r, 0, 1) == 0)
        return spec;
    T = spec.rows * spec.row_tokens;
    *ret_documents = malloc((size_t)T * sizeof(**ret_documents));
    assert_non_null(*ret_documents);
    /* Ids only have to differ: they go up and down. */
    for (int64_t t = 0, at = 0; t < T; t++) {
        at += kt_between(r, 0, 40) == 0;
        (*ret_documents)[t] = (int32_t)(at % 3 == 1 ? -at : at);
    }
    spec.documents = *ret_documents;
    return spec;
}

void kt_segments_print(const struct kn_segments_spec *spec)
{
    print_message("rows %lld of %lld tokens, group %lld, %lld heads, %s\n", (long long)spec->rows,
                  (long long)spec->row_tokens, (long long)spec->group, (long long)spec->heads,
                  spec->documents ? "packed documents" : "no documents");
}
