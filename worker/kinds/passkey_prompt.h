/* passkey_prompt.h - prompts that hide a number in filler and ask for it, as LongLoRA's passkey
 * retrieval does, of any length.
 *
 * Five lines: the task, filler, the number, filler, the question. Filler is whole sentences, as
 * many as fit. A prompt is a pure function of tokenizer, length, depth and number.
 */
#pragma once
#include "worker/text/tokenizer.h"

struct passkey_prompt {
    struct token_list ids, answer; /* owned: what is asked, what is to follow */
    int64_t before, after;         /* sentences of filler around the number */
};
void passkey_prompt_release(struct passkey_prompt *p);

/* The number of trial `trial`: five digits, the same at every length and depth. */
int64_t passkey_number(uint64_t seed, int64_t trial);

/* Prompt and answer together have at most `length` tokens, and would have more with another
 * sentence. depth: share of the sentences that stand before the number, in [0, 1]. LH_EJOB: no room
 * even without filler. */
LH_MUST_CHECK int passkey_prompt_make(const struct tokenizer *t, int64_t length, double depth,
                                      int64_t number, struct passkey_prompt *ret,
                                      struct lh_err *reterr);
