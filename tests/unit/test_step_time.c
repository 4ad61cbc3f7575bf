/* test_step_time.c - the time of a step that a plan tells (PLAN-6): what it adds up, and that the
 * rates which it takes are those of real steps. */
#include "proto/base/clock.h"
#include "tests/unit/tiny_model.h"
#include "worker/kinds/step_time.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
// clang-format off
#include <cmocka.h>
// clang-format on

#define TOKENS 1024
#define GROUP 256
#define ATTEMPTS 3
#define WITHIN 2.0 /* times too long or too short */

static const struct tiny_shape shape = {4, 256, 4, 2, 64, 640, 2000, true};

/* Processor seconds of a thread: of the fastest of some steps. */
static double real_seconds(struct llama *m)
{
    static int32_t ids[TOKENS], labels[TOKENS];
    struct llama_batch b = {
        .rows = 1, .row_tokens = TOKENS, .ids = ids, .labels = labels, .group = GROUP};
    double best = HUGE_VAL, nll;

    for (int i = 0; i < TOKENS; i++)
        ids[i] = labels[i] = i * 31 % shape.vocab;
    for (int i = 0; i < 4; i++) {
        uint64_t began = lh_cpu_ns();

        assert_int_equal(llama_train(m, &b, 1e-3f, &nll, NULL), 0);
        if (i > 0)
            best = fmin(best, (double)(lh_cpu_ns() - began) * 1e-9);
    }
    return best;
}

/* Another program may take half of a core that this one runs on from one moment to the next, so
 * what fits once is right. */
static void check_rates(enum kn_dtype dtype, int64_t keep)
{
    const char *dir = tiny_model_write(&shape, 5);
    struct tiny_options o = {
        .dir = dir, .ops = &kn_cpu_ops, .spec = tiny_spec(dtype), .rows = 1, .row_tokens = TOKENS};
    struct llama_work work;
    double ratio = 0;
    struct tiny t;

    for (int i = 0; i < WORK_KEEPS; i++)
        o.keep[i] = keep;
    tiny_open(&t, &o);
    llama_count(&t.model, 1, TOKENS, GROUP, &work);
    for (int i = 0; i < ATTEMPTS && !(ratio > 1 / WITHIN && ratio < WITHIN); i++) {
        double real = real_seconds(&t.model);
        struct rates r;

        assert_int_equal(rates_measure(&t.model, &o.spec, &kn_cpu_ops, 1, GROUP, &r, NULL), 0);
        assert_true(r.update > 0);
        assert_true(r.copy > 0);
        ratio = rates_seconds(&r, &work) / real;
    }
    tiny_close(&t);
    tiny_model_remove(dir);
    if (!(ratio > 1 / WITHIN && ratio < WITHIN))
        fail_msg("a step is told to take %.2f times as long as it takes", ratio);
}

static void measured_rates_tell_the_time_of_a_step_in_fp32(void **state)
{
    (void)state;
    check_rates(KN_F32, shape.layers);
}

static void measured_rates_tell_the_time_of_a_step_in_bf16(void **state)
{
    (void)state;
    check_rates(KN_BF16, shape.layers);
}

static void measured_rates_tell_the_time_of_a_step_that_keeps_nothing(void **state)
{
    (void)state;
    check_rates(KN_BF16, 0);
}

static void a_pass_without_gradients_has_rates_of_what_it_does(void **state)
{
    struct params_spec spec = {.dtype = KN_F32};
    struct tiny_options o = {
        .dir = tiny_model_write(&shape, 6), .ops = &kn_cpu_ops, .rows = 1, .row_tokens = 64};
    struct rates r;
    struct tiny t;

    (void)state;
    o.spec = spec;
    tiny_open(&t, &o);
    assert_int_equal(rates_measure(&t.model, &spec, &kn_cpu_ops, 1, 0, &r, NULL), 0);
    assert_true(r.product > 0);
    assert_true(r.head > 0);
    assert_true(r.attention > 0);
    assert_true(r.rows > 0);
    assert_true(r.attention_bwd == 0.0);
    assert_true(r.update == 0.0);
    tiny_close(&t);
    tiny_model_remove(o.dir);
}

/* A job of four rows, and a model whose rates are chosen. */
static double told(const struct llama *m, int ranks, int local_ranks, const struct rates *r)
{
    const struct lh_job job = {.kind = LH_KIND_TRAIN,
                               .context = {.length = 64, .attention.type = LH_ATTENTION_DENSE},
                               .optim.batch_sequences = 4};
    struct engine_place place = {.ranks = ranks, .local_ranks = local_ranks, .threads = 1};

    return step_time(m, &job, &place, r);
}

static void a_step_is_its_rows_the_update_and_what_ranks_exchange(void **state)
{
    const char *dir = tiny_model_write(&shape, 7);
    struct params_spec spec = tiny_spec(KN_F32);
    struct llama_options o = {.params = &spec, .tokens = 64, .row_tokens = 64, .backward = true};
    const struct rates work = {1e9, 2e9, 3e8, 4e8, 5e9, INFINITY, INFINITY};
    const struct rates update = {.update = 1e6, .copy = INFINITY};
    const struct rates sum = {.update = INFINITY, .copy = 1e9};
    struct model_source *source;
    struct llama_work row;
    struct llama m;
    double bytes, seconds;

    (void)state;
    assert_int_equal(model_source_open(dir, &source, NULL), 0);
    o.config = model_source_config(source);
    assert_int_equal(llama_init(&o, &m, NULL), 0);
    llama_count(&m, 1, 64, 0, &row);
    seconds = row.products / 1e9 + row.head / 2e9 + row.attention / 3e8 + row.attention_bwd / 4e8 +
              row.bytes / 5e9;
    assert_true(fabs(told(&m, 1, 1, &work) / (4 * seconds) - 1) < 1e-9);
    assert_true(fabs(told(&m, 2, 2, &work) / (2 * seconds) - 1) < 1e-9);
    assert_true(fabs(told(&m, 3, 3, &work) / (2 * seconds) - 1) < 1e-9); /* 3 rows, then 1 */
    assert_true(fabs(told(&m, 1, 1, &update) * 1e6 - (double)m.params.n_trainable) < 1e-3);
    assert_true(fabs(told(&m, 2, 2, &update) * 2e6 - (double)m.params.n_trainable) < 1e-3);
    bytes = (double)m.params.n_region * sizeof(float);
    assert_true(told(&m, 1, 1, &sum) == 0.0);
    /* Half of the gradients come and half of the weights, each copied twice; two slices are read
     * for one sum; the other half of the gradients is set to 0. */
    assert_true(fabs(told(&m, 2, 2, &sum) * 1e9 / bytes - (4 + 1.5 + 0.5)) < 1e-9);
    assert_true(fabs((told(&m, 2, 1, &sum) - told(&m, 2, 2, &sum)) * STEP_TIME_NETWORK_BYTES -
                     bytes) < 1e-3);
    llama_release(&m);
    model_source_close(source);
    tiny_model_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(measured_rates_tell_the_time_of_a_step_in_fp32),
        cmocka_unit_test(measured_rates_tell_the_time_of_a_step_in_bf16),
        cmocka_unit_test(measured_rates_tell_the_time_of_a_step_that_keeps_nothing),
        cmocka_unit_test(a_pass_without_gradients_has_rates_of_what_it_does),
        cmocka_unit_test(a_step_is_its_rows_the_update_and_what_ranks_exchange),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
