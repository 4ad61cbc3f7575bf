/* test_optim.c - squares over the table of parameters, and which parameter is updated how. */
#include "worker/optim/optim.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
// clang-format off
#include <cmocka.h>
// clang-format on

#define N 3 /* elements of each parameter */

/* LoRA factors A and B, a norm, an embedding with a bf16 copy, and a frozen linear. */
enum { A, B, NORM, EMBED, FROZEN, PARAMS };

struct table {
    float master[PARAMS][N], grad[PARAMS][N], m[PARAMS][N], v[PARAMS][N];
    uint16_t low[N];
    struct param at[PARAMS];
    struct params params;
    struct device device;
};

static void table_open(struct table *t)
{
    static const enum param_role roles[PARAMS] = {PARAM_LORA_A, PARAM_LORA_B, PARAM_NORM_IN,
                                                  PARAM_EMBED, PARAM_Q};

    memset(t, 0, sizeof(*t));
    t->device.ops = &kn_reference_ops;
    assert_int_equal(t->device.ops->stream_new(1, &t->device.stream, NULL), 0);
    for (int i = 0; i < PARAMS; i++) {
        struct param *p = &t->at[i];

        p->role = roles[i];
        p->n = N;
        p->trains = i != FROZEN;
        p->decays = i != NORM;
        p->master = t->master[i];
        p->grad = t->grad[i];
        p->m = t->m[i];
        p->v = t->v[i];
        p->w = i == EMBED ? kn_mat(t->low, KN_BF16, 1, N) : kn_mat(t->master[i], KN_F32, 1, N);
        for (int k = 0; k < N; k++) {
            t->master[i][k] = 1.0f + (float)k;
            t->grad[i][k] = (float)(i + 1) * (k == 1 ? -1.0f : 1.0f);
        }
    }
    t->params = (struct params){.at = t->at, .n = PARAMS, .own = {{0, N}, {0, N}}};
}

static void table_close(struct table *t)
{
    t->device.ops->stream_free(t->device.stream);
}

static struct lh_job job_of(double decay)
{
    struct lh_job job = {.kind = LH_KIND_TRAIN};

    job.optim.beta1 = 0.9;
    job.optim.beta2 = 0.95;
    job.optim.eps = 1e-8;
    job.optim.weight_decay = decay;
    return job;
}

static void squares_are_of_all_that_trains_and_nothing_else(void **state)
{
    struct table t;
    double squares;

    (void)state;
    table_open(&t);
    assert_int_equal(optim_squares(&t.device, &t.params, &squares, NULL), 0);
    assert_true(fabs(squares - N * (1.0 + 4.0 + 9.0 + 16.0)) < 1e-12);
    table_close(&t);
}

/* At t = 1 the corrected step is rate * sign(gradient), whatever its size. */
static void the_first_update_moves_each_weight_by_the_rate(void **state)
{
    struct lh_job job = job_of(0);
    struct table t;

    (void)state;
    table_open(&t);
    assert_int_equal(optim_update(&t.device, &t.params, &job, 0.25, 1, 1, NULL), 0);
    for (int i = 0; i < PARAMS; i++) {
        for (int k = 0; k < N; k++) {
            double step = i == FROZEN ? 0 : k == 1 ? -0.25 : 0.25;

            assert_true(fabs((double)t.master[i][k] - (1.0 + k - step)) < 1e-6);
            assert_true((t.v[i][k] != 0) == (i != FROZEN));
        }
    }
    for (int k = 0; k < N; k++)
        assert_int_equal(t.low[k], kn_f32_to_bf16(t.master[EMBED][k]));
    table_close(&t);
}

static void norms_do_not_decay_and_b_may_have_a_rate_of_its_own(void **state)
{
    struct lh_job job = job_of(0.5);
    struct table t;

    (void)state;
    job.optim.lora_plus_ratio = 4;
    table_open(&t);
    assert_int_equal(optim_update(&t.device, &t.params, &job, 0.125, 1, 1, NULL), 0);
    assert_true(fabs((double)t.master[A][0] - (1 - 0.125 * 0.5 - 0.125)) < 1e-6);
    assert_true(fabs((double)t.master[B][0] - (1 - 0.5 * 0.5 - 0.5)) < 1e-6);
    assert_true(fabs((double)t.master[NORM][0] - (1 - 0.125)) < 1e-6);
    assert_true(fabs((double)t.master[EMBED][0] - (1 - 0.125 * 0.5 - 0.125)) < 1e-6);
    table_close(&t);
}

/* Each constant of the update on its own: moments of a second step, and an eps that matters. */
static void moments_and_eps_are_those_of_the_job(void **state)
{
    struct lh_job job = job_of(0);
    double m, v, step;
    struct table t;

    (void)state;
    job.optim.eps = 2;
    table_open(&t);
    t.m[A][0] = 0.5f;
    t.v[A][0] = 0.25f;
    assert_int_equal(optim_update(&t.device, &t.params, &job, 0.125, 0.5, 2, NULL), 0);
    m = 0.9 * 0.5 + 0.1 * 0.5;
    v = 0.95 * 0.25 + 0.05 * 0.25;
    step = 0.125 * (m / (1 - 0.81)) / (sqrt(v / (1 - 0.9025)) + 2);
    assert_true(fabs((double)t.m[A][0] - m) < 1e-6);
    assert_true(fabs((double)t.v[A][0] - v) < 1e-6);
    assert_true(fabs((double)t.master[A][0] - (1 - step)) < 1e-6);
    table_close(&t);
}

/* Of fp32 tensors the first two elements are this process's, of the one with a bf16 copy the last.
 */
static void of_shared_work_a_process_squares_and_updates_its_own_part(void **state)
{
    struct lh_job job = job_of(0);
    double squares;
    struct table t;

    (void)state;
    table_open(&t);
    t.params.own[PARAMS_EXACT] = (struct params_range){0, 2};
    t.params.own[PARAMS_LOW] = (struct params_range){2, 1};
    t.grad[EMBED][2] = 7;
    assert_int_equal(optim_squares(&t.device, &t.params, &squares, NULL), 0);
    assert_true(fabs(squares - (2 * (1.0 + 4.0 + 9.0) + 49.0)) < 1e-12);
    assert_int_equal(optim_update(&t.device, &t.params, &job, 0.25, 1, 1, NULL), 0);
    for (int i = 0; i < PARAMS; i++) {
        for (int k = 0; k < N; k++) {
            bool own = i == EMBED ? k == 2 : i != FROZEN && k < 2;

            assert_true((t.master[i][k] != 1.0f + (float)k) == own);
            assert_true((t.m[i][k] != 0) == own);
            assert_true((t.v[i][k] != 0) == own);
        }
    }
    assert_int_equal(t.low[0], 0);
    assert_int_equal(t.low[1], 0);
    assert_int_equal(t.low[2], kn_f32_to_bf16(t.master[EMBED][2]));
    table_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(squares_are_of_all_that_trains_and_nothing_else),
        cmocka_unit_test(the_first_update_moves_each_weight_by_the_rate),
        cmocka_unit_test(norms_do_not_decay_and_b_may_have_a_rate_of_its_own),
        cmocka_unit_test(moments_and_eps_are_those_of_the_job),
        cmocka_unit_test(of_shared_work_a_process_squares_and_updates_its_own_part),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
