/* test_cpu_exact.c - products of fp32 matrices by the CPU back end are as exact as fp32 is, by
 * whatever instructions they are made: split into parts of bf16 (kernels/cpu/split.h), too. */
#include "tests/kernels/kn_test.h"
#include <math.h>

static const struct kn_ops *const cpu = &kn_cpu_ops, *const ref = &kn_reference_ops;

static void set_identity(struct kn_mat m)
{
    for (int64_t r = 0; r < m.rows; r++)
        for (int64_t c = 0; c < m.cols; c++)
            kt_set(m, r, c, r == c ? 1.0 : 0.0);
}

/* Numbers of all sizes that parts can hold, all 24 bits of them in use. */
static void set_wide(struct kt_rng *r, struct kn_mat m)
{
    kt_random(r, m, 1.0);
    for (int64_t i = 0; i < m.rows; i++)
        for (int64_t c = 0; c < m.cols; c++)
            kt_set(m, i, c, ldexp(kt_get(m, i, c), (int)kt_between(r, -80, 80)));
}

static void a_product_with_the_identity_is_the_other_matrix_bit_for_bit(void **state)
{
    struct kt_rng r = kt_rng(40);
    struct kn_stream *s = kt_stream(cpu, 2);
    struct kn_mat one = kt_new(KN_F32, 70, 70, false), x = kt_new(KN_F32, 70, 70, true);
    struct kn_mat got = kt_new(KN_F32, 70, 70, true);

    (void)state;
    set_identity(one);
    set_wide(&r, x);
    for (int left = 0; left <= 1; left++) {
        struct kn_mat a = left ? x : one, b = left ? one : x;

        kt_poison(got);
        cpu->matmul(s, got, a, false, b, false, 1.0f, 0.0f);
        kt_sync(cpu, s);
        kt_check_same_bits(got, x, "x on side %d", left);
        kt_poison(got);
        cpu->matmul(s, got, a, true, b, true, 1.0f, 0.0f);
        kt_sync(cpu, s);
        for (int64_t i = 0; i < 70 * 70; i++)
            assert_true(kt_get(got, i / 70, i % 70) == kt_get(x, i % 70, i / 70));
    }
    cpu->stream_free(s);
    kt_free(one), kt_free(x), kt_free(got);
}

/* One term in each sum: what is left out of a product of parts has nothing to hide behind. */
static void each_product_is_as_exact_as_two_roundings(void **state)
{
    struct kt_rng r = kt_rng(43);
    struct kn_mat a = kt_new(KN_F32, 64, 40, true), b = kt_new(KN_F32, 40, 64, true);
    struct kn_mat c = kt_new(KN_F32, 64, 64, true);

    (void)state;
    for (int round = 0; round < 4; round++) {
        struct kn_stream *s = kt_stream(cpu, 1);

        cpu->fill(s, a, 0.0f);
        kt_random(&r, b, 1.0);
        for (int64_t i = 0; i < 64; i++)
            kt_set(a, i, 7 * i % 40, kt_normal(&r));
        cpu->matmul(s, c, a, false, b, false, 1.0f, 0.0f);
        kt_sync(cpu, s);
        for (int64_t i = 0; i < 64 * 64; i++) {
            int64_t row = i / 64, k = 7 * row % 40;
            double want = kt_get(a, row, k) * kt_get(b, k, i % 64);

            assert_true(fabs(kt_get(c, row, i % 64) - want) <= 1.25e-7 * fabs(want));
        }
        cpu->stream_free(s);
    }
    kt_free(a), kt_free(b), kt_free(c);
}

/* Few steps of K: the roundings of a long sum would hide those of its terms. */
static void a_short_sum_is_rounded_as_in_fp32(void **state)
{
    struct kt_rng r = kt_rng(41);

    (void)state;
    for (int flags = 0; flags < 4; flags++) {
        struct kn_stream *s = kt_stream(cpu, 2), *rs = kt_stream(ref, 1);
        struct kn_mat a = kt_new(KN_F32, flags & 1 ? 40 : 300, flags & 1 ? 300 : 40, false);
        struct kn_mat b = kt_new(KN_F32, flags & 2 ? 100 : 40, flags & 2 ? 40 : 100, false);
        struct kn_mat c = kt_new(KN_F32, 300, 100, false), c64 = kt_new(KN_F64, 300, 100, false);
        struct kn_mat a64, b64;

        kt_random(&r, a, 1.0), kt_random(&r, b, 1.0);
        a64 = kt_f64(a), b64 = kt_f64(b);
        cpu->matmul(s, c, a, flags & 1, b, flags & 2, 1.0f, 0.0f);
        kt_sync(cpu, s);
        ref->matmul(rs, c64, a64, flags & 1, b64, flags & 2, 1.0f, 0.0f);
        kt_sync(ref, rs);
        kt_check(c, c64, ((struct kt_tol){1.8e-7, 5e-7}), "form %d", flags);
        cpu->stream_free(s), ref->stream_free(rs);
        kt_free(a), kt_free(b), kt_free(c), kt_free(a64), kt_free(b64), kt_free(c64);
    }
}

static void what_is_not_finite_leaves_nothing_finite_behind(void **state)
{
    struct kt_rng r = kt_rng(42);
    struct kn_stream *s = kt_stream(cpu, 1);
    struct kn_mat a = kt_new(KN_F32, 64, 50, false), b = kt_new(KN_F32, 50, 64, false);
    struct kn_mat c = kt_new(KN_F32, 64, 64, false);
    const double bad[] = {(double)NAN, -(double)NAN, (double)INFINITY, -(double)INFINITY};

    (void)state;
    for (int i = 0; i < 4; i++) {
        kt_random(&r, a, 1.0), kt_random(&r, b, 1.0);
        kt_set(a, 17, 33, bad[i]);
        cpu->matmul(s, c, a, false, b, false, 1.0f, 0.0f);
        kt_sync(cpu, s);
        for (int64_t k = 0; k < 64 * 64; k++)
            assert_int_equal(isfinite(kt_get(c, k / 64, k % 64)) != 0, k / 64 != 17);
    }
    cpu->stream_free(s);
    kt_free(a), kt_free(b), kt_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_product_with_the_identity_is_the_other_matrix_bit_for_bit),
        cmocka_unit_test(each_product_is_as_exact_as_two_roundings),
        cmocka_unit_test(a_short_sum_is_rounded_as_in_fp32),
        cmocka_unit_test(what_is_not_finite_leaves_nothing_finite_behind),
    };

    return cmocka_run_group_tests(tests, kt_setup, NULL);
}
