/* test_profile_rows.c - the sums of a profile: what is counted, what is left out, and more shapes
 * of products than there is room for. */
#include "proto/base/err.h"
#include "worker/profile.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
// clang-format off
#include <cmocka.h>
// clang-format on

#define SHAPES 300

struct fixture {
    char path[32];
    struct profile *p;
    const struct kn_ops *ops;
    struct kn_stream *s;
    struct kn_mat y;
};

static void fixture_open(struct fixture *f)
{
    static float y[SHAPES * 4];
    struct lh_err err = {0};
    int fd;

    *f = (struct fixture){.path = "/tmp/test-profile-XXXXXX"};
    fd = mkstemp(f->path);
    assert_true(fd >= 0);
    (void)close(fd);
    assert_int_equal(profile_open(f->path, 0, &f->p, &err), 0);
    assert_int_equal(profile_stream(f->p, &kn_reference_ops, 1, KN_F32, 1e9, &f->ops, &f->s, &err),
                     0);
    f->y = kn_mat(y, KN_F32, SHAPES, 4);
}

/* Ends the profile; the file must hold the same table. Returns it: a new reference. */
static json_t *fixture_table(struct fixture *f)
{
    struct lh_err err = {0};
    json_t *file, *table;

    assert_int_equal(profile_finish(f->p, &err), 0);
    table = profile_json(f->p);
    file = json_load_file(f->path, 0, NULL);
    assert_non_null(file);
    assert_int_equal(json_array_size(json_object_get(file, "ops")),
                     json_array_size(json_object_get(table, "ops")));
    json_decref(file);
    f->ops->stream_free(f->s);
    profile_free(f->p);
    (void)unlink(f->path);
    return table;
}

/* Calls of an op, of one shape (NULL: of all). */
static json_int_t calls_of(const json_t *table, const char *op, const char *shape)
{
    json_int_t n = 0;
    const json_t *row;
    size_t i;

    json_array_foreach(json_object_get(table, "ops"), i, row)
    {
        if (strcmp(json_string_value(json_object_get(row, "op")), op) == 0 &&
            (!shape || strcmp(json_string_value(json_object_get(row, "shape")), shape) == 0))
            n += json_integer_value(json_object_get(row, "calls"));
    }
    return n;
}

static void steps_after_the_first_count_and_nothing_outside(void **state)
{
    struct fixture f;
    json_t *table, *span;

    (void)state;
    fixture_open(&f);
    f.ops->fill(f.s, f.y, 0);
    for (int step = 0; step < 3; step++) {
        profile_begin(f.p, "step");
        f.ops->fill(f.s, f.y, 1);
        profile_begin(f.p, "inner");
        f.ops->fill(f.s, f.y, 2);
        profile_end(f.p);
        profile_end(f.p);
        profile_begin(f.p, "other");
        f.ops->copy(f.s, f.y, f.y);
        profile_end(f.p);
    }
    table = fixture_table(&f);
    assert_int_equal(calls_of(table, "fill", NULL), 4);
    assert_int_equal(calls_of(table, "copy", NULL), 0);
    span = json_array_get(json_object_get(table, "spans"), 0);
    assert_string_equal(json_string_value(json_object_get(span, "name")), "step");
    assert_int_equal(json_integer_value(json_object_get(span, "calls")), 2);
    json_decref(table);
}

static void the_only_step_counts_and_open_spans_end_with_the_profile(void **state)
{
    struct fixture f;
    json_t *table, *span;

    (void)state;
    fixture_open(&f);
    profile_begin(f.p, "step");
    profile_begin(f.p, "inner");
    f.ops->fill(f.s, f.y, 1);
    table = fixture_table(&f);
    assert_int_equal(calls_of(table, "fill", NULL), 1);
    span = json_array_get(json_object_get(table, "spans"), 0);
    assert_int_equal(json_integer_value(json_object_get(span, "calls")), 1);
    json_decref(table);
}

static void more_shapes_than_rows_share_one_and_no_call_is_lost(void **state)
{
    static float x[SHAPES * 4], w[16];
    struct fixture f;
    json_t *table;

    (void)state;
    fixture_open(&f);
    profile_begin(f.p, "step");
    for (int64_t n = 1; n <= SHAPES; n++)
        f.ops->matmul(f.s, kn_rows(f.y, 0, n), kn_mat(x, KN_F32, n, 4), false,
                      kn_mat(w, KN_F32, 4, 4), true, 1, 0);
    f.ops->fill(f.s, f.y, 1);
    profile_end(f.p);
    table = fixture_table(&f);
    assert_int_equal(calls_of(table, "matmul", NULL), SHAPES);
    assert_int_equal(calls_of(table, "matmul", "1x4x4 nt"), 1);
    assert_true(calls_of(table, "matmul", "other shapes") > SHAPES / 4);
    assert_int_equal(calls_of(table, "fill", ""), 1);
    json_decref(table);
}

static void no_profile_is_no_work(void **state)
{
    (void)state;
    profile_begin(NULL, "step");
    profile_end(NULL);
    profile_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_after_the_first_count_and_nothing_outside),
        cmocka_unit_test(the_only_step_counts_and_open_spans_end_with_the_profile),
        cmocka_unit_test(more_shapes_than_rows_share_one_and_no_call_is_lost),
        cmocka_unit_test(no_profile_is_no_work),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
