/* test_pool.c - the CPU back end's threads: every item once, for any number of threads and items,
 * round after round. */
#include "kernels/cpu/pool.h"
#include "tests/kernels/kn_test.h"
#include <stdatomic.h>

#define ITEMS_MAX 1000

struct count {
    atomic_int calls[ITEMS_MAX];
    atomic_int thread[ITEMS_MAX];
    int n_threads;
};

static void count_item(void *arg, int64_t item, int thread)
{
    struct count *c = arg;

    atomic_fetch_add(&c->calls[item], 1);
    atomic_store(&c->thread[item], thread);
}

static void every_item_runs_once_on_the_thread_of_its_number(void **state)
{
    const int64_t items[] = {0, 1, 2, 3, 7, 64, ITEMS_MAX};

    (void)state;
    for (int threads = 1; threads <= 5; threads++) {
        struct pool *p = NULL;

        assert_int_equal(pool_new(threads, &p, NULL), 0);
        assert_int_equal(pool_threads(p), threads);
        for (unsigned i = 0; i < sizeof(items) / sizeof(items[0]); i++) {
            struct count c = {.n_threads = threads};

            pool_run(p, items[i], count_item, &c);
            for (int64_t k = 0; k < ITEMS_MAX; k++)
                assert_int_equal(atomic_load(&c.calls[k]), k < items[i]);
            for (int64_t k = 0; items[i] > 1 && k < items[i]; k++)
                assert_int_equal(atomic_load(&c.thread[k]), k % threads);
        }
        pool_free(p);
    }
}

static void add_one(void *arg, int64_t item, int thread)
{
    (void)thread;
    ((int64_t *)arg)[item]++; /* not atomic: the end of a round orders it before the next */
}

static void what_a_round_wrote_is_seen_by_the_next_on_other_threads(void **state)
{
    struct pool *two = NULL, *three = NULL;
    int64_t sum[10] = {0};

    (void)state;
    assert_int_equal(pool_new(2, &two, NULL), 0);
    assert_int_equal(pool_new(3, &three, NULL), 0);
    for (int round = 0; round < 3000; round++)
        pool_run(round % 2 ? two : three, 10, add_one, sum);
    for (int i = 0; i < 10; i++)
        assert_int_equal(sum[i], 3000);
    pool_free(two);
    pool_free(three);
    pool_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_runs_once_on_the_thread_of_its_number),
        cmocka_unit_test(what_a_round_wrote_is_seen_by_the_next_on_other_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
