/* test_mapping.c - mapped files that can no longer be read, for each of the reasons.
 *
 * Reads that fail for the disk's sake are had from userfaultfd: a page of a hole in memory's file
 * system that nobody fills raises SIGBUS as a page does that the disk did not give.
 */
#include "tests/unit/unit.h"
#include "worker/formats/mapping.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define BYTES 65536 /* one page or more, whatever the machine */

/* How a child that reads ends when it was told of a loss, and when the kernel refuses no pages. */
#define EXIT_LOST 3
#define EXIT_NO_REFUSAL 77

struct lost {
    int rc;
    struct lh_err err;
};

static int told = -1; /* the pipe; a callback from a signal can be given nothing */

static void tell(int rc, const struct lh_err *err)
{
    struct lost lost = {rc, *err};

    _exit(write(told, &lost, sizeof(lost)) == sizeof(lost) ? EXIT_LOST : 1);
}

/* From here on a missing page of the mapping raises SIGBUS; false: the kernel has no such thing. */
static bool refuse_pages(const struct mapping *m)
{
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_SIGBUS};
    struct uffdio_register all = {.range = {(uintptr_t)m->data, m->bytes},
                                  .mode = UFFDIO_REGISTER_MODE_MISSING};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

    return fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0 && ioctl(fd, UFFDIO_REGISTER, &all) == 0;
}

/* Reads a byte in a child, which watches; of `refused` pages that are not there yet are refused.
 * The child's exit code, and what it was told of a loss. */
static int read_in_child(const uint8_t *at, const struct mapping *refused, struct lost *ret_lost)
{
    int ends[2], status;
    pid_t child;

    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        told = ends[1];
        mapping_watch(tell);
        if (refused && !refuse_pages(refused))
            _exit(EXIT_NO_REFUSAL);
        _exit(*(const volatile uint8_t *)at);
    }
    assert_int_equal(close(ends[1]), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == EXIT_LOST)
        assert_int_equal(read(ends[0], ret_lost, sizeof(*ret_lost)), sizeof(*ret_lost));
    assert_int_equal(close(ends[0]), 0);
    return WEXITSTATUS(status);
}

static void put_hole(const char *path, off_t bytes)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, bytes), 0);
    assert_int_equal(close(fd), 0);
}

static void a_file_cut_short_is_named_with_its_size(void **state)
{
    char *dir = scratch_new();
    const char *path = in_dir(dir, "short.bin"), *other = in_dir(dir, "other.bin");
    struct mapping map, beside;
    struct lost lost = {0};

    (void)state;
    put_hole(path, BYTES);
    put_hole(other, BYTES);
    assert_int_equal(mapping_open(path, &map, NULL), 0);
    assert_int_equal(mapping_open(other, &beside, NULL), 0);
    assert_int_equal(read_in_child(map.data + BYTES - 1, NULL, &lost), 0); /* all there yet */
    assert_int_equal(truncate(path, 1), 0);
    assert_int_equal(read_in_child(map.data + BYTES - 1, NULL, &lost), EXIT_LOST);
    assert_int_equal(lost.rc, LH_EINPUT);
    assert_non_null(strstr(lost.err.text, path));
    assert_non_null(strstr(lost.err.text, "became shorter than the 65536 bytes"));
    mapping_close(&map);
    mapping_close(&beside);
    scratch_free(dir);
}

static void a_page_that_cannot_be_read_is_an_error_of_input_and_output(void **state)
{
    char dir[] = "/dev/shm/longhaul-unit-XXXXXX";
    struct lost lost = {0};
    struct mapping map;
    const char *path;
    int code;

    (void)state;
    if (!mkdtemp(dir)) {
        print_message("skipped: /dev/shm cannot be written\n");
        skip();
    }
    path = in_dir(dir, "bad.bin");
    put_hole(path, BYTES);
    assert_int_equal(mapping_open(path, &map, NULL), 0);
    code = read_in_child(map.data + BYTES - 1, &map, &lost);
    mapping_close(&map);
    assert_int_equal(lh_remove_tree(dir, NULL), 0);
    if (code == EXIT_NO_REFUSAL) {
        print_message("skipped: this kernel's userfaultfd does not raise SIGBUS\n");
        skip();
    }
    assert_int_equal(code, EXIT_LOST);
    assert_int_equal(lost.rc, -EIO);
    assert_non_null(strstr(lost.err.text, path));
    assert_non_null(strstr(lost.err.text, "which is mapped"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_file_cut_short_is_named_with_its_size),
        TEST(a_page_that_cannot_be_read_is_an_error_of_input_and_output),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
