/* test_profile.c - the back end that times another one: it computes the same, counts work as the
 * shapes say, and holds errors as a stream does. */
#include "kernels/profile.h"
#include "tests/kernels/kn_test.h"
#include <string.h>

#define CALLS_MAX 8

struct seen {
    struct kn_op_call call[CALLS_MAX];
    int n;
};

static void on_call(void *arg, const struct kn_op_call *call)
{
    struct seen *s = arg;

    assert_true(s->n < CALLS_MAX);
    s->call[s->n++] = *call;
}

struct profiled {
    const struct kn_ops *ops;
    struct kn_stream *s;
    struct seen seen;
};

static void profiled_open(struct profiled *p)
{
    struct lh_err err = {0};

    *p = (struct profiled){0};
    if (kn_profile_new(&kn_cpu_ops, 1, on_call, &p->seen, &p->ops, &p->s, &err) != 0)
        fail_msg("%s", err.text);
}

static void every_slot_is_filled_under_the_inner_name(void **state)
{
    struct profiled p;

    (void)state;
    profiled_open(&p);
    assert_string_equal(p.ops->name, "cpu");
    for (unsigned i = 0; i < sizeof(*p.ops) / sizeof(void *); i++) {
        void *slot;

        memcpy(&slot, (const char *)p.ops + i * sizeof(slot), sizeof(slot));
        assert_non_null(slot);
    }
    p.ops->stream_free(p.s);
}

static void a_product_gives_the_inner_bits_and_its_work(void **state)
{
    struct kt_rng r = kt_rng(71);
    struct kn_mat a = kt_new(KN_F32, 40, 24, true), b = kt_new(KN_F32, 40, 56, true);
    struct kn_mat mine = kt_new(KN_F32, 24, 56, false), want = kt_new(KN_F32, 24, 56, false);
    struct kn_stream *plain = kt_stream(&kn_cpu_ops, 1);
    struct kn_op_call *call;
    struct profiled p;

    (void)state;
    kt_random(&r, a, 1);
    kt_random(&r, b, 1);
    profiled_open(&p);
    p.ops->matmul(p.s, mine, a, true, b, false, 0.5f, 0);
    kt_sync(p.ops, p.s);
    kn_cpu_ops.matmul(plain, want, a, true, b, false, 0.5f, 0);
    kt_sync(&kn_cpu_ops, plain);
    kt_check_same_bits(mine, want, "profiled");
    assert_int_equal(p.seen.n, 1);
    call = &p.seen.call[0];
    assert_string_equal(call->op, "matmul");
    assert_int_equal(call->rows, 24);
    assert_int_equal(call->cols, 56);
    assert_int_equal(call->inner, 40);
    assert_true(call->ta && !call->tb);
    assert_true(call->flop == 2.0 * 24 * 56 * 40);
    assert_true(call->bytes == 4.0 * (40 * 24 + 40 * 56 + 24 * 56));
    assert_true(call->wall_ns > 0);
    assert_true(call->busy_ns > 0);
    p.ops->stream_free(p.s);
    kn_cpu_ops.stream_free(plain);
    kt_free(a), kt_free(b), kt_free(mine), kt_free(want);
}

/* Counts the pairs of every head one by one. */
static double count_pairs(const struct kn_segments *seg, int64_t H)
{
    double n = 0;

    for (int64_t h = 0; h < H; h++)
        for (int64_t t = 0; t < seg->T; t++)
            n += (double)(t - seg->begin[h >= seg->shift_from][t] + 1);
    return n;
}

