/* token_spans.h - files of tokens (data.format tokens) as spans: what a window for evaluation may
 * lie in.
 *
 * The tokens of all sequences are numbered end to end, padding left out. A span is what one
 * sequence has of one document, or all of the tokens.
 */
#pragma once
#include "worker/data/dataset.h"

struct token_spans {
    const struct dataset *d; /* borrowed */
    uint64_t n_tokens, n;
    uint64_t *begin;    /* owned, n + 1: first token of each span */
    uint64_t *sequence; /* owned, one more than sequences: first token of each */
};

/* join: one span. d is of format tokens and must live as long. -ENOMEM. */
LH_MUST_CHECK int token_spans_open(const struct dataset *d, bool join,
                                   struct token_spans *ret_spans, struct lh_err *reterr);
void token_spans_close(struct token_spans *s); /* of zeros: nothing happens */

/* Tokens [at, at + n). labels[i]: what predictions of token at + i are held against, -100 for
 * nothing. */
void token_spans_copy(const struct token_spans *s, uint64_t at, int64_t n, int32_t *ids,
                      int32_t *labels);
