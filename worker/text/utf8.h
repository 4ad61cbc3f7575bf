/* utf8.h - what the tokenizer needs of UTF-8: where it is broken, white space, and repair for
 * printing. */
#pragma once
#include "proto/base/attr.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Offset of the first byte that is not part of valid UTF-8, or n. Fast on ASCII. */
size_t utf8_valid_prefix(const char *text, size_t n);

/* Length in bytes of the character at text (valid UTF-8) and its code point. */
unsigned utf8_char(const char *text, uint32_t *ret_code);

bool utf8_is_space(uint32_t code); /* Unicode's White_Space */

/* Bytes of white space at the start and at the end of valid UTF-8. */
size_t utf8_spaces_at_start(const char *text, size_t n);
size_t utf8_spaces_at_end(const char *text, size_t n);

/* A copy in which every maximal broken part is U+FFFD, as Hugging Face prints decoded text:
 * malloc'ed and 0-terminated, NULL when memory is exhausted. */
char *utf8_lossy(const char *bytes, size_t n, size_t *ret_len);