static void attention_counts_the_pairs_that_its_segments_allow(void **state)
{
    enum { T = 64, H = 5, KV = 1, D = 16 };
    struct kt_rng r = kt_rng(72);
    struct kn_segments_spec spec = {.rows = 2, .row_tokens = T / 2, .group = 12, .heads = H};
    struct kn_mat q = kt_new(KN_F32, T, H * D, false), k = kt_new(KN_F32, T, KV * D, false);
    struct kn_mat v = kt_new(KN_F32, T, KV * D, false), o = kt_new(KN_F32, T, H * D, false);
    struct kn_mat d_o = kt_new(KN_F32, T, H * D, false), dq = kt_new(KN_F32, T, H * D, false);
    struct kn_mat dk = kt_new(KN_F32, T, KV * D, false), dv = kt_new(KN_F32, T, KV * D, false);
    struct kn_mat lse = kt_new(KN_F32, H, T, false);
    struct kn_segments seg;
    struct profiled p;
    double pairs;

    (void)state;
    assert_int_equal(kn_segments_init(&spec, &seg, NULL), 0);
    pairs = count_pairs(&seg, H);
    kt_random(&r, q, 1), kt_random(&r, k, 1), kt_random(&r, v, 1), kt_random(&r, d_o, 1);
    profiled_open(&p);
    p.ops->attention_fwd(p.s, o, lse.p, q, k, v, &seg, H, KV, D, 0.25f);
    p.ops->attention_bwd(p.s, dq, dk, dv, d_o, q, k, v, o, lse.p, &seg, H, KV, D, 0.25f);
    p.ops->attention_cached(p.s, kn_rows(o, 0, 3), kn_rows(q, 0, 3), kn_rows(k, 0, 13),
                            kn_rows(v, 0, 13), 10, H, KV, D, 0.25f);
    kt_sync(p.ops, p.s);
    assert_int_equal(p.seen.n, 3);
    assert_true(p.seen.call[0].flop == 4 * D * pairs);
    assert_true(p.seen.call[1].flop == 10 * D * pairs);
    assert_true(p.seen.call[2].flop == 4.0 * D * H * (11 + 12 + 13));
    p.ops->stream_free(p.s);
    kn_segments_release(&seg);
    kt_free(q), kt_free(k), kt_free(v), kt_free(o), kt_free(lse);
    kt_free(d_o), kt_free(dq), kt_free(dk), kt_free(dv);
}

static void ops_after_an_error_are_passed_over_until_sync_tells_it(void **state)
{
    struct kn_mat x = kt_new(KN_F32, 4, 8, false), narrow = kt_new(KN_F32, 4, 7, false);
    struct lh_err err = {0};
    struct profiled p;

    (void)state;
    profiled_open(&p);
    p.ops->fill(p.s, x, 2);
    p.ops->copy(p.s, x, narrow);
    p.ops->fill(p.s, x, 3);
    assert_int_equal(p.seen.n, 1);
    assert_true(kt_get(x, 3, 7) == 2);
    assert_int_equal(p.ops->sync(p.s, &err), LH_EINTERNAL);
    assert_non_null(strstr(err.text, "copy"));
    p.ops->fill(p.s, x, 4);
    assert_int_equal(p.ops->sync(p.s, &err), 0);
    assert_int_equal(p.seen.n, 2);
    assert_true(kt_get(x, 3, 7) == 4);
    p.ops->stream_free(p.s);
    kt_free(x), kt_free(narrow);
}

/* No product may be faster than the registers, and the probe not wildly above either. */
static void registers_are_faster_than_products_by_less_than_a_hundred(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        enum kn_dtype t = i == 0 ? KN_F32 : KN_BF16;
        struct kt_rng r = kt_rng(73);
        struct kn_mat a = kt_new(t, 512, 512, false), b = kt_new(t, 512, 512, false);
        struct kn_mat c = kt_new(t, 512, 512, false);
        double peak = kn_cpu_peak(t), best = 0;
        struct profiled p;

        profiled_open(&p);
        kt_random(&r, a, 1), kt_random(&r, b, 1);
        for (int k = 0; k < 4; k++)
            p.ops->matmul(p.s, c, a, false, b, true, 1, 0);
        kt_sync(p.ops, p.s);
        for (int k = 0; k < p.seen.n; k++)
            best = LH_MAX(best, p.seen.call[k].flop / (double)p.seen.call[k].busy_ns * 1e9);
        if (peak > 0) {
            assert_true(best < 1.1 * peak);
            assert_true(best > 0.01 * peak);
        }
        p.ops->stream_free(p.s);
        kt_free(a), kt_free(b), kt_free(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_slot_is_filled_under_the_inner_name),
        cmocka_unit_test(a_product_gives_the_inner_bits_and_its_work),
        cmocka_unit_test(attention_counts_the_pairs_that_its_segments_allow),
        cmocka_unit_test(ops_after_an_error_are_passed_over_until_sync_tells_it),
        cmocka_unit_test(registers_are_faster_than_products_by_less_than_a_hundred),
    };

    return cmocka_run_group_tests(tests, kt_setup, NULL);
}
