/* fuzz_stream.c - any bytes as a .gz and as a .zst file: the same text whatever the size of the
 * reads, or refused by name.
 */
#include "tests/fuzz/fuzz_file.h"
#include "worker/data/text_stream.h"

#define TEXT_MAX ((size_t)1 << 20) /* a small file may hold a very long text */

static int read_all(const char *path, size_t step, char *text, size_t *ret_n, struct lh_err *err)
{
    struct text_stream *s;
    size_t n;
    int rc = text_stream_open(path, &s, err);

    FUZZ_ASSERT(rc == 0);
    *ret_n = 0;
    do {
        rc = text_stream_read(s, text + *ret_n, LH_MIN(step, TEXT_MAX - *ret_n), &n, err);
        *ret_n += rc == 0 ? n : 0;
    } while (rc == 0 && n > 0 && *ret_n < TEXT_MAX);
    text_stream_close(s);
    return rc;
}

static void check(const char *name, const uint8_t *data, size_t size)
{
    static char one[TEXT_MAX], other[TEXT_MAX];
    const char *path = fuzz_file(name, data, size);
    struct lh_err err = {0};
    size_t n, m;
    int rc = read_all(path, TEXT_MAX, one, &n, &err);

    FUZZ_ASSERT(rc == 0 || strstr(err.text, name));
    if (n == TEXT_MAX) /* where the reading stopped decides whether damage was seen */
        return;
    FUZZ_ASSERT(read_all(path, 1 + size % 97, other, &m, &err) == rc);
    FUZZ_ASSERT(rc < 0 || (m == n && memcmp(one, other, n) == 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check("x.gz", data, size);
    check("x.zst", data, size);
    return 0;
}
