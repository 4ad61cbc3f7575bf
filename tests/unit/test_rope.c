/* test_rope.c - positions: closed forms, how a job's wish composes with the base, and the golden
 * angles. */
#include "worker/formats/safetensors.h"
#include "worker/model/rope.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
// clang-format off
#include <cmocka.h>
// clang-format on

static struct model_config base_of(struct rope_config rope)
{
    return (struct model_config){.head_dim = 16, .max_positions = 64, .rope = rope};
}

static struct lh_job job_of(int64_t length, bool has_type, enum lh_rope type, double factor)
{
    struct lh_job job = {.kind = LH_KIND_TRAIN};

    job.context.length = length;
    job.context.rope.has_type = has_type;
    job.context.rope.type = type;
    job.context.rope.factor = factor;
    return job;
}

static const struct rope_config plain = {.type = LH_ROPE_DEFAULT, .theta = 10000, .factor = 1};

/* JOB-15. */
static void a_factor_left_out_is_what_the_length_needs(void **state)
{
    struct model_config base = base_of(plain);
    struct lh_job job = job_of(64, false, 0, 0);

    (void)state;
    assert_true(rope_job_factor(&job, &base) == 1);
    job.context.length = 65;
    assert_true(rope_job_factor(&job, &base) == 2);
    job.context.length = 256;
    assert_true(rope_job_factor(&job, &base) == 4);
    base.rope = (struct rope_config){.type = LH_ROPE_LINEAR, .theta = 10000, .factor = 2};
    assert_true(rope_job_factor(&job, &base) == 2);
    base.rope.type = LH_ROPE_DYNAMIC;
    assert_true(rope_job_factor(&job, &base) == 1);
    job.context.rope.factor = 3;
    assert_true(rope_job_factor(&job, &base) == 3);
}

static void linear_multiplies_a_linear_base(void **state)
{
    struct model_config base =
        base_of((struct rope_config){.type = LH_ROPE_LINEAR, .theta = 500, .factor = 2});
    struct lh_job job = job_of(512, true, LH_ROPE_LINEAR, 4);
    struct rope_config rope;
    double inv[8], scaling;

    (void)state;
    assert_int_equal(rope_compose(&job, &base, &rope, NULL), 0);
    assert_true(rope.factor == 8);
    assert_int_equal(rope_frequencies(&rope, &base, 512, inv, &scaling, NULL), 0);
    for (int i = 0; i < 8; i++)
        assert_true(fabs(inv[i] - pow(500, -2.0 * i / 16) / 8) < 1e-15);
    assert_true(scaling == 1);
}

static void factor_one_leaves_the_base_as_it_is(void **state)
{
    struct model_config base = base_of((struct rope_config){.type = LH_ROPE_LLAMA3,
                                                            .theta = 10000,
                                                            .factor = 8,
                                                            .original_length = 32,
                                                            .low_freq_factor = 1,
                                                            .high_freq_factor = 4});
    struct lh_job job = job_of(64, true, LH_ROPE_LINEAR, 1);
    struct rope_config rope;

    (void)state;
    assert_int_equal(rope_compose(&job, &base, &rope, NULL), 0);
    assert_memory_equal(&rope, &base.rope, sizeof(rope));
}

static void yarn_on_a_plain_base_takes_its_length_as_the_original(void **state)
{
    struct model_config base = base_of(plain);
    struct lh_job job = job_of(128, true, LH_ROPE_YARN, 2);
    struct rope_config rope;
    double inv[8], scaling;

    (void)state;
    assert_int_equal(rope_compose(&job, &base, &rope, NULL), 0);
    assert_int_equal(rope.type, LH_ROPE_YARN);
    assert_true(rope.original_length == 64);
    assert_int_equal(rope_frequencies(&rope, &base, 128, inv, &scaling, NULL), 0);
    assert_true(fabs(scaling - (0.1 * log(2) + 1)) < 1e-15);
    assert_true(inv[0] == 1);                                       /* fast: kept */
    assert_true(fabs(inv[7] - pow(10000, -14.0 / 16) / 2) < 1e-15); /* slow: divided */
}

static void ntk_raises_theta_so_that_the_slowest_angle_is_divided(void **state)
{
    struct model_config base = base_of(plain);
    struct lh_job job = job_of(256, true, LH_ROPE_NTK, 4);
    struct rope_config rope;
    double inv[8], scaling;

    (void)state;
    assert_int_equal(rope_compose(&job, &base, &rope, NULL), 0);
    assert_int_equal(rope.type, LH_ROPE_DEFAULT);
    assert_int_equal(rope_frequencies(&rope, &base, 256, inv, &scaling, NULL), 0);
    assert_true(fabs(inv[7] / (pow(10000, -14.0 / 16) / 4) - 1) < 1e-12);
}

