/* tokenizer_export.h - the tokenizer of a base model into the files of an export.
 *
 * Hugging Face to Hugging Face: the files as they are. GGUF to GGUF: the keys as they are. Across,
 * byte-level BPE is written anew from vocabulary and merges, SentencePiece from pieces and scores;
 * other kinds are left out or refused. base: a path as for tokenizer_open.
 */
#pragma once
#include "worker/formats/gguf_writer.h"
#include "worker/text/tokenizer.h"
#include <jansson.h>

/* Into the directory of a Hugging Face model with a window of max_positions tokens. *ret_carried:
 * whether there was one that could be carried over; when not, *ret_why (static) says why. */
LH_MUST_CHECK int tokenizer_export_hf(const char *base, const char *dir, int64_t max_positions,
                                      bool *ret_carried, const char **ret_why,
                                      struct lh_err *reterr);

/* As tokenizer.* keys; vocab: rows of the embedding. LH_ENOTSUP for a tokenizer that GGUF has no
 * words for. */
LH_MUST_CHECK int tokenizer_export_gguf(const char *base, int64_t vocab, struct gguf_writer *w,
                                        bool *ret_carried, const char **ret_why,
                                        struct lh_err *reterr);

/* Encodes a page of mixed text (code, digits, spaces, scripts, special tokens) with both and
 * compares ids, bos and eos. LH_EINTERNAL says where they differ, LH_ENOTSUP that this build cannot
 * read one of them. */
LH_MUST_CHECK int tokenizer_compare(const char *base, const char *made, struct lh_err *reterr);

/* ---- inside ---- */
LH_MUST_CHECK int tokenizer_json_of_gguf(const struct gguf_file *f, const char *dir,
                                         int64_t max_positions, struct lh_err *reterr);
LH_MUST_CHECK int tokenizer_keys_of_json(const char *dir, int64_t vocab, struct gguf_writer *w,
                                         struct lh_err *reterr);
/* SentencePiece: tokenizer.model from pieces and scores, and the other way. */
LH_MUST_CHECK int tokenizer_model_of_gguf(const struct gguf_file *f, const char *dir,
                                          int64_t max_positions, struct lh_err *reterr);
LH_MUST_CHECK int tokenizer_keys_of_model(const char *dir, int64_t vocab, struct gguf_writer *w,
                                          struct lh_err *reterr);
/* tokenizer_config.json (with the members of config, which is stolen) and special_tokens_map.json.
 */
LH_MUST_CHECK int tokenizer_config_of_gguf(const struct gguf_file *f, const char *dir,
                                           json_t *config, int64_t max_positions,
                                           struct lh_err *reterr);
/* The chat template of a directory as tokenizer.chat_template; words: tokenizer_config.json. */
LH_MUST_CHECK int tokenizer_put_template(const char *dir, const json_t *words,
                                         struct gguf_writer *w, struct lh_err *reterr);
