/* test_dropout.c - dropout of both back ends: the same elements whatever the layout, threads and
 * types, as many as the rate says, and no pattern among them. */
#include "kernels/dropout.h"
#include "tests/kernels/kn_test.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct kn_ops *const cpu = &kn_cpu_ops, *const ref = &kn_reference_ops;
static const int64_t shapes[][2] = {{1, 1}, {3, 2}, {5, 17}, {64, 33}, {7, 576}, {130, 1537}};

static uint64_t *random_keys(struct kt_rng *r, int64_t n)
{
    uint64_t *key = malloc((size_t)n * sizeof(*key));

    assert_non_null(key);
    for (int64_t i = 0; i < n; i++)
        key[i] = kt_u64(r);
    return key;
}

/* One call on a stream of its own; kept: what y holds before, when it adds. */
static struct kn_mat drop(const struct kn_ops *ops, int threads, struct kn_mat x, enum kn_dtype t,
                          bool add, const struct kn_dropout *h)
{
    struct kn_mat y = kt_new(t, x.rows, x.cols, true);
    struct kn_stream *s = kt_stream(ops, threads);

    for (int64_t i = 0; add && i < x.rows * x.cols; i++)
        kt_set(y, i / x.cols, i % x.cols, (double)(i % 11) - 5);
    ops->dropout(s, y, x, add, h);
    kt_sync(ops, s);
    ops->stream_free(s);
    return y;
}

static void check_shape(struct kt_rng *r, int64_t T, int64_t C, enum kn_dtype t, bool add)
{
    uint64_t *key = random_keys(r, T);
    struct kn_dropout h = {.rate = 0.3, .place = 12, .key = key};
    struct kn_mat x = kt_new(t, T, C, true), x64, want, got;
    struct kt_tol tol = t == KN_F32 ? (struct kt_tol){1e-7, 1e-7} : (struct kt_tol){4e-3, 4e-3};

    kt_random(r, x, 1);
    x64 = kt_f64(x);
    want = drop(ref, 1, x64, KN_F64, add, &h);
    for (int threads = 1; threads <= 3; threads++) {
        got = drop(cpu, threads, x, t, add, &h);
        kt_check(got, want, tol, "%lld x %lld, %d threads", (long long)T, (long long)C, threads);
        for (int64_t i = 0; !add && i < T * C; i++)
            assert_int_equal(kt_get(got, i / C, i % C) == 0, kt_get(want, i / C, i % C) == 0);
        kt_free(got);
    }
    kt_free(want), kt_free(x64), kt_free(x);
    free(key);
}

static void the_cpu_drops_what_the_reference_drops(void **state)
{
    struct kt_rng r = kt_rng(71);

    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        for (int mode = 0; mode < 4; mode++)
            check_shape(&r, shapes[i][0], shapes[i][1], mode & 1 ? KN_BF16 : KN_F32, mode & 2);
}

static void a_row_alone_loses_the_same_elements_as_among_others(void **state)
{
    struct kt_rng r = kt_rng(72);
    uint64_t *key = random_keys(&r, 40);
    struct kn_dropout h = {.rate = 0.5, .place = 3, .key = key};
    struct kn_mat x = kt_new(KN_F32, 40, 301, false), all, one;

    (void)state;
    kt_random(&r, x, 1);
    all = drop(cpu, 2, x, KN_F32, false, &h);
    for (int64_t row = 0; row < 40; row++) {
        h.key = key + row;
        one = drop(cpu, 1, kn_rows(x, row, 1), KN_F32, false, &h);
        kt_check_same_bits(one, kn_rows(all, row, 1), "row %lld", (long long)row);
        kt_free(one);
    }
    kt_free(all), kt_free(x);
    free(key);
}

/* Share of ones that are dropped at the same time as the element `right` columns on, `down` rows
 * below and, with another place, of another module. */
static double together(struct kn_mat a, struct kn_mat b, int64_t down, int64_t right)
{
    int64_t n = 0, both = 0;

    for (int64_t r = 0; r + down < a.rows; r++) {
        for (int64_t c = 0; c + right < a.cols; c++) {
            both += kt_get(a, r, c) == 0 && kt_get(b, r + down, c + right) == 0;
            n++;
        }
    }
    return (double)both / (double)n;
}

static void the_share_is_the_rate_and_the_mean_stays(void **state)
{
    static const double rates[] = {0.05, 0.1, 0.5, 0.9};
    struct kn_mat x = kt_new(KN_F32, 500, 800, false);
    uint64_t key[500];

    (void)state;
    for (uint64_t i = 0; i < 500; i++)
        key[i] = i; /* as alike as keys can be */
    for (int64_t i = 0; i < x.rows * x.cols; i++)
        kt_set(x, i / x.cols, i % x.cols, 1);
    for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
        double p = rates[i], sigma = sqrt(p * (1 - p) / 4e5), sum = 0;
        /* Of pairs: at most 4 standard deviations of a share of p squared. */
        double near = 4 * sqrt(p * p * (1 - p * p) / 3.9e5);
        struct kn_dropout h = {.rate = p, .place = 1, .key = key}, other = {p, 2, key};
        struct kn_mat y = drop(cpu, 1, x, KN_F32, false, &h);
        struct kn_mat z = drop(cpu, 1, x, KN_F32, false, &other);

        for (int64_t k = 0; k < x.rows * x.cols; k++)
            sum += kt_get(y, k / x.cols, k % x.cols);
        assert_true(fabs(together(y, y, 0, 0) - p) < 4 * sigma);
        assert_true(fabs(sum / 4e5 - 1) < 4 * sigma / (1 - p));
        assert_true(fabs(together(y, y, 0, 1) - p * p) < near);
        assert_true(fabs(together(y, y, 1, 0) - p * p) < near);
        assert_true(fabs(together(y, y, 1, 1) - p * p) < near);
        assert_true(fabs(together(y, z, 0, 0) - p * p) < near);
        kt_free(y), kt_free(z);
    }
    kt_free(x);
}

static void a_rate_of_zero_changes_nothing_and_not_a_number_can_be_dropped(void **state)
{
    uint64_t key[2] = {5, 6};
    struct kn_dropout h = {.rate = 0, .place = 0, .key = key};
    struct kn_mat x = kt_new(KN_F32, 2, 100, false), y;
    int dropped = 0;

    (void)state;
    for (int64_t i = 0; i < 200; i++)
        kt_set(x, i / 100, i % 100, (double)i);
    y = drop(cpu, 1, x, KN_F32, false, &h);
    kt_check_same_bits(y, x, "rate 0");
    kt_free(y);
    h.rate = 0.5;
    for (int64_t i = 0; i < 200; i++)
        kt_set(x, i / 100, i % 100, (double)NAN);
    y = drop(cpu, 1, x, KN_F32, false, &h);
    for (int64_t i = 0; i < 200; i++)
        dropped += kt_get(y, i / 100, i % 100) == 0;
    assert_in_range(dropped, 60, 140);
    kt_free(y), kt_free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_cpu_drops_what_the_reference_drops),
        cmocka_unit_test(a_row_alone_loses_the_same_elements_as_among_others),
        cmocka_unit_test(the_share_is_the_rate_and_the_mean_stays),
        cmocka_unit_test(a_rate_of_zero_changes_nothing_and_not_a_number_can_be_dropped),
    };

    return cmocka_run_group_tests(tests, kt_setup, NULL);
}
