/* A log that is cut by rate and by size, and says so. */
#include "daemon/shim/caplog.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
    struct caplog log;
    FILE *file;
    char *text; /* of the file, read by contents() */
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->file = tmpfile();
    *state = f;
    return f->file ? 0 : -1;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    (void)fclose(f->file);
    free(f->text);
    free(f);
    return 0;
}

static const char *contents(struct fixture *f)
{
    off_t size = lseek(fileno(f->file), 0, SEEK_END);

    free(f->text);
    f->text = calloc(1, (size_t)size + 1);
    assert_int_equal(pread(fileno(f->file), f->text, (size_t)size, 0), size);
    return f->text;
}

static void a_quiet_log_is_written_as_it_comes(void **state)
{
    struct fixture *f = *state;

    caplog_init(&f->log, fileno(f->file), 0, 1 << 20, 0);
    caplog_write(&f->log, "one\n", 4, 0);
    caplog_write(&f->log, "two\n", 4, 5);
    caplog_finish(&f->log);
    assert_string_equal(contents(f), "one\ntwo\n");
}

static void a_burst_is_cut_and_the_gap_is_counted(void **state)
{
    struct fixture *f = *state;
    char *flood = calloc(1, CAPLOG_BURST_BYTES + 1000);

    memset(flood, 'x', CAPLOG_BURST_BYTES + 1000);
    caplog_init(&f->log, fileno(f->file), 0, 1u << 30, 0);
    caplog_write(&f->log, flood, CAPLOG_BURST_BYTES + 1000, 0);
    caplog_write(&f->log, "lost", 4, 0);
    caplog_write(&f->log, "after a second\n", 15, 1000);
    caplog_finish(&f->log);
    assert_non_null(
        strstr(contents(f),
               "\n[longhaul-shim: 1004 bytes of output were dropped here]\nafter a second\n"));
    free(flood);
}

static void a_full_log_keeps_its_end(void **state)
{
    struct fixture *f = *state;
    char line[32];

    caplog_init(&f->log, fileno(f->file), 0, 4096, 0);
    for (int i = 0; i < 5000; i++)
        caplog_write(&f->log, line, (size_t)snprintf(line, sizeof(line), "line %d\n", i), 0);
    caplog_finish(&f->log);
    assert_true(strlen(contents(f)) < 4096 + CAPLOG_TAIL_BYTES + 200);
    assert_memory_equal(f->text, "line 0\nline 1\n", 14);
    assert_non_null(strstr(f->text, "the log is full"));
    assert_string_equal(f->text + strlen(f->text) - 10, "line 4999\n");
}

static void a_log_that_goes_on_counts_what_is_there(void **state)
{
    struct fixture *f = *state;

    caplog_init(&f->log, fileno(f->file), 4090, 4096, 0);
    caplog_write(&f->log, "0123456789", 10, 0);
    caplog_finish(&f->log);
    assert_non_null(strstr(contents(f), "the log is full"));
    assert_non_null(strstr(f->text, "0123456789"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_quiet_log_is_written_as_it_comes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_burst_is_cut_and_the_gap_is_counted, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_full_log_keeps_its_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_log_that_goes_on_counts_what_is_there, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
