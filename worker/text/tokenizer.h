/* tokenizer.h - text to token ids and back: byte-level BPE from GGUF metadata or tokenizer.json, and SentencePiece
 * (Llama 1 and 2) from GGUF metadata or tokenizer.model.
 *
 * Ids equal those of Hugging Face `tokenizers` and of SentencePiece. Unknown pre-tokenizers, normalizers and models are
 * refused when loading. SentencePiece puts a space before a text, also behind a special token, and decoding takes the
 * one at the start off again.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer;

/* path: as for model_source_open (a directory with tokenizer.json or tokenizer.model, or a .gguf file). LH_EINPUT names file and reason. */
LH_MUST_CHECK int tokenizer_open(const char *path, struct tokenizer **ret_tokenizer, struct lh_err *reterr);
void tokenizer_free(struct tokenizer *t);
int64_t tokenizer_vocab(const struct tokenizer *t); /* ids are below this */
int64_t tokenizer_bos(const struct tokenizer *t);   /* -1: none */
int64_t tokenizer_eos(const struct tokenizer *t);
/* The id put between documents: <|endoftext|> where there is one, else eos, else -1. */
int64_t tokenizer_separator(const struct tokenizer *t);

/* Ids of a growable list. */
struct token_list { int32_t *at; size_t n, cap; };
void token_list_release(struct token_list *l);
LH_MUST_CHECK int token_list_append(struct token_list *l, int32_t id); /* 0 or -ENOMEM */

/* Appends the ids of text[0..len). special: recognise special tokens inside the text. Nothing is put before or after.
 * text must be valid UTF-8 (LH_EINPUT with the byte offset otherwise). Thread-safe: state is per call. */
LH_MUST_CHECK int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, bool special,
                                   struct token_list *ids, struct lh_err *reterr);
/* True when a long text may be encoded in pieces, cut before a space that stands between two ASCII letters: the ids are
 * those of the whole. */
bool tokenizer_cuts_at_spaces(const struct tokenizer *t);
/* The same for the place before a letter that begins a line, when the line before does not end in
 * white space. */
bool tokenizer_cuts_at_lines(const struct tokenizer *t);

/* Working memory of one thread, kept over many calls (it remembers the words it has seen). NULL: memory is exhausted. */
struct tokenizer_scratch;
struct tokenizer_scratch *tokenizer_scratch_new(void);
void tokenizer_scratch_free(struct tokenizer_scratch *s); /* accepts NULL */
LH_MUST_CHECK int tokenizer_encode_with(const struct tokenizer *t, struct tokenizer_scratch *s, const char *text,
                                        size_t len, bool special, struct token_list *ids, struct lh_err *reterr);

/* How a text is encoded that is a part of something. */
struct tokenizer_part {
    bool special;         /* recognise special tokens inside the text */
    bool continues;       /* other text stands right before it */
    const int32_t *never; /* added tokens that are not recognised, special or not */
    unsigned n_never;
};
LH_MUST_CHECK int tokenizer_encode_part(const struct tokenizer *t, struct tokenizer_scratch *s, const char *text,
                                        size_t len, const struct tokenizer_part *part, struct token_list *ids,
                                        struct lh_err *reterr);

/* The next control token in text: the special ones, and added ones written like <...> or [...]. Its id, place and
 * length, or -1. */
int64_t tokenizer_find_control(const struct tokenizer *t, const char *text, size_t len, size_t *ret_at,
                               size_t *ret_len);
/* True when the model's own tokenizer puts bos before every text. */
bool tokenizer_adds_bos(const struct tokenizer *t);

/* Bytes of ids, special tokens included: malloc'ed, 0-terminated. */
LH_MUST_CHECK int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, char **ret_text,
                                   size_t *ret_len, struct lh_err *reterr);
/* SHA-256 of everything that decides ids; part of the key of prepared shards. */
void tokenizer_digest(const struct tokenizer *t, char ret_hex[static 65]);
