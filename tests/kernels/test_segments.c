/* test_segments.c - properties of kernels/segments.c over random micro-batches. */
#include "tests/kernels/kn_test.h"
#include <stdlib.h>
#include <string.h>

#define ROUNDS 200

static struct kn_segments make(const struct kn_segments_spec *spec)
{
    struct kn_segments seg = {0};
    struct lh_err err = {0};

    if (kn_segments_init(spec, &seg, &err) != 0)
        fail_msg("%s", err.text);
    return seg;
}

/* What segments.h promises of every array, and what no cut may allow. */
static void check_always(const struct kn_segments_spec *spec, const struct kn_segments *seg)
{
    for (int c = 0; c < 2; c++) {
        for (int64_t t = 0; t < seg->T; t++) {
            int64_t begin = seg->begin[c][t];

            assert_true(begin >= 0 && begin <= t);
            assert_true(t == 0 || begin >= seg->begin[c][t - 1]);
            /* Never another row of the batch. */
            assert_true(begin >= t / spec->row_tokens * spec->row_tokens);
            for (int64_t j = begin; spec->documents && j <= t; j++)
                assert_int_equal(spec->documents[j], spec->documents[t]);
            if (spec->group > 0)
                assert_true(t - begin < spec->group);
        }
    }
}

static void check_cuts_are_where_they_should_be(const struct kn_segments_spec *spec,
                                                const struct kn_segments *seg)
{
    for (int c = 0; c < 2; c++) {
        for (int64_t t = 0; t < seg->T; t++) {
            int64_t at = t % spec->row_tokens, half = spec->group / 2;
            bool cut =
                at == 0 || (spec->documents && spec->documents[t] != spec->documents[t - 1]) ||
                (spec->group > 0 &&
                 (c == 0 ? at % spec->group == 0 : at >= half && (at - half) % spec->group == 0));

            assert_true((seg->begin[c][t] == t) == cut);
            if (!cut)
                assert_int_equal(seg->begin[c][t], seg->begin[c][t - 1]);
        }
    }
}

/* No query sees so far back, and without documents some query could not do with less. */
static void check_reach(const struct kn_segments_spec *spec, const struct kn_segments *seg)
{
    int64_t most = 0;

    for (int c = 0; c < 2; c++)
        for (int64_t t = 0; t < seg->T; t++)
            most = LH_MAX(most, t - seg->begin[c][t] + 1);
    if (spec->documents)
        assert_true(most <= seg->reach);
    else if (seg->T > 0)
        assert_int_equal(most, seg->reach);
}

static void every_micro_batch_keeps_rows_documents_and_groups_apart(void **state)
{
    struct kt_rng r = kt_rng(1);

    (void)state;
    for (int i = 0; i < ROUNDS; i++) {
        int32_t *documents;
        struct kn_segments_spec spec = kt_segments_spec(&r, 300, kt_between(&r, 1, 9), &documents);
        struct kn_segments seg = make(&spec);

        kt_segments_print(&spec);
        assert_int_equal(seg.T, spec.rows * spec.row_tokens);
        assert_int_equal(seg.shift_from, spec.group > 0 ? spec.heads / 2 : spec.heads);
        check_always(&spec, &seg);
        check_reach(&spec, &seg);
        check_cuts_are_where_they_should_be(&spec, &seg);
        kn_segments_release(&seg);
        free(documents);
    }
}

static void dense_is_one_segment_per_row(void **state)
{
    struct kn_segments_spec spec = {.rows = 2, .row_tokens = 7, .heads = 4};
    struct kn_segments seg = make(&spec);

    (void)state;
    for (int64_t t = 0; t < 14; t++)
        assert_int_equal(seg.begin[0][t], t / 7 * 7);
    assert_ptr_equal(seg.begin[0], seg.begin[1]);
    assert_int_equal(kn_segments_pairs(&seg, 0), 2 * 28);
    kn_segments_release(&seg);
}

static void s2_cuts_plain_heads_at_groups_and_shifted_heads_half_a_group_later(void **state)
{
    struct kn_segments_spec spec = {.rows = 1, .row_tokens = 10, .group = 4, .heads = 9};
    const int32_t plain[10] = {0, 0, 0, 0, 4, 4, 4, 4, 8, 8};
    const int32_t shifted[10] = {0, 0, 2, 2, 2, 2,
                                 6, 6, 6, 6}; /* the row's last two tokens join the group from 6 */
    struct kn_segments seg = make(&spec);

    (void)state;
    assert_memory_equal(seg.begin[0], plain, sizeof(plain));
    assert_memory_equal(seg.begin[1], shifted, sizeof(shifted));
    assert_int_equal(seg.shift_from, 4);
    assert_int_equal(kn_segments_pairs(&seg, 0), 10 + 10 + 3);
    assert_int_equal(kn_segments_pairs(&seg, 1), 3 + 10 + 10);
    kn_segments_release(&seg);
}