static void another_mixture_is_refused_at_the_member(void **state)
{
    struct model_config base =
        base_of((struct rope_config){.type = LH_ROPE_YARN, .theta = 10000, .factor = 4});
    struct lh_job job = job_of(1024, true, LH_ROPE_LINEAR, 2);
    struct rope_config rope;
    struct lh_err err = {0};

    (void)state;
    assert_int_equal(rope_compose(&job, &base, &rope, &err), LH_EJOB);
    assert_string_equal(err.pointer, "/context/rope/type");
    base.rope = plain;
    for (int i = 0; i < 2; i++) { /* also where nothing is stretched */
        job.context.rope.factor = 2 - i;
        job.context.rope.type = LH_ROPE_LLAMA3;
        assert_int_equal(rope_compose(&job, &base, &rope, &err), LH_EJOB);
        job.context.rope.type = LH_ROPE_LONGROPE;
        assert_int_equal(rope_compose(&job, &base, &rope, &err), LH_EJOB);
        assert_non_null(strstr(err.text, "longrope need"));
    }
    base.rope = (struct rope_config){.type = LH_ROPE_LINEAR, .theta = 10000, .factor = 2};
    job.context.rope.factor = 2;
    job.context.rope.type = LH_ROPE_NTK;
    assert_int_equal(rope_compose(&job, &base, &rope, &err), LH_EJOB);
    job.context.rope.type = LH_ROPE_DYNAMIC;
    assert_int_equal(rope_compose(&job, &base, &rope, &err), LH_EJOB);
}

/* JOB-15: no scaling takes no factor, however long the window. */
static void positions_as_shipped_can_be_asked_for_at_any_length(void **state)
{
    struct model_config base = base_of(plain);
    struct lh_job job = job_of(1024, true, LH_ROPE_DEFAULT, 0);
    struct rope_config rope;

    (void)state;
    assert_int_equal(rope_compose(&job, &base, &rope, NULL), 0);
    assert_memory_equal(&rope, &plain, sizeof(rope));
}

/* JOB-38. */
static void ntk_is_written_as_another_theta(void **state)
{
    struct model_config base = base_of(plain);
    struct lh_job job = job_of(256, true, LH_ROPE_NTK, 4);
    struct rope_config rope;
    json_t *json;

    (void)state;
    assert_int_equal(rope_compose(&job, &base, &rope, NULL), 0);
    json = rope_json(&rope);
    assert_string_equal(json_string_value(json_object_get(json, "rope_type")), "default");
    assert_true(json_real_value(json_object_get(json, "rope_theta")) ==
                10000 * pow(4, 16.0 / 14.0));
    assert_int_equal(json_object_size(json), 2);
    json_decref(json);
    assert_int_equal(rope_max_positions(&rope, &base, 256), 256);
    assert_int_equal(rope_max_positions(&rope, &base, 32), 64);
}

/* JOB-38; the formula is that of transformers, which raises the base by the length of the text. */
static void dynamic_depends_on_the_length_of_the_window(void **state)
{
    struct model_config base = base_of(plain);
    struct lh_job job = job_of(160, true, LH_ROPE_DYNAMIC, 2);
    struct rope_config rope;
    double inv[8], scaling, theta = 10000 * pow(2 * 160.0 / 64 - 1, 16.0 / 14);
    json_t *json;

    (void)state;
    assert_int_equal(rope_compose(&job, &base, &rope, NULL), 0);
    assert_int_equal(rope.type, LH_ROPE_DYNAMIC);
    for (int64_t length = 64; length <= 160; length += 96) {
        assert_int_equal(rope_frequencies(&rope, &base, length, inv, &scaling, NULL), 0);
        for (int i = 0; i < 8; i++) {
            double want = pow(length > 64 ? theta : 10000, -i / 8.0);

            assert_true(fabs(inv[i] / want - 1) < 1e-12);
        }
        assert_true(scaling == 1);
    }
    json = rope_json(&rope);
    assert_string_equal(json_string_value(json_object_get(json, "rope_type")), "dynamic");
    assert_true(json_real_value(json_object_get(json, "factor")) == 2);
    assert_null(json_object_get(json, "original_max_position_embeddings"));
    json_decref(json);
    assert_int_equal(rope_max_positions(&rope, &base, 160), 64);
    /* Factor 1 stretches as well, but only beyond the base's length. */
    job.context.rope.factor = 1;
    assert_int_equal(rope_compose(&job, &base, &rope, NULL), 0);
    assert_int_equal(rope.type, LH_ROPE_DYNAMIC);
    job.context.length = 64;
    assert_int_equal(rope_compose(&job, &base, &rope, NULL), 0);
    assert_int_equal(rope.type, LH_ROPE_DEFAULT);
}

static void llama3_keeps_fast_angles_and_divides_slow_ones(void **state)
{
    struct rope_config rope = {.type = LH_ROPE_LLAMA3,
                               .theta = 10000,
                               .factor = 8,
                               .original_length = 32,
                               .low_freq_factor = 1,
                               .high_freq_factor = 4};
    struct model_config base = base_of(rope);
    double inv[8], scaling;

    (void)state;
    assert_int_equal(rope_frequencies(&rope, &base, 64, inv, &scaling, NULL), 0);
    assert_true(inv[0] == 1);
    assert_true(fabs(inv[7] - pow(10000, -14.0 / 16) / 8) < 1e-15);
    for (int i = 0; i < 7; i++)
        assert_true(inv[i + 1] < inv[i]);
}

