/* bpe.h - byte pair encoding of one word: merge the pair of lowest rank, leftmost first, until none
 * is left.
 *
 * A byte without a token is dropped before merging (or becomes the unknown token where the
 * vocabulary has one), as Hugging Face does. SentencePiece merges characters instead, and those
 * without a token become the tokens of their bytes. Results of short words are kept in a cache.
 */
#pragma once
#include "proto/base/attr.h"
#include "worker/text/tokenizer.h"
#include "worker/text/vocab.h"

struct bpe_merge {
    uint64_t pair; /* left << 32 | right; UINT64_MAX: an empty slot */
    uint32_t rank;
    int32_t id;
};

struct bpe {
    struct bpe_merge *merges; /* open addressing */
    uint64_t n_slots, n_merges;
    int32_t byte_id[256];            /* -1: none */
    const struct vocab *characters;  /* not NULL: a word begins as characters, not as bytes */
    int32_t unknown;                 /* -1: bytes without a token are dropped */
    const struct vocab *whole_words; /* not NULL: a word that is a token is taken without merging */
};

struct bpe_scratch; /* of one thread */

/* Room for n merges, and the ids of single bytes from v. */
LH_MUST_CHECK int bpe_init(struct bpe *b, const struct vocab *v, uint64_t n_merges);
void bpe_release(struct bpe *b);
/* Adds the next merge in order of rank. A pair that is there already keeps its rank. */
void bpe_add(struct bpe *b, int32_t left, int32_t right, int32_t id);

/* The same with a rank of its own, which several pairs may share: then the leftmost is merged
 * first. */
void bpe_add_ranked(struct bpe *b, int32_t left, int32_t right, int32_t id, uint32_t rank);

/* Called for a word that is not in the cache: appends its ids. */
typedef int bpe_miss_fn(const void *arg, const char *word, size_t n, struct token_list *ids);
/* Appends the ids of a word, from the cache or from `miss`. 0 or what miss returned. */
LH_MUST_CHECK int bpe_cached(struct bpe_scratch *s, const char *word, size_t n, bpe_miss_fn *miss,
                             const void *arg, struct token_list *ids);

struct bpe_scratch *bpe_scratch_new(bool with_cache); /* NULL: memory is exhausted */
void bpe_scratch_free(struct bpe_scratch *s);

/* Appends the ids of a word. 0 or -ENOMEM. */
LH_MUST_CHECK int bpe_word(const struct bpe *b, struct bpe_scratch *s, const char *word, size_t n,
                           struct token_list *ids);

/* Makes room for n more ids. 0 or -ENOMEM. */
LH_MUST_CHECK int token_list_reserve(struct token_list *l, size_t n);
