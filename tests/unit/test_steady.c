/* test_steady.c - nothing is allocated after the first step: counted by wrapping the allocators of
 * everything that is linked in (not those of shared libraries), and by the back end's own account
 * of its scratch, in which oneDNN's scratchpads are.
 *
 * step_run is wrapped as well, so that a whole training can be run and only its steps be counted.
 */
#include "proto/base/fs.h"
#include "tests/unit/tiny_model.h"
#include "worker/kinds/step.h"
#include "worker/model/rehearse.h"
#include "worker/optim/optim.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
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
int __real_step_run(struct stepper *s, int64_t step, int64_t steps, struct step_result *ret_result,
                    struct lh_err *reterr);
int __wrap_step_run(struct stepper *s, int64_t step, int64_t steps, struct step_result *ret_result,
                    struct lh_err *reterr);

#define STEPS 4
static struct {
    int allocations[STEPS];
    uint64_t scratch[STEPS], planned;
} seen;

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

int __wrap_step_run(struct stepper *s, int64_t step, int64_t steps, struct step_result *ret_result,
                    struct lh_err *reterr)
{
    int rc;

    counted = 0;
    counting = true;
    rc = __real_step_run(s, step, steps, ret_result, reterr);
    counting = false;
    assert_in_range(step, 0, STEPS - 1);
    seen.allocations[step] = counted;
    seen.scratch[step] = s->run->ops->scratch_bytes(s->run->stream);
    seen.planned = s->engine->model.plan.bytes[PLAN_SCRATCH];
    return rc;
}

/* One micro-batch and an update. */
static void step(struct tiny *t, const struct llama_batch *b, int64_t number)
{
    struct lh_job job = {.optim = {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8}};
    struct device d = {.ops = t->ops, .stream = t->stream};
    struct lh_err err = {0};
    double nll, squares;

    assert_int_equal(llama_train(&t->model, b, 0.01f, &nll, &err), 0);
    assert_int_equal(optim_squares(&d, &t->model.params, &squares, &err), 0);
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

/* A model and its tokens in dir, and a job over them. */
static struct lh_job *make_job(const char *dir, const char *precision, int64_t memory_bytes)
{
    static int64_t ids[STEPS * ROWS * ROW];
    const struct st_entry entries[] = {{"input_ids", ST_I64, 3, {STEPS, ROWS, ROW}}};
    struct lh_err err = {0};
    struct lh_job *job;
    struct st_writer *w;
    char path[200];
    json_t *spec;

    for (int i = 0; i < STEPS * ROWS * ROW; i++)
        ids[i] = i * 7 % 128;
    (void)snprintf(path, sizeof(path), "%s/tokens.safetensors", dir);
    assert_int_equal(st_create(path, entries, 1, NULL, &w, NULL), 0);
    assert_int_equal(st_write(w, ids, sizeof(ids), NULL), 0);
    assert_int_equal(st_finish(w, NULL), 0);
    spec = json_pack("{s:s, s:s, s:{s:s}, s:{s:i, s:{s:s, s:i}}, s:{s:[s], s:s}, s:{s:f, s:i, s:i},"
                     " s:{s:I}, s:{s:i}}",
                     "kind", "train", "precision", precision, "model", "base", dir, "context",
                     "length", ROW, "attention", "type", "s2", "group", 16, "data", "train", path,
                     "format", "tokens", "optim", "lr", 0.01, "steps", STEPS, "batch_sequences",
                     ROWS, "limits", "memory_bytes", (json_int_t)memory_bytes, "resources",
                     "micro_batches", ROWS);
    assert_non_null(spec);
    if (lh_job_parse(spec, &job, NULL, &err) < 0)
        fail_msg("%s: %s", err.pointer, err.text);
    json_decref(spec);
    return job;
}

static void check_training(const char *precision, int64_t memory_bytes)
{
    const struct tiny_shape shape = {2, 64, 4, 2, 16, 96, 128, true};
    const char *dir = tiny_model_write(&shape, 2);
    struct lh_job *job = make_job(dir, precision, memory_bytes);
    struct run r = {.job = job, .ops = &kn_cpu_ops, .threads = 2, .cache_dir = dir};
    struct lh_err err = {0};
    char out[200];

    (void)snprintf(out, sizeof(out), "%s/out", dir);
    assert_int_equal(lh_mkdir_p(out, &err), 0);
    assert_int_equal(comm_self_new(&r.comm, &err), 0);
    assert_int_equal(lh_reporter_open(NULL, 0, &r.reporter, &err), 0);
    assert_int_equal(r.ops->stream_new(r.threads, &r.stream, &err), 0);
    r.out_dir = out;
    r.result = json_object();
    if (kind_train(&r, &err) != 0)
        fail_msg("%s", err.text);
    assert_true(seen.scratch[0] > 0);
    assert_int_equal(seen.scratch[0], seen.planned); /* the rehearsal told the truth */
    for (int i = 1; i < STEPS; i++) {
        assert_int_equal(seen.allocations[i], 0);
        assert_int_equal(seen.scratch[i], seen.scratch[0]);
    }
    r.ops->stream_free(r.stream);
    json_decref(r.result);
    lh_reporter_close(r.reporter);
    r.comm->ops->free(r.comm);
    lh_job_free(job);
    tiny_model_remove(dir);
}

/* PLAN-5. */
static void steps_after_the_first_allocate_nothing_whatever_is_kept(void **state)
{
    (void)state;
    check_training("fp32", 0);
    check_training("bf16", 0);
    check_training("fp32", (int64_t)20 << 20); /* nothing is kept */
    check_training("bf16", (int64_t)20 << 20);
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
        cmocka_unit_test(steps_after_the_first_allocate_nothing_whatever_is_kept),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