static void the_table_holds_cosines_then_sines_times_the_scaling(void **state)
{
    double inv[2] = {1, 0.25};
    float table[3 * 4];

    (void)state;
    rope_table(inv, 1.5, 4, 3, table);
    assert_true(table[0] == 1.5f);
    assert_true(table[2] == 0);
    assert_true(table[8] == (float)(cos(2) * 1.5));
    assert_true(table[9] == (float)(cos(0.5) * 1.5));
    assert_true(table[10] == (float)(sin(2) * 1.5));
    assert_true(table[11] == (float)(sin(0.5) * 1.5));
}

/* Model, composed positions and expected angles of one golden case. */
static void check_golden(const char *folder, const char *name)
{
    char path[1024];
    struct model_source *source;
    struct lh_job *job;
    struct st_file *expected;
    const struct st_tensor *t;
    struct rope_config rope;
    double inv[256], scaling;
    json_t *spec;
    struct lh_err err = {0};

    (void)snprintf(path, sizeof(path), "%s/%s/model", folder, name);
    assert_int_equal(model_source_open(path, &source, &err), 0);
    (void)snprintf(path, sizeof(path), "%s/%s/case.json", folder, name);
    spec = json_load_file(path, 0, NULL);
    assert_non_null(spec);
    json_object_del(spec, "about");
    json_object_del(spec, "micro_batches");
    json_object_del(spec, "loss");
    json_object_del(spec, "rope_parameters");
    json_object_del(spec, "checks");
    json_object_del(spec, "tolerances");
    if (lh_job_parse(spec, &job, NULL, &err) < 0)
        fail_msg("%s: %s", name, err.text);
    (void)snprintf(path, sizeof(path), "%s/%s/expected.safetensors", folder, name);
    assert_int_equal(st_open(path, &expected, &err), 0);
    assert_int_equal(rope_compose(job, model_source_config(source), &rope, &err), 0);
    assert_int_equal(rope_frequencies(&rope, model_source_config(source), job->context.length, inv,
                                      &scaling, &err),
                     0);
    t = st_find(expected, "rope.inv_freq");
    assert_non_null(t);
    for (int64_t i = 0; i < t->n; i++) {
        float want;

        memcpy(&want, (const char *)t->data + i * 4, sizeof(want));
        if (fabs(inv[i] - (double)want) > 1e-7 * (double)want)
            fail_msg("%s: inv_freq[%lld] is %.9g, want %.9g", name, (long long)i, inv[i],
                     (double)want);
    }
    t = st_find(expected, "rope.attention_scaling");
    assert_non_null(t);
    {
        float want;

        memcpy(&want, t->data, sizeof(want));
        assert_true(fabs(scaling - (double)want) < 1e-6);
    }
    st_close(expected);
    lh_job_free(job);
    json_decref(spec);
    model_source_close(source);
}

static void angles_equal_the_goldens(void **state)
{
    const char *folder = getenv("LONGHAUL_GOLDEN");
    static const char *const names[] = {"dense-mha", "s2-mha",        "rope-llama3",
                                        "rope-yarn", "rope-longrope", "rope-linear-composed",
                                        "s2-gqa-9-3"};

    (void)state;
    if (!folder)
        folder = GOLDEN_DEFAULT;
    {
        char path[1024];
        FILE *there;

        (void)snprintf(path, sizeof(path), "%s/rope-yarn/case.json", folder);
        there = fopen(path, "re");
        if (!there) {
            print_message("no golden data at %s (set LONGHAUL_GOLDEN)\n", folder);
            skip();
        }
        (void)fclose(there);
    }
    for (size_t i = 0; i < LH_ARRAY_LEN(names); i++)
        check_golden(folder, names[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_factor_left_out_is_what_the_length_needs),
        cmocka_unit_test(linear_multiplies_a_linear_base),
        cmocka_unit_test(factor_one_leaves_the_base_as_it_is),
        cmocka_unit_test(yarn_on_a_plain_base_takes_its_length_as_the_original),
        cmocka_unit_test(ntk_raises_theta_so_that_the_slowest_angle_is_divided),
        cmocka_unit_test(another_mixture_is_refused_at_the_member),
        cmocka_unit_test(positions_as_shipped_can_be_asked_for_at_any_length),
        cmocka_unit_test(ntk_is_written_as_another_theta),
        cmocka_unit_test(dynamic_depends_on_the_length_of_the_window),
        cmocka_unit_test(llama3_keeps_fast_angles_and_divides_slow_ones),
        cmocka_unit_test(the_table_holds_cosines_then_sines_times_the_scaling),
        cmocka_unit_test(angles_equal_the_goldens),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
