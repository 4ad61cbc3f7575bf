/* hostile.h - damage done to small files: every truncation, and random changes from a printed seed.
 *
 * The function under test opens the damaged file and uses whatever it accepted; it must never
 * crash, and what it refuses it must refuse with a text. LONGHAUL_SEED=N repeats a run.
 */
#pragma once
#include "tests/unit/unit.h"
#include <inttypes.h>

typedef void hostile_fn(const char *path, void *arg);

struct bytes {
    uint8_t *at;
    size_t n, cap;
};

static inline LH_UNUSED void bytes_put(struct bytes *b, const void *data, size_t n)
{
    if (b->n + n > b->cap) {
        b->cap = 2 * (b->n + n);
        b->at = realloc(b->at, b->cap);
        assert_non_null(b->at);
    }
    if (n)
        memcpy(b->at + b->n, data, n);
    b->n += n;
}

static inline LH_UNUSED void put_u32(struct bytes *b, uint32_t v)
{
    bytes_put(b, &v, 4);
}

static inline LH_UNUSED void put_u64(struct bytes *b, uint64_t v)
{
    bytes_put(b, &v, 8);
}

/* A new file each time: ext4 flushes one that was cut to nothing and written again. */
static inline LH_UNUSED void put_bytes(const char *path, const void *data, size_t n)
{
    FILE *f;

    (void)remove(path);
    f = fopen(path, "we");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static inline LH_UNUSED uint64_t hostile_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static inline LH_UNUSED uint64_t hostile_seed(void)
{
    const char *given = getenv("LONGHAUL_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 10) : 20261121;

    print_message("[   seed   ] LONGHAUL_SEED=%" PRIu64 "\n", seed);
    return seed ? seed : 1;
}

/* One to three changes: a bit, a byte, a number of 8 bytes, a hole, a piece twice. Returns the new
 * length. */
static inline LH_UNUSED size_t hostile_change(uint8_t *b, size_t n, uint64_t *state)
{
    static const uint64_t numbers[] = {0,
                                       1,
                                       7,
                                       0x7f,
                                       0xff,
                                       0xffff,
                                       0x7fffffff,
                                       0xffffffff,
                                       0x100000000,
                                       INT64_MAX,
                                       (uint64_t)INT64_MAX + 1,
                                       UINT64_MAX,
                                       UINT64_MAX - 7};

    for (uint64_t k = hostile_random(state) % 3 + 1; k > 0 && n > 16; k--) {
        size_t at = hostile_random(state) % (n - 8), m = hostile_random(state) % 24 + 1;

        switch (hostile_random(state) % 5) {
        case 0:
            b[at] = (uint8_t)(b[at] ^ 1u << hostile_random(state) % 8);
            break;
        case 1:
            b[at] = (uint8_t)hostile_random(state);
            break;
        case 2:
            memcpy(b + at, &numbers[hostile_random(state) % LH_ARRAY_LEN(numbers)], 8);
            break;
        case 3:
            m = LH_MIN(m, n - at);
            memmove(b + at, b + at + m, n - at - m);
            n -= m;
            break;
        default:
            m = LH_MIN(m, n - at);
            memmove(b + at + m, b + at, n - at);
            n += m;
            break;
        }
    }
    return n;
}

/* Calls try with path holding: every truncation of the bytes (of long ones: the first 600 lengths,
 * then every 97th), then `changes` random changes within the first `head` bytes. */
static inline LH_UNUSED void hostile_each(const char *path, const void *bytes, size_t n,
                                          size_t head, unsigned changes, hostile_fn *try, void *arg)
{
    uint64_t state = hostile_seed();
    uint8_t *copy = malloc(n + 256);

    assert_non_null(copy);
    for (size_t len = 0; len < n; len += len < 600 ? 1 : 97) {
        put_bytes(path, bytes, len);
        try(path, arg);
    }
    for (unsigned i = 0; i < changes; i++) {
        size_t m;

        memcpy(copy, bytes, n);
        m = hostile_change(copy, LH_MIN(head, n), &state);
        memcpy(copy + m, (const uint8_t *)bytes + LH_MIN(head, n), n - LH_MIN(head, n));
        put_bytes(path, copy, m + n - LH_MIN(head, n));
        try(path, arg);
    }
    free(copy);
}

/* What every refusal must have: a code and a text that names the file. */
static inline LH_UNUSED void assert_refused(int rc, const struct lh_err *err, const char *path)
{
    assert_true(rc < 0);
    assert_int_equal(rc, err->code);
    if (!strstr(err->text, path))
        fail_msg("the error does not name '%s': %s", path, err->text);
}