static void a_group_of_twice_the_row_or_more_equals_dense_attention(void **state)
{
    struct kt_rng r = kt_rng(2);

    (void)state;
    for (int i = 0; i < ROUNDS; i++) {
        struct kn_segments_spec spec = {
            .rows = kt_between(&r, 1, 3), .row_tokens = kt_between(&r, 1, 60), .heads = 4};
        struct kn_segments dense = make(&spec), s2;

        spec.group = 2 * kt_between(&r, spec.row_tokens, 100);
        s2 = make(&spec);
        for (int c = 0; c < 2; c++)
            assert_memory_equal(s2.begin[c], dense.begin[0], (size_t)dense.T * sizeof(int32_t));
        kn_segments_release(&dense);
        kn_segments_release(&s2);
    }
}

/* Rows that wrap: their first lead tokens are copies of their last, whose queries do not count. */
static void wrapping_adds_half_a_group_squared_to_each_shifted_head(void **state)
{
    struct kt_rng r = kt_rng(3);

    (void)state;
    for (int i = 0; i < ROUNDS; i++) {
        int64_t lead = kt_between(&r, 1, 12), row = 2 * lead * kt_between(&r, 1, 5);
        struct kn_segments_spec spec = {.rows = kt_between(&r, 1, 3),
                                        .row_tokens = row,
                                        .group = 2 * lead,
                                        .heads = kt_between(&r, 1, 9)};
        struct kn_segments plain = make(&spec), wraps;

        spec.row_tokens += lead;
        spec.wrap = true;
        wraps = make(&spec);
        assert_int_equal(wraps.shift_from, plain.shift_from);
        for (int c = 0; c < 2; c++) {
            int64_t pairs = 0;

            for (int64_t t = 0; t < plain.T; t++) {
                int64_t at = t % row, begin = t - plain.begin[c][t];
                int64_t long_t = t / row * (row + lead) + lead + at;
                int64_t seen = long_t - wraps.begin[c][long_t];

                /* What is seen beside is all of the copies, and by the first tokens only. */
                assert_int_equal(seen, begin + (c == 1 && at < lead ? lead : 0));
                pairs += seen + 1;
            }
            assert_int_equal(pairs - kn_segments_pairs(&plain, c), c * spec.rows * lead * lead);
        }
        kn_segments_release(&plain);
        kn_segments_release(&wraps);
    }
}

static void a_group_of_the_row_leaves_plain_heads_dense(void **state)
{
    struct kn_segments_spec spec = {.rows = 2, .row_tokens = 12, .group = 12, .heads = 4};
    struct kn_segments seg = make(&spec);

    (void)state;
    for (int64_t t = 0; t < 24; t++) {
        assert_int_equal(seg.begin[0][t], t / 12 * 12);
        assert_int_equal(seg.begin[1][t], t / 6 * 6);
    }
    kn_segments_release(&seg);
}

static void odd_and_negative_groups_are_refused(void **state)
{
    struct kn_segments_spec spec = {.rows = 1, .row_tokens = 8, .group = 3, .heads = 2};
    struct kn_segments seg = {0};
    struct lh_err err = {0};

    (void)state;
    assert_int_equal(kn_segments_init(&spec, &seg, &err), LH_EJOB);
    assert_non_null(strstr(err.text, "even"));
    spec.group = -4;
    assert_int_equal(kn_segments_init(&spec, &seg, &err), LH_EJOB);
    assert_null(seg.begin[0]);
    spec.group = 0;
    spec.rows = 1 << 20;
    spec.row_tokens = 1 << 20;
    assert_int_equal(kn_segments_init(&spec, &seg, &err), LH_EJOB);
}

static void pairs_count_what_the_mask_lets_through(void **state)
{
    struct kt_rng r = kt_rng(3);

    (void)state;
    for (int i = 0; i < 50; i++) {
        int32_t *documents;
        struct kn_segments_spec spec = kt_segments_spec(&r, 100, 4, &documents);
        struct kn_segments seg = make(&spec);

        for (int c = 0; c < 2; c++) {
            int64_t pairs = 0;

            for (int64_t t = 0; t < seg.T; t++)
                for (int64_t j = 0; j < seg.T; j++)
                    pairs += j >= seg.begin[c][t] && j <= t;
            assert_int_equal(kn_segments_pairs(&seg, c), pairs);
        }
        kn_segments_release(&seg);
        free(documents);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_micro_batch_keeps_rows_documents_and_groups_apart),
        cmocka_unit_test(dense_is_one_segment_per_row),
        cmocka_unit_test(s2_cuts_plain_heads_at_groups_and_shifted_heads_half_a_group_later),
        cmocka_unit_test(a_group_of_twice_the_row_or_more_equals_dense_attention),
        cmocka_unit_test(wrapping_adds_half_a_group_squared_to_each_shifted_head),
        cmocka_unit_test(a_group_of_the_row_leaves_plain_heads_dense),
        cmocka_unit_test(odd_and_negative_groups_are_refused),
        cmocka_unit_test(pairs_count_what_the_mask_lets_through),
    };

    return cmocka_run_group_tests(tests, kt_setup, NULL);
}
