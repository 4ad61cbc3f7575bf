/* test_lora_dropout.c - dropout in the model: what is dropped is the same in both passes and
 * however the tokens are cut, only LoRA sees it, and evaluation never does. (JOB-39; the numbers
 * themselves are a golden case's.) */
#include "tests/unit/tiny_model.h"
#include "worker/model/rehearse.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
// clang-format off
#include <cmocka.h>
// clang-format on

#define ROWS 3
#define ROW 20
#define TOKENS (ROWS * ROW)
#define SEED 4

static const struct tiny_shape shape = {2, 16, 4, 2, 4, 26, 29, true};

struct bench {
    int32_t ids[TOKENS], labels[TOKENS];
    uint64_t keys[ROWS];
    struct tiny tiny;
};

/* dir is the model's; the batch is one of step `step`. */
static void bench_open(struct bench *b, const char *dir, double rate, int64_t mlp_tile)
{
    struct tiny_options o = {.dir = dir,
                             .ops = &kn_reference_ops,
                             .spec = tiny_spec(KN_F32),
                             .rows = ROWS,
                             .row_tokens = ROW,
                             .mlp_tile = mlp_tile};

    o.spec.dropout = rate;
    for (int i = 0; i < TOKENS; i++)
        b->ids[i] = (int32_t)((tiny_random(8, (uint64_t)i) + 1) / 2 * shape.vocab);
    for (int i = 0; i < TOKENS; i++)
        b->labels[i] = i % ROW == ROW - 1 ? -100 : b->ids[i + 1];
    tiny_open(&b->tiny, &o);
}

/* Sum of nll of rows [first, first + n) of a step in training; gradients start at zero when
 * `fresh`. */
static double train(struct bench *b, int64_t step, int first, int n, bool fresh)
{
    struct llama *m = &b->tiny.model;
    struct llama_batch batch = {.rows = n,
                                .row_tokens = ROW,
                                .ids = b->ids + first * ROW,
                                .labels = b->labels + first * ROW,
                                .group = 8,
                                .drop_keys = b->keys};
    double nll;

    for (int i = 0; i < n; i++)
        b->keys[i] = dropout_row_key(SEED, step, first + i);
    if (fresh)
        memset(m->params.grad, 0, (size_t)m->params.n_region * sizeof(float));
    assert_int_equal(llama_train(m, &batch, 1.0f / TOKENS, &nll, NULL), 0);
    return nll;
}

static double evaluate(struct bench *b)
{
    struct llama_batch batch = {.rows = ROWS,
                                .row_tokens = ROW,
                                .ids = b->ids,
                                .labels = b->labels,
                                .group = 8,
                                .drop_keys = b->keys};
    double sum = 0;

    assert_int_equal(llama_eval(&b->tiny.model, &batch, NULL), 0);
    for (int i = 0; i < TOKENS; i++)
        sum += b->tiny.model.nll[i];
    return sum;
}

static double loss_of(void *arg)
{
    return train(arg, 5, 0, ROWS, true) / TOKENS;
}

static void gradients_match_finite_differences_while_the_same_is_dropped(void **state)
{
    const char *dir = tiny_model_write(&shape, 31);
    struct bench b;

    (void)state;
    bench_open(&b, dir, 0.4, 0);
    tiny_check_role(&b.tiny, PARAM_LORA_A, loss_of, &b);
    tiny_check_role(&b.tiny, PARAM_LORA_B, loss_of, &b);
    tiny_check_role(&b.tiny, PARAM_NORM_POST, loss_of, &b);
    tiny_check_role(&b.tiny, PARAM_EMBED, loss_of, &b);
    tiny_close(&b.tiny);
    tiny_model_remove(dir);
}

