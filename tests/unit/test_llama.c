/* test_llama.c - the whole model: gradients against finite differences, and what must not change
 * its results. */
#include "tests/unit/tiny_model.h"
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

#define ROWS 2
#define ROW 24
#define TOKENS (ROWS * ROW)

/* Grouped heads with an odd number of query heads, so one kv head serves both classes. */
static const struct tiny_shape tied = {2, 20, 3, 1, 4, 28, 37, true},
                               untied = {2, 16, 4, 2, 4, 24, 29, false};

struct tokens {
    int32_t ids[TOKENS], labels[TOKENS], documents[TOKENS];
    int64_t n_labels;
};

static void make_tokens(struct tokens *t, int32_t vocab)
{
    t->n_labels = 0;
    for (int i = 0; i < TOKENS; i++) {
        t->ids[i] = (int32_t)((tiny_random(5, (uint64_t)i) + 1) / 2 * vocab);
        t->documents[i] = i % ROW >= 9;
    }
    for (int i = 0; i < TOKENS; i++) {
        bool labelled = i % ROW != ROW - 1 && i % 7 != 3;

        t->labels[i] = labelled ? t->ids[i + 1] : -100;
        t->n_labels += labelled;
    }
}

static struct llama_batch batch_of(const struct tokens *t, int64_t group)
{
    return (struct llama_batch){
        .rows = ROWS, .row_tokens = ROW, .ids = t->ids, .labels = t->labels, .group = group};
}

static void zero_grads(struct tiny *t)
{
    memset(t->model.params.grad, 0, (size_t)t->model.params.n_region * sizeof(float));
}

static double mean_loss(struct tiny *t, const struct llama_batch *b, double n)
{
    double sum = 0;
    struct lh_err err = {0};

    assert_int_equal(llama_eval(&t->model, b, &err), 0);
    for (int i = 0; i < TOKENS; i++)
        sum += t->model.nll[i];
    return sum / n;
}

/* Moves p by h * (g / |g| + r / |r|) and back: the loss must change by what the gradient says. */
static void check_direction(struct tiny *t, const struct llama_batch *b, const struct param *p,
                            double n_labels)
{
    double *dir = malloc((size_t)p->n * sizeof(double)), gg = 0, rr = 0, expected = 0, up, down, h,
           got;
    float *saved = malloc((size_t)p->n * sizeof(float));

    assert_non_null(dir);
    assert_non_null(saved);
    memcpy(saved, p->master, (size_t)p->n * sizeof(float));
    for (int64_t i = 0; i < p->n; i++) {
        dir[i] = tiny_random(99, (uint64_t)i);
        gg += (double)p->grad[i] * (double)p->grad[i];
        rr += dir[i] * dir[i];
    }
    assert_true(gg > 1e-12);
    for (int64_t i = 0; i < p->n; i++) {
        dir[i] = (double)p->grad[i] / sqrt(gg) + dir[i] / sqrt(rr);
        expected += dir[i] * (double)p->grad[i];
    }
    h = 5e-4 /
        fmax(expected, 0.1); /* the loss moves by 1e-3: far above fp32 noise, below its curvature */
    for (int side = 0; side < 2; side++) {
        double sign = side ? -h : h;

        for (int64_t i = 0; i < p->n; i++)
            p->master[i] = (float)((double)saved[i] + sign * dir[i]);
        params_refresh(&t->model.params, t->ops, t->stream);
        *(side ? &down : &up) = mean_loss(t, b, n_labels);
    }
    got = (up - down) / (2 * h);
    if (fabs(got - expected) > 2e-3 * fabs(expected))
        fail_msg("%s: the loss changes by %.8g a unit, the gradient says %.8g", p->name, got,
                 expected);
    memcpy(p->master, saved, (size_t)p->n * sizeof(float));
    params_refresh(&t->model.params, t->ops, t->stream);
    free(dir);
    free(saved);
}

