/* pretok.h - cutting text into words: a short list of steps, each cutting the pieces of the one
 * before.
 *
 * Patterns are those of tokenizer.json (Oniguruma) compiled by PCRE2. White space is written out,
 * because the two disagree on U+180E; constructs whose meaning differs are refused when compiling.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include "proto/base/sha256.h"
#include <stdbool.h>
#include <stddef.h>

#define PRETOK_STEPS_MAX 8

/* The pattern of GPT-2, which the step ByteLevel brings along. */
#define PRETOK_GPT2                                                                                \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define PRETOK_LLAMA3                                                                              \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "                     \
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"                                                               \
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

struct pretok_step {
    void *code;        /* pcre2_code */
    bool keep_matches; /* matches become pieces */
    bool keep_gaps;    /* what lies between becomes pieces */
};

struct pretok {
    struct pretok_step steps[PRETOK_STEPS_MAX];
    unsigned n;
    bool unknown_steps; /* a pattern that is none of those named here */
    bool cuts_words;    /* one of GPT-2's or Llama 3's */
};

struct pretok_scratch; /* of one thread */

/* Adds a step. literal: the pattern is plain text. Errors: LH_EINPUT (the caller prefixes the
 * file), -ENOMEM. */
LH_MUST_CHECK int pretok_add(struct pretok *p, const char *pattern, bool literal, bool keep_matches,
                             bool keep_gaps, struct lh_err *reterr);
void pretok_release(struct pretok *p);

struct pretok_scratch *pretok_scratch_new(void); /* NULL: memory is exhausted */
void pretok_scratch_free(struct pretok_scratch *s);

/* True when every text is cut between a letter and a space that a letter follows (all of ASCII),
 * and the words on both sides do not depend on the other side. */
bool pretok_cuts_at_spaces(const struct pretok *p);

/* Called for each word in order; a negative result ends the cutting. */
typedef int pretok_word_fn(void *arg, const char *word, size_t n);

/* text is valid UTF-8. Returns 0, what word returned, LH_EINPUT when a pattern gives up. */
LH_MUST_CHECK int pretok_cut(const struct pretok *p, struct pretok_scratch *s, const char *text,
                             size_t n, pretok_word_fn *word, void *arg, struct lh_err *reterr);
