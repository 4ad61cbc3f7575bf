/* test_lock.c - which state directories longhauld takes: daemon/coordinator/store/lock.c and store_open.
 *
 * No network file system can be mounted in a test, so statfs is replaced by the linker (--wrap) and tells the types that
 * real ones tell. What it proves: with such an answer the directory is refused and stays empty. That a given kernel
 * answers so for its NFS is not shown here.
 */
#include "daemon/coordinator/store/lock.h"
#include "daemon/coordinator/store/store.h"
#include "proto/base/fs.h"
#include "tests/unit/unit.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

static long fake_type; /* 0: what the kernel says */

int __real_statfs(const char *path, struct statfs *fs);
int __wrap_statfs(const char *path, struct statfs *fs);
int __wrap_statfs(const char *path, struct statfs *fs)
{
    int rc = __real_statfs(path, fs);

    if (rc == 0 && fake_type)
        fs->f_type = fake_type;
    return rc;
}

static unsigned entries(const char *dir)
{
    DIR *d = opendir(dir);
    unsigned n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    (void)closedir(d);
    return n - 2; /* . and .. */
}

static void a_network_file_system_is_refused_before_anything_is_written(void **state)
{
    static const struct {
        const char *name;
        long type;
    } network[] = {{"nfs", 0x6969}, {"cifs", (long)0xff534d42}, {"smb2", (long)0xfe534d42}, {"9p", 0x01021997},
                   {"ceph", 0x00c36400}, {"lustre", 0x0bd00bd0}, {"afs", 0x5346414f}};
    char *dir = scratch_new();

    (void)state;
    for (size_t i = 0; i < LH_ARRAY_LEN(network); i++) {
        struct store_config config = {.dir = in_dir(dir, network[i].name)};
        struct store *store = NULL;
        struct lh_err err = {0};

        fake_type = network[i].type;
        assert_int_equal(store_open(&config, &store, &err), LH_ESTATE);
        fake_type = 0;
        assert_non_null(strstr(err.text, config.dir));
        assert_non_null(strstr(err.text, "network file system"));
        assert_non_null(strstr(err.text, "--state"));
        assert_int_equal(entries(config.dir), 0);
    }
    scratch_free(dir);
}

static void local_file_systems_are_taken(void **state)
{
    static const long local[] = {0, 0xef53 /* ext4 */, 0x58465342 /* XFS */, (long)0x9123683e /* btrfs */, 0x01021994 /* tmpfs */};
    char *dir = scratch_new();

    (void)state;
    for (size_t i = 0; i < LH_ARRAY_LEN(local); i++) {
        struct lh_err err = {0};
        int fd = -1;

        fake_type = local[i];
        assert_int_equal(lock_take(dir, &fd, &err), 0);
        fake_type = 0;
        (void)close(fd);
    }
    scratch_free(dir);
}

static void a_held_directory_names_the_holder_and_is_free_once_it_has_died(void **state)
{
    char *dir = scratch_new(), pid_text[32], byte;
    struct lh_err err = {0};
    int up[2], fd = -1;
    pid_t pid;

    (void)state;
    assert_int_equal(pipe2(up, O_CLOEXEC), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (lock_take(dir, &fd, NULL) == 0 && write(up[1], "x", 1) == 1)
            for (;;)
                (void)pause();
        _exit(1);
    }
    assert_int_equal(read(up[0], &byte, 1), 1);
    assert_int_equal(lock_take(dir, &fd, &err), -EBUSY);
    (void)snprintf(pid_text, sizeof(pid_text), "process %d", (int)pid);
    assert_non_null(strstr(err.text, pid_text));
    assert_non_null(strstr(err.text, dir));
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(lock_take(dir, &fd, &err), 0);
    (void)close(fd);
    (void)close(up[0]);
    (void)close(up[1]);
    scratch_free(dir);
}

static void a_new_directory_below_the_reserve_is_refused_and_one_in_use_is_opened(void **state)
{
    char *dir = scratch_new();
    struct store_config config = {.dir = dir, .reserve_bytes = UINT64_MAX};
    struct store *store = NULL;
    struct lh_err err = {0};

    (void)state;
    assert_int_equal(store_open(&config, &store, &err), -ENOSPC);
    assert_non_null(strstr(err.text, dir));
    assert_non_null(strstr(err.text, "limits.reserve_mib"));
    config.reserve_bytes = 0;
    assert_int_equal(store_open(&config, &store, &err), 0);
    store_close(store);
    config.reserve_bytes = UINT64_MAX;
    assert_int_equal(store_open(&config, &store, &err), 0);
    assert_int_equal(store_mode(store), STORE_LOW);
    store_close(store);
    scratch_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_network_file_system_is_refused_before_anything_is_written),
        cmocka_unit_test(local_file_systems_are_taken),
        cmocka_unit_test(a_held_directory_names_the_holder_and_is_free_once_it_has_died),
        cmocka_unit_test(a_new_directory_below_the_reserve_is_refused_and_one_in_use_is_opened),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
