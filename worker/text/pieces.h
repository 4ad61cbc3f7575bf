/* pieces.h - inside of tokenizer.h: SentencePiece vocabularies. */
#pragma once
#include "worker/text/spm.h"
#include "worker/text/tokenizer_parts.h"

/* Puts a piece in, as the files write it: control and unknown pieces are special tokens, others
 * found by their text or merged to. A user-defined one is an added token. */
LH_MUST_CHECK int pieces_put(struct tokenizer *t, int64_t id, const char *piece, size_t len,
                             enum sp_type type, struct lh_err *reterr);

/* After all pieces and added tokens. scores: one for each id, from which the merges follow; NULL:
 * the library encodes. */
LH_MUST_CHECK int pieces_index(struct tokenizer *t, const float *scores, struct lh_err *reterr);

/* Appends the ids of a text without added tokens. prefix: no other text stands before. 0, -ENOMEM,
 * -EIO. */
LH_MUST_CHECK int pieces_encode(const struct tokenizer *t, struct tokenizer_scratch *s,
                                const char *text, size_t n, bool prefix, struct token_list *ids);
