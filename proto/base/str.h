/* str.h - small string helpers: nearest name for typos, UTF-8, URIs, ids. */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The entry of names[0..n) nearest to word by edit distance, or NULL when none is within 1/3 of its length + 1. */
const char *lh_nearest(const char *word, const char *const *names, size_t n);

bool lh_starts_with(const char *s, const char *prefix);
bool lh_ends_with(const char *s, const char *suffix);

/* True when bytes[0..n) is valid UTF-8 (no overlong forms, no surrogates, nothing above U+10FFFF). */
bool lh_utf8_valid(const void *bytes, size_t n);

/* Cuts a character at the end of s that is not whole: for text that was cut to fit a buffer. */
void lh_utf8_trim(char *s);

/* A URI as jobs use it: file:///path, s3://bucket/key, job:ID/NAME, or a plain absolute or relative path. */
enum lh_uri_scheme { LH_URI_FILE, LH_URI_S3, LH_URI_JOB };
struct lh_uri {
    enum lh_uri_scheme scheme;
    char authority[128]; /* bucket, or job id or name; "" for files */
    char path[1024];     /* file path; key without leading '/'; NAME of a job's output */
};
/* Bytes stand for themselves: no percent-decoding. "." and ".." are refused in s3:// and job:.
 * Returns 0, or LH_EJOB with the text (pointer left empty: the caller knows it). */
LH_MUST_CHECK int lh_uri_parse(const char *text, struct lh_uri *ret_uri, struct lh_err *reterr);

/* A time-sorted unique id: prefix + 16 characters of base32 (48 bits of milliseconds, 32 random bits). Order within
 * one millisecond is random; at 10,000 ids a second two are equal once in a day, which a unique key must catch. */
#define LH_ID_MAX 32
void lh_id_new(const char *prefix, char ret_id[static LH_ID_MAX]);

/* n random bytes as 2n hex digits and a 0, from getrandom(). */
void lh_random_hex(size_t n, char *ret_hex);

/* Parses a whole decimal integer within [min, max]; false when anything else is there. */
bool lh_parse_i64(const char *s, int64_t min, int64_t max, int64_t *ret_value);

/* "1.5 GiB", "312 KiB": for people. buf of at least 32 bytes; returns buf. */
const char *lh_bytes_text(uint64_t bytes, char buf[static 32]);
