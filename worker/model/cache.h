/* cache.h - one text through the model a piece at a time, its keys and values kept: for generation.
 *
 * The model was made with llama_options.cache and loaded. Attention is full: each token sees all
 * before it. A piece of any length is computed in chunks of the model's dims.T tokens, so memory
 * beside the cache does not grow with the text.
 */
#pragma once
#include "worker/model/llama.h"

struct cache {
    struct llama *model;
    int64_t used; /* tokens whose keys and values are held */
};

/* Appends ids[0..n) to the text. logits (V floats of the host; NULL: not wanted) are those behind
 * the last of them. The text must stay within dims.cache tokens. */
LH_MUST_CHECK int cache_append(struct cache *c, const int32_t *ids, int64_t n, float *logits,
                               struct lh_err *reterr);

/* Forgets all but the first `tokens` tokens. */
void cache_rewind(struct cache *c, int64_t tokens);