static void check_gradients(const struct tiny_shape *shape, struct params_spec spec, int64_t group,
                            bool documents)
{
    const char *dir = tiny_model_write(shape, 3);
    struct tiny_options o = {
        .dir = dir, .ops = &kn_reference_ops, .spec = spec, .rows = ROWS, .row_tokens = ROW};
    struct tokens tokens;
    struct llama_batch b;
    struct tiny t;
    double nll;
    struct lh_err err = {0};

    make_tokens(&tokens, shape->vocab);
    b = batch_of(&tokens, group);
    if (documents)
        b.documents = tokens.documents;
    tiny_open(&t, &o);
    zero_grads(&t);
    assert_int_equal(llama_train(&t.model, &b, (float)(1.0 / (double)tokens.n_labels), &nll, &err),
                     0);
    assert_true(fabs(nll / (double)tokens.n_labels - mean_loss(&t, &b, (double)tokens.n_labels)) <
                1e-9);
    for (unsigned i = 0; i < t.model.params.n; i++)
        if (t.model.params.at[i].trains)
            check_direction(&t, &b, &t.model.params.at[i], (double)tokens.n_labels);
    tiny_close(&t);
    tiny_model_remove(dir);
}

static void gradients_of_an_adapter_on_a_tied_model_match_finite_differences(void **state)
{
    (void)state;
    check_gradients(&tied, tiny_spec(KN_F32), 8, false);
}

static void gradients_of_full_fine_tuning_match_finite_differences(void **state)
{
    struct params_spec spec = {.full = true, .trains = true, .dtype = KN_F32};

    (void)state;
    check_gradients(&untied, spec, 0, false);
    check_gradients(&tied, spec, 8, false);
}

static void gradients_with_packed_documents_match_finite_differences(void **state)
{
    (void)state;
    check_gradients(&untied, tiny_spec(KN_F32), 8, true);
}

/* Loss and gradients of one pass over all rows, of the model that the options describe. */
static double pass(const struct tiny_options *o, const struct tokens *tokens, int64_t group,
                   bool row_by_row, float **ret_grads, int64_t *ret_n)
{
    struct llama_batch b = batch_of(tokens, group);
    struct tiny t;
    double nll = 0, sum = 0;
    struct lh_err err = {0};

    tiny_open(&t, o);
    zero_grads(&t);
    for (int row = 0; row < (row_by_row ? ROWS : 1); row++) {
        if (row_by_row) {
            b.rows = 1;
            b.ids = tokens->ids + row * ROW;
            b.labels = tokens->labels + row * ROW;
        }
        assert_int_equal(llama_train(&t.model, &b, 0.02f, &nll, &err), 0);
        sum += nll;
    }
    *ret_n = 0;
    *ret_grads = malloc((size_t)t.model.params.n_trainable * sizeof(float));
    assert_non_null(*ret_grads);
    for (unsigned i = 0; i < t.model.params.n; i++) { /* regions differ between precisions */
        const struct param *p = &t.model.params.at[i];

        if (p->trains)
            memcpy(*ret_grads + *ret_n, p->grad, (size_t)p->n * sizeof(float));
        *ret_n += p->trains ? p->n : 0;
    }
    tiny_close(&t);
    return sum;
}

/* Two ways to the same: losses and gradients within a relative tolerance of the largest gradient.
 */
static void check_same(const struct tiny_options *a, int64_t group_a, bool rows_a,
                       const struct tiny_options *b, int64_t group_b, bool rows_b, double tolerance)
{
    struct tokens tokens;
    float *ga, *gb;
    int64_t na, nb;
    double la, lb, largest = 0, worst = 0;

    make_tokens(&tokens, untied.vocab);
    la = pass(a, &tokens, group_a, rows_a, &ga, &na);
    lb = pass(b, &tokens, group_b, rows_b, &gb, &nb);
    assert_int_equal(na, nb);
    for (int64_t i = 0; i < na; i++) {
        largest = fmax(largest, fabs((double)ga[i]));
        worst = fmax(worst, fabs((double)ga[i] - (double)gb[i]));
    }
    assert_true(largest > 0);
    assert_true(fabs(la - lb) <= tolerance * la);
    assert_true(worst <= tolerance * largest);
    free(ga);
    free(gb);
}

static void tiles_of_any_size_give_the_same_loss_and_gradients(void **state)
{
    const char *dir = tiny_model_write(&untied, 4);
    struct tiny_options a = {.dir = dir,
                             .ops = &kn_reference_ops,
                             .spec = {.full = true, .trains = true},
                             .rows = ROWS,
                             .row_tokens = ROW,
                             .mlp_tile = TOKENS,
                             .head_tile = TOKENS};
    struct tiny_options b = a, c = a;

    (void)state;
    b.mlp_tile = 5;
    b.head_tile = 7;
    c.mlp_tile = 1;
    c.head_tile = 48;
    check_same(&a, 8, false, &b, 8, false, 2e-6);
    check_same(&a, 8, false, &c, 8, false, 2e-6);
    tiny_model_remove(dir);
}

