/* test_event.c - the worker's journal: whole lines, torn lines, a growing file, a full disk. */
#include "proto/event.h"
#include "tests/unit/unit.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static int journal(const char *dir)
{
    int fd = open(in_dir(dir, "rank-3.jsonl"), O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

static struct lh_reporter *reporter(const char *dir)
{
    struct lh_reporter *r = NULL;

    assert_int_equal(lh_reporter_open(dir, 3, &r, NULL), 0);
    return r;
}

/* The type of the next line, which must be there. */
static void next_is(int fd, uint64_t *offset, const char *type)
{
    json_t *line = NULL;

    assert_int_equal(lh_journal_next(fd, offset, &line), 1);
    assert_string_equal(lh_json_str(line, "type", ""), type);
    json_decref(line);
}

/* EVENT-2 */
static void a_report_has_type_time_rank_and_its_members(void **state)
{
    char *dir = scratch_new();
    struct lh_reporter *r = reporter(dir);
    json_t *line = NULL;
    uint64_t offset = 0;
    int fd;

    (void)state;
    lh_report(r, "step", json_pack("{s:i, s:f, s:i}", "step", 7, "loss", 2.25, "rank", 99));
    fd = journal(dir);
    assert_int_equal(lh_journal_next(fd, &offset, &line), 1);
    assert_string_equal(lh_json_str(line, "type", ""), "step");
    assert_int_equal(strlen(lh_json_str(line, "time", "")), 24);
    assert_int_equal(lh_json_i64(line, "rank", -1), 3); /* not to be overridden */
    assert_int_equal(lh_json_i64(line, "step", -1), 7);
    assert_true(lh_json_num(line, "loss", 0) == 2.25);
    assert_string_equal(json_object_iter_key(json_object_iter(line)), "type");
    json_decref(line);
    assert_int_equal(lh_journal_next(fd, &offset, &line), 0);
    lh_report(r, "done", NULL);
    next_is(fd, &offset, "done");
    (void)close(fd);
    lh_reporter_close(r);
    scratch_free(dir);
}

/* EVENT-1 */
static void a_line_without_its_end_is_not_a_report_yet(void **state)
{
    char *dir = scratch_new();
    uint64_t offset = 0;
    json_t *line;
    int fd;

    (void)state;
    put_file(dir, "rank-3.jsonl", "{\"type\":\"a\"}\n{\"type\":");
    fd = journal(dir);
    next_is(fd, &offset, "a");
    assert_int_equal(lh_journal_next(fd, &offset, &line), 0);
    assert_int_equal(lh_append_file(in_dir(dir, "rank-3.jsonl"), "\"b\"}\n", 5, NULL), 0);
    next_is(fd, &offset, "b");
    (void)close(fd);
    scratch_free(dir);
}

/* EVENT-3, EVENT-4 */
static void what_a_killed_rank_left_is_ended_and_skipped(void **state)
{
    char *dir = scratch_new();
    struct lh_reporter *r;
    uint64_t offset = 0;
    json_t *line;
    int fd;

    (void)state;
    put_file(dir, "rank-3.jsonl", "{\"type\":\"first\"}\nnonsense\n[1]\n{\"type\":\"torn");
    r = reporter(dir);
    lh_report(r, "start", NULL);
    lh_report(r, "step", NULL);
    fd = journal(dir);
    next_is(fd, &offset, "first");
    next_is(fd, &offset, "start");
    next_is(fd, &offset, "step");
    assert_int_equal(lh_journal_next(fd, &offset, &line), 0);
    (void)close(fd);
    lh_reporter_close(r);
    scratch_free(dir);
}

/* A limit on the file's size stands for a full disk: the write that crosses it is cut short.
 * EVENT-3 */
static void a_full_disk_loses_reports_and_nothing_else(void **state)
{
    char *dir = scratch_new();
    struct rlimit old, small;
    struct lh_reporter *r = reporter(dir);
    uint64_t offset = 0;
    json_t *line;
    int fd, n = 0;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 300;
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    for (int i = 0; i < 10; i++)
        lh_report(r, "early", json_pack("{s:i}", "i", i));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    lh_report(r, "late", NULL);
    fd = journal(dir);
    while (lh_journal_next(fd, &offset, &line) == 1) {
        bool late = strcmp(lh_json_str(line, "type", ""), "late") == 0;

        assert_true(late || lh_json_i64(line, "i", -1) == n);
        n += late ? 100 : 1;
        json_decref(line);
    }
    assert_in_range(n, 103, 108); /* some early ones, and the late one */
    (void)close(fd);
    lh_reporter_close(r);
    scratch_free(dir);
}

static void long_lines_are_read_and_monsters_are_skipped(void **state)
{
    char *dir = scratch_new(), *big = malloc(3 << 20);
    struct lh_reporter *r = reporter(dir);
    uint64_t offset = 0;
    json_t *line;
    int fd;

    (void)state;
    memset(big, 'x', 100000);
    big[100000] = '\0';
    lh_report(r, "long", json_pack("{s:s}", "text", big));
    memset(big, 'x', (3 << 20) - 1);
    big[(3 << 20) - 1] = '\n';
    {
        int out = open(in_dir(dir, "rank-3.jsonl"), O_WRONLY | O_APPEND | O_CLOEXEC);

        assert_int_equal(write(out, big, 3 << 20), 3 << 20);
        (void)close(out);
    }
    big[(3 << 20) - 1] = '\0';
    lh_report(r, "dropped", json_pack("{s:s}", "text", big));
    lh_report(r, "after", NULL);
    fd = journal(dir);
    assert_int_equal(lh_journal_next(fd, &offset, &line), 1);
    assert_int_equal(strlen(lh_json_str(line, "text", "")), 100000);
    json_decref(line);
    next_is(fd, &offset, "after");
    (void)close(fd);
    lh_reporter_close(r);
    free(big);
    scratch_free(dir);
}

/* EVENT-5 */
static void a_beat_moves_the_time_of_its_file(void **state)
{
    char *dir = scratch_new();
    struct lh_reporter *r = reporter(dir);
    struct timespec past[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    struct stat st;

    (void)state;
    assert_int_equal(utimensat(AT_FDCWD, in_dir(dir, "rank-3.beat"), past, 0), 0);
    lh_report_beat(r);
    assert_int_equal(stat(in_dir(dir, "rank-3.beat"), &st), 0);
    assert_true(st.st_mtime > 1000);
    assert_int_equal(st.st_size, 0);
    lh_reporter_close(r);
    scratch_free(dir);
}

static void a_reporter_without_a_directory_drops_everything(void **state)
{
    struct lh_reporter *r = reporter(NULL);
    struct lh_err err = {0};

    (void)state;
    lh_report(r, "step", json_object());
    lh_report_beat(r);
    lh_reporter_close(r);
    lh_reporter_close(NULL);
    assert_int_equal(lh_reporter_open("/no/such/directory", 0, &r, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/no/such/directory/rank-0.jsonl"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_report_has_type_time_rank_and_its_members),
        TEST(a_line_without_its_end_is_not_a_report_yet),
        TEST(what_a_killed_rank_left_is_ended_and_skipped),
        TEST(a_full_disk_loses_reports_and_nothing_else),
        TEST(long_lines_are_read_and_monsters_are_skipped),
        TEST(a_beat_moves_the_time_of_its_file),
        TEST(a_reporter_without_a_directory_drops_everything),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
