/* tokenizer_parts.h - inside of tokenizer.h: what a loaded tokenizer is made of, and how loaders
 * fill it. */
#pragma once
#include "proto/base/sha256.h"
#include "worker/text/added.h"
#include "worker/text/bpe.h"
#include "worker/text/pretok.h"
#include "worker/text/tokenizer.h"
#include "worker/text/vocab.h"
#include <jansson.h>

/* Text is cut at added[0] (as it is), the rest at added[1] (after normalising, of which there is
 * none). */
#define ADDED_PASSES 2

struct tokenizer {
    struct vocab vocab;
    struct bpe bpe;
    struct pretok pretok;
    struct added_set added[ADDED_PASSES];
    bool whole_words; /* set before tokenizer_index: words that are tokens are not merged */
    int64_t bos, eos, separator;
    bool adds_bos;
    uint64_t steps_hash; /* of the cutting steps, to tell which named kind they are */
    /* SentencePiece (pieces.h): no words by patterns. */
    bool pieces, space_prefix, cuts_words;
    struct spm_model *spm;    /* owned; NULL: merged here, by score */
    int32_t byte_tokens[256]; /* -1: none */
    struct lh_sha256 hash;    /* fed while loading */
    char digest[LH_SHA256_HEX];
};

/* Working memory of one thread. */
struct tokenizer_scratch {
    struct pretok_scratch *pretok;
    struct bpe_scratch *bpe;
    char *word; /* pieces: the first word with its space */
    size_t word_cap;
};

/* Everything that a loader decides goes through here, so that the digest covers it. tag says what
 * the bytes are. */
void tokenizer_feed(struct tokenizer *t, const char *tag, const void *bytes, size_t n);

/* pretok_add and the digest. */
LH_MUST_CHECK int tokenizer_step(struct tokenizer *t, const char *pattern, bool literal,
                                 bool keep_matches, bool keep_gaps, struct lh_err *reterr);

/* Puts a token into the vocabulary; errors name the id. */
LH_MUST_CHECK int tokenizer_put(struct tokenizer *t, int64_t id, const char *token, size_t len,
                                bool text, struct lh_err *reterr);

/* Puts a token into an added set, and into the vocabulary as text when its id has none. pass: 0
 * or 1. */
LH_MUST_CHECK int tokenizer_put_added(struct tokenizer *t, unsigned pass, const char *text,
                                      size_t len, const struct added_token *like,
                                      struct lh_err *reterr);

/* After all tokens: indexes the vocabulary and prepares n_merges merges. */
LH_MUST_CHECK int tokenizer_index(struct tokenizer *t, uint64_t n_merges, struct lh_err *reterr);

/* The next merge, both sides in letters. LH_EINPUT when a side or the result is no token. */
LH_MUST_CHECK int tokenizer_merge(struct tokenizer *t, const char *left, size_t left_len,
                                  const char *right, size_t right_len, struct lh_err *reterr);

/* The pre-tokenizers that GGUF knows by name. */
struct tokenizer_pre {
    const char *name;
    bool digits; /* each alone, before anything else */
    const char *pattern;
    bool whole_words;
};
const struct tokenizer_pre *tokenizer_pre_named(const char *name); /* NULL: unknown */
/* The first one that cuts as an open tokenizer does; NULL: none. */
const struct tokenizer_pre *tokenizer_pre_of(const struct tokenizer *t);

struct gguf_file;

/* The kinds of files. */
LH_MUST_CHECK int tokenizer_load_gguf(struct tokenizer *t, const char *path, struct lh_err *reterr);
LH_MUST_CHECK int tokenizer_load_json(struct tokenizer *t, const char *dir, struct lh_err *reterr);
/* SentencePiece: tokenizer.ggml.model "llama", and tokenizer.model in a directory. */
LH_MUST_CHECK int tokenizer_load_gguf_pieces(struct tokenizer *t, const struct gguf_file *f,
                                             struct lh_err *reterr);
LH_MUST_CHECK int tokenizer_load_spm(struct tokenizer *t, const char *dir, struct lh_err *reterr);
/* Reads NAME in dir when it is there; *ret is NULL when not. */
LH_MUST_CHECK int tokenizer_load_beside(const char *dir, const char *name, json_t **ret,
                                        struct lh_err *reterr);
/* An added token as JSON: {content, special, lstrip, rstrip, normalized}. */
LH_MUST_CHECK int tokenizer_put_json(struct tokenizer *t, int64_t id, const json_t *token,
                                     struct lh_err *reterr);
/* The pre_tokenizer member of a tokenizer.json. */
LH_MUST_CHECK int tokenizer_json_pre(struct tokenizer *t, const json_t *pre, struct lh_err *reterr);
