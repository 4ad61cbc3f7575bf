/* test_steady.c - nothing is allocated after the first micro-batch: counted by wrapping the
 * allocators of everything that is linked in (not those of shared libraries). */
#include "tests/unit/tiny_model.h"
#include "worker/optim/optim.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
// clang-format off
#include <cmocka.h>
// clang-format on

#define ROWS 2
#define ROW 64

static volatile bool
    counting; /* volatile: the compiler knows malloc and would not expect it to look here */
static volatile int counted;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);

void *__wrap_malloc(size_t n)
{
    counted += counting;
    return __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    counted += counting;
    return __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    counted += counting;
    return __real_realloc(p, n);
}

void *__wrap_aligned_alloc(size_t align, size_t n)
{
    counted += counting;
    return __real_aligned_alloc(align, n);
}

/* One micro-batch and an update. */
static void step(struct tiny *t, const struct llama_batch *b, int64_t number)
{
    struct lh_job job = {.optim = {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8}};
    struct device d = {.ops = t->ops, .stream = t->stream};
    struct lh_err err = {0};
    double nll, norm;

    assert_int_equal(llama_train(&t->model, b, 0.01f, &nll, &err), 0);
    assert_int_equal(optim_norm(&d, &t->model.params, &norm, &err), 0);
    assert_int_equal(optim_update(&d, &t->model.params, &job, 1e-3, 1, number, &err), 0);
}

static void check_steady(const struct kn_ops *ops, enum kn_dtype dtype)
{
    const struct tiny_shape shape = {2, 64, 4, 2, 16, 96, 128, true};
    const char *dir = tiny_model_write(&shape, 2);
    struct tiny_options o = {
        .dir = dir, .ops = ops, .spec = tiny_spec(dtype), .rows = ROWS, .row_tokens = ROW};
    static int32_t ids[ROWS * ROW], labels[ROWS * ROW];
    struct llama_batch b = {
        .rows = ROWS, .row_tokens = ROW, .ids = ids, .labels = labels, .group = 16};
    struct tiny t;

    for (int i = 0; i < ROWS * ROW; i++)
        ids[i] = labels[i] = i % shape.vocab;
    tiny_open(&t, &o);
    step(&t, &b, 1);
    counted = 0;
    counting = true;
    step(&t, &b, 2);
    step(&t, &b, 3);
    counting = false;
    assert_int_equal(counted, 0);
    tiny_close(&t);
    tiny_model_remove(dir);
}

static void the_second_step_allocates_nothing_in_fp32(void **state)
{
    (void)state;
    check_steady(&kn_cpu_ops, KN_F32);
}

static void the_second_step_allocates_nothing_in_bf16(void **state)
{
    (void)state;
    check_steady(&kn_cpu_ops, KN_BF16);
}

static void the_counter_counts(void **state)
{
    void *volatile p;

    (void)state;
    counted = 0;
    counting = true;
    p = malloc(10);
    counting = false;
    free(p);
    assert_int_equal(counted, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_counter_counts),
        cmocka_unit_test(the_second_step_allocates_nothing_in_fp32),
        cmocka_unit_test(the_second_step_allocates_nothing_in_bf16),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
