/* stops.h - the tokens that end a text.
 *
 * Published models name them in up to three places that need not agree: the tokenizer's end token,
 * `eos_token_id` of config.json, and that of generation_config.json (where Llama 3 has the end of a
 * turn). Each of them ends a text, as transformers has it.
 */
#pragma once
#include "proto/base/err.h"
#include "worker/formats/source.h"
#include "worker/text/tokenizer.h"

#define STOPS_MAX 32 /* published models have up to 3; more are left out */

struct stops {
    int32_t ids[STOPS_MAX];
    unsigned n;
};

/* Collects the stops of the model at `path`; a file has no generation_config.json beside it and
 * needs none. Ids that are no row of the embedding are left out. Error: a generation_config.json
 * that cannot be read. */
LH_MUST_CHECK int stops_find(struct stops *s, const char *path, const struct model_config *config,
                             const struct tokenizer *t, struct lh_err *reterr);

bool stops_has(const struct stops *s, int32_t id);
