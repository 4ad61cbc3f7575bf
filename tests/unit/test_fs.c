/* test_fs.c - files that survive a crash, digests, fault points.
 *
 * The crash tests start this program again as `test_fs --write FILE TEXT` with a fault point armed.
 */
#include "proto/base/fault.h"
#include "proto/base/sha256.h"
#include "tests/unit/unit.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void a_file_comes_back_whole_and_terminated(void **state)
{
    char *dir = scratch_new(), *text;
    struct lh_err err = {0};
    size_t len = 0;

    (void)state;
    assert_int_equal(lh_write_file(in_dir(dir, "f"), "a\0b", 3, &err), 0);
    assert_int_equal(lh_read_file(in_dir(dir, "f"), 3, &text, &len, &err), 0);
    assert_int_equal(len, 3);
    assert_memory_equal(text, "a\0b", 4);
    free(text);
    assert_int_equal(lh_file_size(in_dir(dir, "f")), 3);
    assert_int_equal(lh_read_file(in_dir(dir, "f"), 2, &text, &len, &err), -EFBIG);
    assert_int_equal(lh_read_file(in_dir(dir, "none"), 2, &text, &len, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/none"));
    assert_int_equal(lh_read_file(dir, 2, &text, &len, &err), -EINVAL);
    assert_int_equal(mkfifo(in_dir(dir, "pipe"), 0600), 0);
    assert_int_equal(lh_read_file(in_dir(dir, "pipe"), 2, &text, &len, &err), -EINVAL);
    assert_int_equal(lh_write_file(in_dir(dir, "no/such"), "", 0, &err), -ENOENT);
    scratch_free(dir);
}

static void files_of_proc_are_read_whole_though_they_tell_no_size(void **state)
{
    char *text;
    struct lh_err err = {0};
    size_t len = 0;

    (void)state;
    assert_int_equal(lh_file_size("/proc/meminfo"), 0);
    assert_int_equal(lh_read_file("/proc/meminfo", 65536, &text, &len, &err), 0);
    assert_non_null(strstr(text, "MemAvailable:"));
    assert_int_equal(len, strlen(text));
    free(text);
    assert_int_equal(lh_read_file("/proc/meminfo", 20, &text, &len, &err), -EFBIG);
}

static void appending_grows_a_file(void **state)
{
    char *dir = scratch_new(), *text;

    (void)state;
    assert_int_equal(lh_append_file(in_dir(dir, "f"), "one\n", 4, NULL), 0);
    assert_int_equal(lh_append_file(in_dir(dir, "f"), "two\n", 4, NULL), 0);
    text = get_file(dir, "f");
    assert_string_equal(text, "one\ntwo\n");
    free(text);
    scratch_free(dir);
}

static void directories_are_made_with_their_parents(void **state)
{
    char *dir = scratch_new();
    struct lh_err err = {0};

    (void)state;
    assert_int_equal(lh_mkdir_p(in_dir(dir, "a//b/c/"), &err), 0);
    assert_true(lh_is_dir(in_dir(dir, "a/b/c")));
    assert_int_equal(lh_mkdir_p(in_dir(dir, "a/b"), &err), 0);
    put_file(dir, "file", "");
    assert_true(lh_mkdir_p(in_dir(dir, "file/x"), &err) < 0);
    assert_int_equal(lh_mkdir_p("", &err), -ENOENT);
    assert_int_equal(lh_mkdir_p("/", &err), 0);
    scratch_free(dir);
}

static void removing_a_tree_spares_what_links_point_to(void **state)
{
    char *dir = scratch_new(), *text;

    (void)state;
    assert_int_equal(lh_mkdir_p(in_dir(dir, "keep"), NULL), 0);
    put_file(dir, "keep/precious", "x");
    assert_int_equal(lh_mkdir_p(in_dir(dir, "tree/deep"), NULL), 0);
    put_file(dir, "tree/deep/f", "x");
    assert_int_equal(symlink(in_dir(dir, "keep"), in_dir(dir, "tree/link")), 0);
    assert_int_equal(lh_remove_tree(in_dir(dir, "tree"), NULL), 0);
    assert_false(lh_path_exists(in_dir(dir, "tree")));
    text = get_file(dir, "keep/precious");
    assert_string_equal(text, "x");
    free(text);
    assert_int_equal(symlink(in_dir(dir, "keep"), in_dir(dir, "link")), 0);
    assert_int_equal(lh_remove_tree(in_dir(dir, "link"), NULL), 0);
    assert_true(lh_path_exists(in_dir(dir, "keep/precious")));
    assert_int_equal(lh_remove_tree(in_dir(dir, "absent"), NULL), 0);
    scratch_free(dir);
}

static void a_local_disk_is_no_network_file_system(void **state)
{
    char *dir = scratch_new();

    (void)state;
    assert_false(lh_is_network_fs(dir));
    assert_false(lh_is_network_fs(in_dir(dir, "absent")));
    assert_true(lh_free_bytes(dir) > 0);
    assert_int_equal(lh_free_bytes(in_dir(dir, "absent")), 0);
    scratch_free(dir);
}

static void a_program_is_found_beside_this_one(void **state)
{
    char buf[1024];

    (void)state;
    assert_string_equal(lh_sibling_program("no-such-program", buf, sizeof(buf)), "no-such-program");
    assert_non_null(strstr(lh_sibling_program("test_fs", buf, sizeof(buf)), "/test_fs"));
}

/* FIPS 180-2: the empty message, "abc", and a million a. */
static void digests_are_those_of_the_standard(void **state)
{
    char hex[LH_SHA256_HEX], *dir = scratch_new(), *many = malloc(1000000);
    struct lh_sha256 h;
    uint64_t size = 0;
    FILE *f;

    (void)state;
    lh_sha256_hex("", 0, hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    lh_sha256_hex("abc", 3, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    memset(many, 'a', 1000000);
    assert_int_equal(lh_sha256_init(&h), 0);
    for (size_t at = 0; at < 1000000; at += 400000 / 3)
        lh_sha256_update(&h, many + at, LH_MIN((size_t)(400000 / 3), 1000000 - at));
    lh_sha256_final(&h, hex);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    f = fopen(in_dir(dir, "many"), "we");
    assert_int_equal(fwrite(many, 1, 1000000, f), 1000000);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(lh_sha256_file(in_dir(dir, "many"), hex, &size, NULL), 0);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    assert_int_equal(size, 1000000);
    assert_int_equal(lh_sha256_file(in_dir(dir, "none"), hex, &size, NULL), -ENOENT);
    free(many);
    scratch_free(dir);
}

/* Runs `test_fs --write FILE TEXT` with a fault armed; returns its wait status. */
static int write_with_fault(const char *fault, const char *path, const char *text)
{
    pid_t pid = fork();
    int status = 0;

    assert_true(pid >= 0);
    if (pid == 0) {
        setenv("LONGHAUL_FAULT", fault, 1);
        execl("/proc/self/exe", "test_fs", "--write", path, text, (char *)NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    if (WIFSTOPPED(status)) {
        assert_int_equal(kill(pid, SIGCONT), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        return SIGSTOP;
    }
    return status;
}

static void a_write_that_dies_leaves_the_old_or_the_new_bytes(void **state)
{
    static const struct {
        const char *fault, *after;
    } cases[] = {{"fs.before_write:kill", "old"},
                 {"fs.before_sync", "old"},
                 {"fs.before_rename:1:kill", "old"},
                 {"fs.after_rename", "new"},
                 {"fs.before_rename:2", "new"}, /* passed only once */
                 {"no.such.point", "new"}};
    char *dir = scratch_new();

    (void)state;
    for (size_t i = 0; i < LH_ARRAY_LEN(cases); i++) {
        bool lives = i >= 4;
        char *text;
        int status;

        assert_int_equal(lh_write_file(in_dir(dir, "f"), "old", 3, NULL), 0);
        status = write_with_fault(cases[i].fault, in_dir(dir, "f"), "new");
        if (lives)
            assert_int_equal(status, 0);
        else
            assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        text = get_file(dir, "f");
        assert_string_equal(text, cases[i].after);
        free(text);
    }
    scratch_free(dir);
}

static void a_fault_point_can_also_stop_or_delay(void **state)
{
    char *dir = scratch_new(), *text;

    (void)state;
    assert_int_equal(write_with_fault("fs.before_write:stop", in_dir(dir, "f"), "new"), SIGSTOP);
    assert_int_equal(write_with_fault("fs.before_write:1:sleep20", in_dir(dir, "f"), "later"), 0);
    text = get_file(dir, "f");
    assert_string_equal(text, "later");
    free(text);
    scratch_free(dir);
}

/* A failed write must not leave its temporary file either. */
static void a_write_that_fails_leaves_nothing_behind(void **state)
{
    char *dir = scratch_new();
    struct dirent *entry;
    DIR *d;

    (void)state;
    assert_int_equal(lh_mkdir_p(in_dir(dir, "target/inside"), NULL), 0);
    assert_true(lh_write_file(in_dir(dir, "target"), "x", 1, NULL) <
                0); /* a directory that is not empty */
    d = opendir(dir);
    while ((entry = readdir(d)))
        assert_null(strstr(entry->d_name, ".tmp"));
    (void)closedir(d);
    scratch_free(dir);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(a_file_comes_back_whole_and_terminated),
        TEST(files_of_proc_are_read_whole_though_they_tell_no_size),
        TEST(appending_grows_a_file),
        TEST(directories_are_made_with_their_parents),
        TEST(removing_a_tree_spares_what_links_point_to),
        TEST(a_local_disk_is_no_network_file_system),
        TEST(a_program_is_found_beside_this_one),
        TEST(digests_are_those_of_the_standard),
        TEST(a_write_that_dies_leaves_the_old_or_the_new_bytes),
        TEST(a_fault_point_can_also_stop_or_delay),
        TEST(a_write_that_fails_leaves_nothing_behind),
    };

    if (argc == 4 && strcmp(argv[1], "--write") == 0)
        return lh_write_file(argv[2], argv[3], strlen(argv[3]), NULL) == 0 ? 0 : 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
