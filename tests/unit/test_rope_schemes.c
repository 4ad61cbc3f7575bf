/* test_rope_schemes.c - angles between the fast and the slow end of each scheme, against those that
 * Hugging Face transformers 5 computes (fp32; given here with all its digits).
 */
#include "worker/model/rope.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
// clang-format off
#include <cmocka.h>
// clang-format on

struct angle {
    int i;
    double inv_freq;
};

static void check(struct rope_config rope, int64_t head_dim, int64_t length, double scaling,
                  const struct angle *want, size_t n)
{
    struct model_config base = {
        .head_dim = head_dim, .max_positions = (int64_t)rope.original_length, .rope = rope};
    double inv[64], got;

    assert_true(head_dim / 2 <= 64);
    assert_int_equal(rope_frequencies(&rope, &base, length, inv, &got, NULL), 0);
    assert_true(fabs(got - scaling) < 1e-9);
    for (size_t k = 0; k < n; k++) {
        if (fabs(inv[want[k].i] / want[k].inv_freq - 1) > 1e-6)
            fail_msg("angle %d is %.9g, want %.9g", want[k].i, inv[want[k].i], want[k].inv_freq);
    }
}

/* Angles 28 to 33 lie between the two wave lengths. */
static void llama3_blends_in_between(void **state)
{
    static const struct angle want[] = {
        {0, 1.0},
        {20, 0.016560440883040428},
        {28, 0.0032114461064338684},
        {30, 0.0013718936825171113},
        {31, 0.0008567514596506953},
        {33, 0.0003126936499029398},
        {36, 7.784655463183299e-05},
        {63, 3.068925877869333e-07},
    };
    const struct rope_config rope = {.type = LH_ROPE_LLAMA3,
                                     .theta = 500000,
                                     .factor = 8,
                                     .original_length = 8192,
                                     .low_freq_factor = 1,
                                     .high_freq_factor = 4};

    (void)state;
    check(rope, 128, 131072, 1, want, LH_ARRAY_LEN(want));
}

/* The ramp runs from angle 8 (32 turns in the original length) to 21 (one turn). */
static void yarn_blends_along_a_ramp(void **state)
{
    static const struct angle want[] = {
        {0, 1.0},
        {5, 0.23713736236095428},
        {8, 0.10000000149011612},
        {12, 0.024325214326381683},
        {16, 0.005384615156799555},
        {20, 0.0009730085730552673},
        {21, 0.0005928434547968209},
        {31, 3.333803761051968e-05},
    };
    struct rope_config rope = {
        .type = LH_ROPE_YARN, .theta = 10000, .factor = 4, .original_length = 2048};

    (void)state;
    check(rope, 64, 8192, 1.138629436111989, want, LH_ARRAY_LEN(want));
    rope.mscale = 1;
    rope.mscale_all_dim = 0.5;
    check(rope, 64, 8192, 1.0648216253695715, want, LH_ARRAY_LEN(want));
    rope.attention_factor = 0.75;
    check(rope, 64, 8192, 0.75, want, LH_ARRAY_LEN(want));
}

static void dynamic_raises_theta_only_behind_the_original_length(void **state)
{
    static const struct angle far[] = {
        {0, 1.0},
        {5, 0.1732582151889801},
        {16, 0.0036628602538257837},
        {21, 0.000634620722848922},
        {31, 1.9050306946155615e-05},
    };
    static const struct angle near[] = {
        {5, 0.23713736236095428}, {16, 0.009999999776482582}, {31, 0.0001333521504420787}};
    const struct rope_config rope = {
        .type = LH_ROPE_DYNAMIC, .theta = 10000, .factor = 2, .original_length = 2048};

    (void)state;
    check(rope, 64, 8192, 1, far, LH_ARRAY_LEN(far));
    check(rope, 64, 1024, 1, near, LH_ARRAY_LEN(near));
    check(rope, 64, 2048, 1, near, LH_ARRAY_LEN(near));
}

static void longrope_takes_its_long_list_behind_the_original_length(void **state)
{
    struct rope_config rope = {.type = LH_ROPE_LONGROPE,
                               .theta = 10000,
                               .factor = 16,
                               .original_length = 4096,
                               .n_factors = 2,
                               .short_factor = {1, 2},
                               .long_factor = {4, 8}};
    static const struct angle near[] = {{0, 1.0}, {1, 0.01 / 2}}, far[] = {{0, 0.25}, {1, 0.00125}};
    const double scaling = sqrt(1 + 4 * log(2) / (12 * log(2)));

    (void)state;
    check(rope, 4, 4096, scaling, near, 2);
    check(rope, 4, 4097, scaling, far, 2);
    rope.attention_factor = 1.25;
    check(rope, 4, 4097, 1.25, far, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama3_blends_in_between),
        cmocka_unit_test(yarn_blends_along_a_ramp),
        cmocka_unit_test(dynamic_raises_theta_only_behind_the_original_length),
        cmocka_unit_test(longrope_takes_its_long_list_behind_the_original_length),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
