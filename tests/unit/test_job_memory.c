/* test_job_memory.c - a job is parsed while the n-th allocation fails, for each n: an error, never
 * a crash or a leak.
 *
 * The linker sends calloc, malloc and realloc of proto/ to the functions here; jansson is told to
 * use them as well.
 */
#include "proto/job.h"
#include "tests/unit/unit.h"
#include <errno.h>

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);

static long countdown; /* allocations until one fails; 0: none fails */

static bool fails(void)
{
    return countdown > 0 && --countdown == 0;
}

void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    return fails() ? NULL : __real_realloc(p, n);
}

static const char text[] = "{'name':'n','kind':'train','model':{'base':'m'},'context':{'length':64}"
                           ",'data':{'train':['a','b']},"
                           "'adapter':{'dropout':0,'targets':['q'],'rank_pattern':{'x':3}},'optim':"
                           "{'lr':1,'steps':9,'batch_sequences':2},"
                           "'eval':{'perplexity':['p'],'lengths':[8,64]},'resources':{'micro_"
                           "batches':[[0],[1]],'constraints':[]},"
                           "'labels':{'a':'b'},'after':[{'job':'x'}]}";

static void every_failing_allocation_is_an_error_and_loses_nothing(void **state)
{
    json_t *spec = json_of(text);
    struct lh_problems *problems = calloc(1, sizeof(*problems));
    int rc = -1;
    long n;

    (void)state;
    for (n = 1; rc != 0 && n < 100000; n++) {
        struct lh_job *job = NULL;
        struct lh_err err = {0};

        countdown = n;
        rc = lh_job_parse(spec, &job, problems, &err);
        countdown = 0;
        if (rc != 0 && (rc != -ENOMEM || job))
            fail_msg("allocation %ld: %d %s", n, rc, err.text);
        lh_job_free(job);
    }
    print_message("%ld allocations\n", n - 2);
    assert_int_equal(rc, 0);
    assert_true(n > 100);
    free(problems);
    json_decref(spec);
}

static void a_bad_job_is_bad_or_out_of_memory_and_never_taken(void **state)
{
    json_t *spec = json_of(
        "{'kind':'train','model':{'base':'s3:///'},'optim':{'lr':-1},'labels':{'a b':1},'x':[[]]}");
    int rc = -1;

    (void)state;
    for (long n = 1; rc != LH_EJOB && n < 100000; n++) {
        struct lh_job *job = NULL;

        countdown = n;
        rc = lh_job_parse(spec, &job, NULL, NULL);
        countdown = 0;
        assert_null(job);
        assert_true(rc == -ENOMEM || rc == LH_EJOB);
    }
    assert_int_equal(rc, LH_EJOB);
    json_decref(spec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_failing_allocation_is_an_error_and_loses_nothing),
        TEST(a_bad_job_is_bad_or_out_of_memory_and_never_taken),
    };

    json_set_alloc_funcs(__wrap_malloc, free);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
