/* The small parts of longhaul-node: the fence, S3 settings, programs run to their end. */
#include "daemon/node/fence.h"
#include "daemon/node/s3_config.h"
#include "daemon/node/spawn.h"
#include "proto/base/fs.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64], path[128];

static int set_up(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof(dir), "/tmp/test_node_parts.XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    (void)snprintf(path, sizeof(path), "%s/file", dir);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    return lh_remove_tree(dir, NULL);
}

static void the_highest_epoch_is_kept_and_lower_ones_are_refused(void **state)
{
    struct fence f;
    struct lh_err err;

    (void)state;
    assert_int_equal(fence_load(path, &f, &err), 0);
    assert_int_equal(fence_admit(&f, "c1", 3, &err), 0);
    assert_int_equal(fence_admit(&f, "c1", 3, &err), 0);
    assert_int_equal(fence_admit(&f, "c1", 2, &err), -ESTALE);
    assert_int_equal(fence_admit(&f, "c2", 9, &err), -EXDEV);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(fence_admit(&f, "", 9, &err), -EINVAL);
    assert_int_equal(fence_load(path, &f, &err), 0);
    assert_string_equal(f.cluster, "c1");
    assert_int_equal(f.epoch, 3);
}

static void a_fence_that_cannot_be_read_stops_the_daemon(void **state)
{
    struct fence f;
    struct lh_err err;

    (void)state;
    assert_int_equal(lh_write_file(path, "{half", 5, NULL), 0);
    assert_true(fence_load(path, &f, &err) < 0);
    assert_non_null(strstr(err.text, "which coordinator to obey"));
}

static void settings_of_s3_come_from_a_file_with_quotes_and_comments(void **state)
{
    const char text[] = "# ours\nexport AWS_ACCESS_KEY_ID=key\r\nAWS_SECRET_ACCESS_KEY='se=cret'\n"
                        "AWS_ENDPOINT_URL=http://host:9000/\nAWS_DEFAULT_REGION=eu-west-1\n";
    struct s3_config c;
    struct lh_err err;

    (void)state;
    assert_int_equal(lh_write_file(path, text, strlen(text), NULL), 0);
    assert_int_equal(s3_config_load(path, &c, &err), 0);
    assert_string_equal(c.access, "key");
    assert_string_equal(c.secret, "se=cret");
    assert_string_equal(c.endpoint, "http://host:9000");
    assert_string_equal(c.region, "eu-west-1");
    assert_string_equal(c.token, "");
}

static void an_endpoint_with_a_path_is_refused(void **state)
{
    const char text[] =
        "AWS_ACCESS_KEY_ID=k\nAWS_SECRET_ACCESS_KEY=s\nAWS_ENDPOINT_URL=https://host/bucket\n";
    struct s3_config c;
    struct lh_err err;

    (void)state;
    assert_int_equal(lh_write_file(path, text, strlen(text), NULL), 0);
    assert_int_equal(s3_config_load(path, &c, &err), LH_EREMOTE);
    assert_non_null(strstr(err.text, "https://host/bucket"));
}

static int run(const char *script, unsigned timeout_ms, const volatile bool *cancel,
               struct spawn_result *r)
{
    char *argv[] = {(char *)(uintptr_t) "/bin/sh", (char *)(uintptr_t) "-c",
                    (char *)(uintptr_t)script, NULL};
    const char *env[] = {"GIVEN=yes", NULL};
    struct spawn_request q = {
        .argv = argv, .set_env = env, .timeout_ms = timeout_ms, .cancel = cancel};

    return spawn_run(&q, r, NULL);
}

static void a_program_is_run_with_its_output_kept_and_without_secrets(void **state)
{
    struct spawn_result r;

    (void)state;
    assert_int_equal(setenv("AWS_SECRET_ACCESS_KEY", "hidden", 1), 0);
    assert_int_equal(
        run("echo \"$GIVEN [$AWS_SECRET_ACCESS_KEY]\"; echo why >&2; exit 7", 10000, NULL, &r), 0);
    assert_int_equal(r.exit, 7);
    assert_string_equal(r.out.data, "yes []\n");
    assert_string_equal(r.err, "why\n");
    lh_buf_release(&r.out);
}

static void
a_program_that_takes_too_long_or_is_not_wanted_is_killed_with_what_it_started(void **state)
{
    struct spawn_result r;
    volatile bool cancel = true;

    (void)state;
    assert_int_equal(run("sleep 61.5 & sleep 61.5", 200, NULL, &r), -ETIMEDOUT);
    assert_int_equal(run("sleep 61.5", 100000, &cancel, &r), -ECANCELED);
}

static void a_program_that_is_not_there_is_an_error(void **state)
{
    char *argv[] = {(char *)(uintptr_t) "/nowhere/program", NULL};
    struct spawn_request q = {.argv = argv, .timeout_ms = 1000};
    struct spawn_result r;
    struct lh_err err;

    (void)state;
    assert_int_equal(spawn_run(&q, &r, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/nowhere/program"));
}

static void only_the_end_of_long_errors_is_kept(void **state)
{
    struct spawn_result r;

    (void)state;
    assert_int_equal(run("i=0; while [ $i -lt 3000 ]; do echo \"error $i\" >&2; i=$((i+1)); done",
                         20000, NULL, &r),
                     0);
    assert_string_equal(r.err + strlen(r.err) - 11, "error 2999\n");
    assert_true(strlen(r.err) > 1900);
    lh_buf_release(&r.out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_highest_epoch_is_kept_and_lower_ones_are_refused,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_fence_that_cannot_be_read_stops_the_daemon, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(settings_of_s3_come_from_a_file_with_quotes_and_comments,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_endpoint_with_a_path_is_refused, set_up, tear_down),
        cmocka_unit_test(a_program_is_run_with_its_output_kept_and_without_secrets),
        cmocka_unit_test(
            a_program_that_takes_too_long_or_is_not_wanted_is_killed_with_what_it_started),
        cmocka_unit_test(a_program_that_is_not_there_is_an_error),
        cmocka_unit_test(only_the_end_of_long_errors_is_kept),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
