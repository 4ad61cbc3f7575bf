/* test_evict.c - the node's cache stays below its limit, and what is in use stays (NODE-20). */
#include "daemon/node/evict.h"
#include "proto/base/clock.h"
#include "tests/unit/unit.h"
#include <fcntl.h>
#include <sys/stat.h>

#define MIB ((uint64_t)1 << 20)

/* An entry of one file of 1 MiB, used so many seconds ago. */
static void add(const char *dir, const char *name, unsigned age_s)
{
    char path[1100], *bytes = calloc(1, MIB);
    struct timespec times[2] = {{.tv_sec = time(NULL) - age_s}, {.tv_sec = time(NULL) - age_s}};

    assert_non_null(bytes);
    memset(bytes, 'x', MIB);
    (void)snprintf(path, sizeof(path), "%s/%s/below", dir, name);
    assert_int_equal(lh_mkdir_p(path, NULL), 0);
    (void)snprintf(path, sizeof(path), "%s/%s/below/data", dir, name);
    assert_int_equal(lh_write_file(path, bytes, MIB, NULL), 0);
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    free(bytes);
}

static struct evict_request request(const char *dir)
{
    struct evict_request q = {.used_since_ms = UINT64_MAX};

    (void)snprintf(q.cache, sizeof(q.cache), "%s/cache", dir);
    (void)snprintf(q.kept, sizeof(q.kept), "%s/kept", dir);
    return q;
}

static bool has(const char *dir, const char *name)
{
    return lh_path_exists(in_dir(dir, name));
}

static void the_longest_unused_go_first_until_there_is_room(void **state)
{
    char *dir = scratch_new();
    struct evict_request q = request(dir);

    (void)state;
    add(dir, "cache/objects/a", 300);
    add(dir, "cache/files/b", 400);
    add(dir, "cache/shards/c", 200);
    add(dir, "cache/objects/d", 100);
    add(dir, "cache/shards/.being-made", 900);
    q.max_bytes = 5 * MIB;
    evict_run(&q); /* it fits */
    assert_true(has(dir, "cache/files/b"));
    q.max_bytes = 3 * MIB;
    evict_run(&q);
    assert_false(has(dir, "cache/files/b"));
    assert_false(has(dir, "cache/objects/a"));
    assert_true(has(dir, "cache/shards/c") && has(dir, "cache/objects/d/below/data"));
    assert_true(has(dir, "cache/shards/.being-made"));
    assert_int_equal(rmdir(in_dir(dir, "cache/tmp")), 0); /* nothing is left in it */
    scratch_free(dir);
}

static void what_a_live_attempt_has_used_stays_however_full_it_is(void **state)
{
    char *dir = scratch_new();
    struct evict_request q = request(dir);

    (void)state;
    add(dir, "cache/objects/before", 300);
    add(dir, "cache/objects/since", 100);
    add(dir, "cache/shards/since", 50);
    q.max_bytes = 1;
    q.used_since_ms = lh_now_ms() - 200000;
    evict_run(&q);
    assert_false(has(dir, "cache/objects/before"));
    assert_true(has(dir, "cache/objects/since") && has(dir, "cache/shards/since"));
    q.max_bytes = 0; /* no limit */
    q.used_since_ms = UINT64_MAX;
    evict_run(&q);
    assert_true(has(dir, "cache/objects/since"));
    scratch_free(dir);
}

static void kept_checkpoints_go_by_their_age(void **state)
{
    char *dir = scratch_new();
    struct evict_request q = request(dir);

    (void)state;
    add(dir, "kept/j1/attempt-1", 500);
    add(dir, "kept/j1/attempt-2", 100);
    add(dir, "kept/j2/attempt-1", 500);
    evict_run(&q); /* for ever */
    assert_true(has(dir, "kept/j2/attempt-1"));
    q.kept_ms = lh_now_ms() - 300000;
    evict_run(&q);
    assert_false(has(dir, "kept/j1/attempt-1"));
    assert_true(has(dir, "kept/j1/attempt-2/below/data"));
    assert_false(has(dir, "kept/j2"));
    scratch_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_longest_unused_go_first_until_there_is_room),
        TEST(what_a_live_attempt_has_used_stays_however_full_it_is),
        TEST(kept_checkpoints_go_by_their_age),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
