/* test_base.c - buffers, arenas, strings, ids, addresses, clocks, errors, JSON. */
#include "proto/base/arena.h"
#include "proto/base/buf.h"
#include "proto/base/clock.h"
#include "proto/base/str.h"
#include "tests/unit/unit.h"
#include <errno.h>
#include <unistd.h>

/* ---- buf, arena ---- */

static void a_buffer_refuses_what_exceeds_its_maximum_and_stays_as_it_was(void **state)
{
    struct lh_buf b;

    (void)state;
    lh_buf_init(&b, 10);
    lh_buf_consume(&b, 0);
    assert_int_equal(lh_buf_append(&b, "12345678", 8), 0);
    assert_int_equal(lh_buf_append(&b, "abc", 3), -E2BIG);
    assert_int_equal(lh_buf_printf(&b, "%d", 100), -E2BIG);
    assert_int_equal(lh_buf_append(&b, "x", SIZE_MAX), -E2BIG);
    assert_string_equal(b.data, "12345678");
    assert_int_equal(lh_buf_printf(&b, "%d", 90), 0);
    assert_string_equal(b.data, "1234567890");
    lh_buf_consume(&b, 4);
    assert_string_equal(b.data, "567890");
    assert_int_equal(b.len, 6);
    char *taken = lh_buf_take(&b);
    assert_string_equal(taken, "567890");
    free(taken);
    assert_null(b.data);
    assert_int_equal(lh_buf_append(&b, "", 0), 0);
    assert_string_equal(b.data, "");
    lh_buf_release(&b);
}

static void an_arena_gives_aligned_zeros_up_to_its_maximum(void **state)
{
    struct lh_arena a;
    unsigned char *p;

    (void)state;
    lh_arena_init(&a, 1000);
    p = lh_arena_alloc(&a, 3);
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 16, 0);
    assert_int_equal(p[0] | p[1] | p[2], 0);
    p = lh_arena_alloc(&a, 900);
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 16, 0);
    assert_null(lh_arena_alloc(&a, 100));
    assert_null(lh_arena_alloc(&a, SIZE_MAX));
    assert_non_null(lh_arena_alloc(&a, 16));
    assert_null(lh_arena_strdup(&a, NULL));
    lh_arena_release(&a);
    assert_int_equal(a.used_bytes, 0);
    assert_string_equal(lh_arena_printf(&a, "%s-%d", "x", 7), "x-7");
    lh_arena_release(&a);
    lh_arena_init(&a, SIZE_MAX);
    assert_null(lh_arena_alloc(&a, SIZE_MAX));
    lh_arena_release(&a);
}

static void an_arena_larger_than_a_block_keeps_earlier_bytes(void **state)
{
    struct lh_arena a;
    char *small, *large;

    (void)state;
    lh_arena_init(&a, 1 << 20);
    small = lh_arena_strdup(&a, "small");
    large = lh_arena_alloc(&a, 100000);
    memset(large, 7, 100000);
    assert_string_equal(small, "small");
    assert_string_equal(lh_arena_strdup(&a, "after"), "after");
    assert_int_equal(large[99999], 7);
    lh_arena_release(&a);
}

/* ---- strings ---- */

static void utf8_is_told_from_what_only_looks_like_it(void **state)
{
    static const char *const good[] = {"",
                                       "plain",
                                       "\xc3\xa4",
                                       "\xe2\x82\xac",
                                       "\xf0\x9f\x98\x80",
                                       "\xed\x9f\xbf",
                                       "\xee\x80\x80",
                                       "\xf4\x8f\xbf\xbf"};
    static const char *const bad[] = {"\x80",
                                      "\xc3",
                                      "\xc0\x80",
                                      "\xc1\xbf",
                                      "\xe0\x80\x80",
                                      "\xe2\x82",
                                      "\xed\xa0\x80",
                                      "\xed\xbf\xbf",
                                      "\xf0\x80\x80\x80",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xff",
                                      "a\xe2\x28\xa1"};

    (void)state;
    for (size_t i = 0; i < LH_ARRAY_LEN(good); i++)
        if (!lh_utf8_valid(good[i], strlen(good[i])))
            fail_msg("good %zu", i);
    for (size_t i = 0; i < LH_ARRAY_LEN(bad); i++)
        if (lh_utf8_valid(bad[i], strlen(bad[i])))
            fail_msg("bad %zu", i);
}