/* JOB-21. */
static void rows_one_by_one_give_the_same_as_all_together(void **state)
{
    const char *dir = tiny_model_write(&untied, 5);
    struct tiny_options o = {.dir = dir,
                             .ops = &kn_reference_ops,
                             .spec = tiny_spec(KN_F32),
                             .rows = ROWS,
                             .row_tokens = ROW};

    (void)state;
    check_same(&o, 8, false, &o, 8, true, 2e-6);
    tiny_model_remove(dir);
}

static void a_group_as_long_as_twice_the_window_is_dense_attention(void **state)
{
    const char *dir = tiny_model_write(&untied, 6);
    struct tiny_options o = {.dir = dir,
                             .ops = &kn_reference_ops,
                             .spec = tiny_spec(KN_F32),
                             .rows = ROWS,
                             .row_tokens = ROW};

    (void)state;
    check_same(&o, 2 * ROW, false, &o, 0, false, 0);
    tiny_model_remove(dir);
}

static void a_group_shorter_than_the_window_is_not_dense_attention(void **state)
{
    const char *dir = tiny_model_write(&untied, 6);
    struct tiny_options o = {.dir = dir,
                             .ops = &kn_reference_ops,
                             .spec = tiny_spec(KN_F32),
                             .rows = ROWS,
                             .row_tokens = ROW};
    struct tokens tokens;
    float *grads;
    int64_t n;
    double dense, s2;

    (void)state;
    make_tokens(&tokens, untied.vocab);
    dense = pass(&o, &tokens, 0, false, &grads, &n);
    free(grads);
    s2 = pass(&o, &tokens, 8, false, &grads, &n);
    free(grads);
    assert_true(fabs(dense - s2) > 1e-3 * dense);
    tiny_model_remove(dir);
}

static void bf16_stays_close_to_fp32(void **state)
{
    const char *dir = tiny_model_write(&untied, 8);
    struct tiny_options a = {.dir = dir,
                             .ops = &kn_reference_ops,
                             .spec = tiny_spec(KN_F32),
                             .rows = ROWS,
                             .row_tokens = ROW};
    struct tiny_options b = a;

    (void)state;
    b.spec = tiny_spec(KN_BF16);
    check_same(&a, 8, false, &b, 8, false, 5e-2);
    tiny_model_remove(dir);
}

static void a_row_without_labels_adds_nothing(void **state)
{
    const char *dir = tiny_model_write(&untied, 9);
    struct tiny_options o = {.dir = dir,
                             .ops = &kn_reference_ops,
                             .spec = tiny_spec(KN_F32),
                             .rows = ROWS,
                             .row_tokens = ROW,
                             .head_tile = 8};
    struct llama_batch b;
    struct tokens tokens;
    struct tiny t;
    double nll = -1;
    struct lh_err err = {0};

    (void)state;
    make_tokens(&tokens, untied.vocab);
    for (int i = 0; i < TOKENS; i++)
        tokens.labels[i] = -100;
    b = batch_of(&tokens, 8);
    tiny_open(&t, &o);
    zero_grads(&t);
    assert_int_equal(llama_train(&t.model, &b, 1, &nll, &err), 0);
    assert_true(nll == 0);
    for (int64_t i = 0; i < t.model.params.n_region; i++)
        assert_true(t.model.params.grad[i] == 0);
    tiny_close(&t);
    tiny_model_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_of_an_adapter_on_a_tied_model_match_finite_differences),
        cmocka_unit_test(gradients_of_full_fine_tuning_match_finite_differences),
        cmocka_unit_test(gradients_with_packed_documents_match_finite_differences),
        cmocka_unit_test(tiles_of_any_size_give_the_same_loss_and_gradients),
        cmocka_unit_test(rows_one_by_one_give_the_same_as_all_together),
        cmocka_unit_test(a_group_as_long_as_twice_the_window_is_dense_attention),
        cmocka_unit_test(a_group_shorter_than_the_window_is_not_dense_attention),
        cmocka_unit_test(bf16_stays_close_to_fp32),
        cmocka_unit_test(a_row_without_labels_adds_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
