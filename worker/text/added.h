/* added.h - tokens that stand beside the vocabulary and are found in text as they are, before
 * anything else.
 *
 * The longest at the leftmost place wins, as in Hugging Face. A special token that is not wanted
 * still uses up its text, which is what `encode_special_tokens` does there.
 */
#pragma once
#include "proto/base/attr.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct added_token {
    char *text; /* owned */
    size_t len; /* > 0 */
    int32_t id;
    bool special, left_strip, right_strip;
};

struct added_set {
    struct added_token *tokens; /* sorted by text once ready */
    unsigned n, cap;
    bool starts[256]; /* bytes that a token begins with */
};

/* Copies the text. 0, -ENOMEM. */
LH_MUST_CHECK int added_put(struct added_set *s, const char *text, size_t len,
                            const struct added_token *like);
/* Sorts. -EEXIST when a text stands twice; *ret_token is one of them. */
LH_MUST_CHECK int added_ready(struct added_set *s, const struct added_token **ret_token);
void added_release(struct added_set *s);

/* The next token in text[from..len) and where it begins, or NULL. */
const struct added_token *added_next(const struct added_set *s, const char *text, size_t from,
                                     size_t len, size_t *ret_at);