static void cut_text_loses_half_a_character_and_no_whole_one(void **state)
{
    static const char text[] = "a\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80z";

    (void)state;
    for (size_t n = 0; n < sizeof(text); n++) {
        char cut[sizeof(text)];
        size_t left;

        memcpy(cut, text, n);
        cut[n] = '\0';
        lh_utf8_trim(cut);
        left = strlen(cut);
        assert_true(lh_utf8_valid(cut, left));
        assert_true(n - left < 4);
        assert_memory_equal(cut, text, left);
        if (lh_utf8_valid(text, n))
            assert_int_equal(left, n);
    }
}

static void the_nearest_name_is_near_or_there_is_none(void **state)
{
    static const char *const names[] = {"length", "rope", "attention"};

    (void)state;
    assert_string_equal(lh_nearest("lenght", names, 3), "length");
    assert_string_equal(lh_nearest("atention", names, 3), "attention");
    assert_null(lh_nearest("quota", names, 3));
    assert_null(lh_nearest("length", names, 0));
    assert_null(lh_nearest(
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", names,
        3));
}

static void addresses_are_taken_apart(void **state)
{
    struct lh_uri u;

    (void)state;
    assert_int_equal(lh_uri_parse("file:///models/a b", &u, NULL), 0);
    assert_int_equal(u.scheme, LH_URI_FILE);
    assert_string_equal(u.path, "/models/a b");
    assert_int_equal(lh_uri_parse("models/x.gguf", &u, NULL), 0);
    assert_int_equal(u.scheme, LH_URI_FILE);
    assert_string_equal(u.path, "models/x.gguf");
    assert_int_equal(lh_uri_parse("./odd:name", &u, NULL), 0);
    assert_int_equal(lh_uri_parse("../up", &u, NULL), 0);
    assert_int_equal(lh_uri_parse("s3://bucket/a/b.bin", &u, NULL), 0);
    assert_int_equal(u.scheme, LH_URI_S3);
    assert_string_equal(u.authority, "bucket");
    assert_string_equal(u.path, "a/b.bin");
    assert_int_equal(lh_uri_parse("s3://bucket", &u, NULL), 0);
    assert_string_equal(u.path, "");
    assert_int_equal(lh_uri_parse("job:j0123/checkpoint", &u, NULL), 0);
    assert_int_equal(u.scheme, LH_URI_JOB);
    assert_string_equal(u.authority, "j0123");
    assert_string_equal(u.path, "checkpoint");
}