static void steps_differ_and_evaluation_drops_nothing(void **state)
{
    const char *dir = tiny_model_write(&shape, 32);
    struct bench with, without;
    double plain;

    (void)state;
    bench_open(&with, dir, 0.4, 0);
    bench_open(&without, dir, 0, 0);
    plain = train(&without, 0, 0, ROWS, true);
    assert_true(train(&with, 0, 0, ROWS, true) == train(&with, 0, 0, ROWS, true));
    assert_true(fabs(train(&with, 0, 0, ROWS, true) - train(&with, 1, 0, ROWS, true)) > 1e-3);
    assert_true(fabs(train(&with, 0, 0, ROWS, true) - plain) > 1e-3);
    assert_true(evaluate(&with) == evaluate(&without));
    assert_true(fabs(evaluate(&with) - plain) < 1e-9);
    tiny_close(&with.tiny);
    tiny_close(&without.tiny);
    tiny_model_remove(dir);
}

/* The base's own products see everything: where B is zero, dropping changes nothing. */
static void only_the_factors_see_it(void **state)
{
    const char *dir = tiny_model_write(&shape, 33);
    struct params *p;
    struct bench b;

    (void)state;
    bench_open(&b, dir, 0.4, 0);
    p = &b.tiny.model.params;
    for (unsigned i = 0; i < p->n; i++)
        for (int64_t k = 0; p->at[i].role == PARAM_LORA_B && k < p->at[i].n; k++)
            p->at[i].master[k] = 0;
    params_refresh(p, b.tiny.ops, b.tiny.stream);
    assert_true(fabs(train(&b, 0, 0, ROWS, true) - evaluate(&b)) < 1e-9);
    tiny_close(&b.tiny);
    tiny_model_remove(dir);
}

static void tiles_and_micro_batches_drop_the_same(void **state)
{
    const char *dir = tiny_model_write(&shape, 34);
    struct bench whole, cut;
    double sum = 0, largest = 0, worst = 0, all;
    const float *a, *c;

    (void)state;
    bench_open(&whole, dir, 0.4, TOKENS);
    bench_open(&cut, dir, 0.4, 7);
    cut.tiny.model.dropout.room_rows = 3; /* of each row of the batch, several rooms full */
    all = train(&whole, 3, 0, ROWS, true);
    for (int row = ROWS - 1; row >= 0; row--)
        sum += train(&cut, 3, row, 1, row == ROWS - 1);
    assert_true(fabs(sum - all) < 1e-6 * all);
    a = whole.tiny.model.params.grad;
    c = cut.tiny.model.params.grad;
    for (int64_t i = 0; i < whole.tiny.model.params.n_region; i++) {
        largest = fmax(largest, fabs((double)a[i]));
        worst = fmax(worst, fabs((double)a[i] - (double)c[i]));
    }
    assert_true(largest > 0);
    assert_true(worst < 2e-6 * largest);
    tiny_close(&whole.tiny);
    tiny_close(&cut.tiny);
    tiny_model_remove(dir);
}

/* Whatever a model takes when it is bound would be taken once more by the next to bind it. */
static void a_rehearsal_gives_back_what_it_took(void **state)
{
    const char *dir = tiny_model_write(&shape, 5);
    const struct rehearsal r = {.passes = REHEARSE_TRAIN};
    struct bench b;
    uint64_t bytes = 0;
    struct llama *m = &b.tiny.model;

    (void)state;
    bench_open(&b, dir, 0.4, 0);
    llama_unbind(m);
    assert_int_equal(rehearse_scratch(m, &r, &kn_reference_ops, 1, &bytes, NULL), 0);
    assert_null(m->dropout.host);
    assert_null(m->pos);
    assert_null(m->nll);
    assert_null(m->block);
    assert_true(m->dropout.rate > 0 && m->dropout.room_rows > 0);
    tiny_close(&b.tiny);
    tiny_model_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_match_finite_differences_while_the_same_is_dropped),
        cmocka_unit_test(steps_differ_and_evaluation_drops_nothing),
        cmocka_unit_test(only_the_factors_see_it),
        cmocka_unit_test(tiles_and_micro_batches_drop_the_same),
        cmocka_unit_test(a_rehearsal_gives_back_what_it_took),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