static void wrong_addresses_are_refused_with_the_address_in_the_text(void **state)
{
    static const char *const bad[] = {
        "",           "file://relative", "https://x/y", "S3://b/k", "gs://b/k",
        "s3:///key",  "s3://b/../k",     "s3://b/./k",  "job:x",    "job:/name",
        "job:../etc", "job:a/..",        "file:/etc/x", "data:x"};
    struct lh_uri u;
    char longest[2000];

    (void)state;
    for (size_t i = 0; i < LH_ARRAY_LEN(bad); i++) {
        struct lh_err err = {0};

        if (lh_uri_parse(bad[i], &u, &err) != LH_EJOB)
            fail_msg("'%s' was taken", bad[i]);
        if (bad[i][0])
            assert_non_null(strstr(err.text, bad[i]));
    }
    memset(longest, 'a', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    assert_int_equal(lh_uri_parse(longest, &u, NULL), LH_EJOB);
    longest[1023] = '\0';
    assert_int_equal(lh_uri_parse(longest, &u, NULL), 0);
    memcpy(longest, "s3://", 5);
    assert_int_equal(lh_uri_parse(longest, &u, NULL), LH_EJOB); /* a bucket of 1018 bytes */
}

static void ids_sort_by_time_and_differ(void **state)
{
    char last[LH_ID_MAX], id[LH_ID_MAX];

    (void)state;
    lh_id_new("j", last);
    assert_int_equal(strlen(last), 17);
    assert_int_equal(last[0], 'j');
    for (int i = 0; i < 20; i++) {
        (void)usleep(2000); /* another millisecond */
        lh_id_new("j", id);
        assert_true(strcmp(last, id) < 0);
        strcpy(last, id);
    }
}

/* The ten digits of the 48 bits of time must carry the time exactly, not only in order. */
static void an_id_holds_its_millisecond(void **state)
{
    static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz";
    uint64_t before = lh_now_ms(), after, ms = 0;
    char id[LH_ID_MAX];

    (void)state;
    lh_id_new("", id);
    after = lh_now_ms();
    for (int i = 0; i < 10; i++)
        ms = ms << 5 | (uint64_t)(strchr(digits, id[i]) - digits);
    ms >>= 2; /* ten digits are 50 bits: two of them are random */
    assert_in_range(ms, before, after);
}

static void random_hex_has_the_asked_length(void **state)
{
    char a[33], b[33], none[1] = {'x'};

    (void)state;
    lh_random_hex(16, a);
    lh_random_hex(16, b);
    lh_random_hex(0, none);
    assert_int_equal(strlen(a), 32);
    assert_int_equal(strspn(a, "0123456789abcdef"), 32);
    assert_string_not_equal(a, b);
    assert_string_equal(none, "");
}

static void whole_numbers_are_whole_strings(void **state)
{
    static const char *const bad[] = {
        "", " 1", "1 ", "1x", "+1", "0x10", "9223372036854775808", "101", "-11", "--1", "1.0"};
    int64_t v = 77;

    (void)state;
    for (size_t i = 0; i < LH_ARRAY_LEN(bad); i++)
        assert_false(lh_parse_i64(bad[i], -10, 100, &v));
    assert_int_equal(v, 77);
    assert_true(lh_parse_i64("-10", -10, 100, &v));
    assert_int_equal(v, -10);
    assert_true(lh_parse_i64("100", -10, 100, &v));
    assert_int_equal(v, 100);
}

static void sizes_read_well(void **state)
{
    char buf[32];

    (void)state;
    assert_string_equal(lh_bytes_text(0, buf), "0 B");
    assert_string_equal(lh_bytes_text(1023, buf), "1023 B");
    assert_string_equal(lh_bytes_text(1536, buf), "1.50 KiB");
    assert_string_equal(lh_bytes_text((uint64_t)312 << 20, buf), "312 MiB");
    assert_non_null(strstr(lh_bytes_text(UINT64_MAX, buf), " PiB"));
}

/* ---- errors, clocks ---- */

static void an_error_may_be_made_of_its_own_text(void **state)
{
    struct lh_err err = {0};
    char longest[1000];

    (void)state;
    assert_int_equal(lh_err_at(&err, LH_EJOB, "/a", "first"), LH_EJOB);
    assert_int_equal(lh_err_at(&err, LH_EINPUT, err.pointer, "second after %s", err.text),
                     LH_EINPUT);
    assert_string_equal(err.text, "second after first");
    assert_string_equal(err.pointer, "/a");
    assert_int_equal(lh_err_prefix(&err, -1, "file"), LH_EINPUT);
    assert_string_equal(err.text, "file: second after first");
    assert_int_equal(lh_err_set(&err, -ENOENT, "open"), -ENOENT);
    assert_string_equal(err.text, "open: No such file or directory");
    assert_string_equal(err.pointer, "");
    assert_int_equal(lh_err_set(NULL, LH_EJOB, "nobody listens"), LH_EJOB);
    assert_int_equal(lh_err_prefix(NULL, LH_EJOB, "x"), LH_EJOB);
    for (size_t i = 0; i + 1 < sizeof(longest); i++)
        longest[i] = i % 2 ? '\xa4' : '\xc3';
    longest[sizeof(longest) - 1] = '\0';
    assert_int_equal(lh_err_set(&err, -EIO, "x%s", longest), -EIO);
    assert_true(lh_utf8_valid(err.text, strlen(err.text)));
    assert_int_equal(lh_err_prefix(&err, -EIO, "%s", longest), -EIO);
    assert_true(lh_utf8_valid(err.text, strlen(err.text)));
}

static void every_code_of_ours_has_a_name_of_its_own(void **state)
{
    (void)state;
    for (int a = LH_EJOB; a >= LH_EREMOTE; a--) {
        assert_string_not_equal(lh_err_name(a), "io");
        for (int b = a - 1; b >= LH_EREMOTE; b--)
            assert_string_not_equal(lh_err_name(a), lh_err_name(b));
    }
    assert_string_equal(lh_err_name(-EIO), "io");
}

static void times_are_written_in_utc_with_milliseconds(void **state)
{
    char buf[LH_RFC3339_MAX];

    (void)state;
    assert_string_equal(lh_rfc3339(0, buf), "1970-01-01T00:00:00.000Z");
    assert_string_equal(lh_rfc3339(1795253400123u, buf), "2026-11-21T09:30:00.123Z");
    assert_string_equal(lh_rfc3339(UINT64_MAX, buf), "1970-01-01T00:00:00.615Z");
}

static void a_process_is_known_by_its_start(void **state)
{
    char boot[37];

    (void)state;
    assert_true(lh_pid_start_ticks(getpid()) > 0);
    assert_true(lh_pid_start_ticks(1) <= lh_pid_start_ticks(getpid()));
    assert_int_equal(lh_pid_start_ticks(-1), 0);
    lh_boot_id(boot);
    assert_int_equal(strlen(boot), 36);
}

/* ---- JSON ---- */

static int parse(const char *text, size_t len, unsigned depth, struct lh_err *err)
{
    json_t *value = NULL;
    int rc = lh_json_parse(text, len, depth, &value, err);

    json_decref(value);
    return rc;
}

static void json_is_strict(void **state)
{
    static const char *const bad[] = {"",
                                      "{",
                                      "{\"a\":1,}",
                                      "{\"a\":1,\"a\":2}",
                                      "[1] x",
                                      "'a'",
                                      "NaN",
                                      "1e999",
                                      "\"\xff\"",
                                      "\"\\u0000\"",
                                      "{\"\xed\xa0\x80\":1}",
                                      "99999999999999999999",
                                      "[01]",
                                      "\"a\nb\""};

    (void)state;
    for (size_t i = 0; i < LH_ARRAY_LEN(bad); i++) {
        struct lh_err err = {0};

        if (parse(bad[i], strlen(bad[i]), 64, &err) != LH_EINPUT)
            fail_msg("'%s' was taken", bad[i]);
        assert_non_null(strstr(err.text, "line"));
    }
    assert_int_equal(parse("{\"a\":\0001}", 8, 64, NULL), LH_EINPUT);
    assert_int_equal(parse(" 3 ", 3, 64, NULL), 0);
}

static void json_depth_is_counted_outside_of_strings(void **state)
{
    (void)state;
    assert_int_equal(parse("[[[1]]]", 7, 3, NULL), 0);
    assert_int_equal(parse("[[[[1]]]]", 9, 3, NULL), LH_EINPUT);
    assert_int_equal(parse("[{\"a\":[1]}]", 11, 3, NULL), 0);
    assert_int_equal(parse("[\"[[[[\\\"[[[[\"]", 14, 1, NULL), 0);
    assert_int_equal(parse("[[1],[1],[1],[1]]", 17, 2, NULL), 0);
}

static void numbers_are_written_with_the_fewest_digits_that_read_back(void **state)
{
    static const struct {
        double value;
        const char *text;
    } cases[] = {{2e-5, "2e-5"},
                 {0.9, "0.9"},
                 {1.0, "1.0"},
                 {1e300, "1e300"},
                 {-0.1, "-0.1"},
                 {1e-8, "1e-8"},
                 {123456.75, "123456.75"},
                 {0, "0.0"},
                 {1e20, "1e20"},
                 {0.1 + 0.2, "0.30000000000000004"}};

    (void)state;
    for (size_t i = 0; i < LH_ARRAY_LEN(cases); i++) {
        json_t *value = json_real(cases[i].value);
        char *text = lh_json_text(value, 0);

        assert_string_equal(text, cases[i].text);
        free(text);
        json_decref(value);
    }
}

/* Random doubles of all magnitudes. LONGHAUL_SEED repeats a run. */
static void numbers_of_any_size_read_back_as_the_same_bits(void **state)
{
    const char *given = getenv("LONGHAUL_SEED");
    unsigned seed = given ? (unsigned)atoi(given) : (unsigned)lh_mono_ns();

    (void)state;
    print_message("LONGHAUL_SEED=%u\n", seed);
    for (int i = 0; i < 20000; i++) {
        uint64_t bits =
            (uint64_t)rand_r(&seed) << 42 ^ (uint64_t)rand_r(&seed) << 21 ^ (uint64_t)rand_r(&seed);
        struct lh_err err = {0};
        json_t *value, *back = NULL;
        double v;
        char *text;

        memcpy(&v, &bits, sizeof(v));
        value = json_real(v);
        if (!value)
            continue; /* not finite */
        text = lh_json_text(value, 0);
        if (lh_json_parse(text, strlen(text), 1, &back, &err) < 0 || !json_is_real(back) ||
            json_real_value(back) != v)
            fail_msg("%s does not read back: %s", text, err.text);
        free(text);
        json_decref(value);
        json_decref(back);
    }
}

static void text_is_escaped_and_laid_out(void **state)
{
    json_t *value = json_of("{'a':{'b':[1,2,[]],'c':{}},'s':'x'}"), *back;
    char *text;

    (void)state;
    json_object_set_new(value, "s", json_string("\"\\\n\t\x01 \xe2\x82\xac"));
    text = lh_json_text(value, 2);
    assert_string_equal(
        text,
        "{\n  \"a\": {\n    \"b\": [\n      1,\n      2,\n      []\n    ],\n    \"c\": {}\n  },\n"
        "  \"s\": \"\\\"\\\\\\n\\t\\u0001 \xe2\x82\xac\"\n}");
    assert_int_equal(lh_json_parse(text, strlen(text), 64, &back, NULL), 0);
    assert_true(json_equal(value, back));
    free(text);
    json_decref(back);
    text = lh_json_text(value, 0);
    assert_null(strchr(text, '\n'));
    free(text);
    json_decref(value);
    value = json_of("{'betas':[0.9,0.95]}");
    text = lh_json_text(value, 2);
    assert_string_equal(text, "{\n  \"betas\": [0.9, 0.95]\n}");
    free(text);
    json_decref(value);
    assert_null(lh_json_text(NULL, 0));
}

static void members_of_another_type_give_the_default(void **state)
{
    json_t *o = json_of("{'i':3,'s':'x','b':true,'d':0.5}");

    (void)state;
    assert_int_equal(lh_json_i64(o, "i", 1), 3);
    assert_int_equal(lh_json_i64(o, "d", 1), 1);
    assert_true(lh_json_num(o, "i", 0) == 3);
    assert_string_equal(lh_json_str(o, "i", "none"), "none");
    assert_int_equal(lh_json_bool(o, "b", 0), 1);
    assert_int_equal(lh_json_bool(o, "i", 7), 7);
    assert_int_equal(lh_json_i64(NULL, "i", 9), 9);
    json_decref(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_buffer_refuses_what_exceeds_its_maximum_and_stays_as_it_was),
        TEST(an_arena_gives_aligned_zeros_up_to_its_maximum),
        TEST(an_arena_larger_than_a_block_keeps_earlier_bytes),
        TEST(utf8_is_told_from_what_only_looks_like_it),
        TEST(cut_text_loses_half_a_character_and_no_whole_one),
        TEST(the_nearest_name_is_near_or_there_is_none),
        TEST(addresses_are_taken_apart),
        TEST(wrong_addresses_are_refused_with_the_address_in_the_text),
        TEST(ids_sort_by_time_and_differ),
        TEST(an_id_holds_its_millisecond),
        TEST(random_hex_has_the_asked_length),
        TEST(whole_numbers_are_whole_strings),
        TEST(sizes_read_well),
        TEST(an_error_may_be_made_of_its_own_text),
        TEST(every_code_of_ours_has_a_name_of_its_own),
        TEST(times_are_written_in_utc_with_milliseconds),
        TEST(a_process_is_known_by_its_start),
        TEST(json_is_strict),
        TEST(json_depth_is_counted_outside_of_strings),
        TEST(numbers_are_written_with_the_fewest_digits_that_read_back),
        TEST(numbers_of_any_size_read_back_as_the_same_bits),
        TEST(text_is_escaped_and_laid_out),
        TEST(members_of_another_type_give_the_default),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
