/* vocab.h - the tokens of a vocabulary as bytes, and the way from bytes to ids.
 *
 * Byte-level vocabularies write each byte as a letter (space is U+0120, and so on); here tokens are
 * the bytes themselves. A token with a letter outside that alphabet, or one added beside the
 * vocabulary, is text: it decodes to itself and is never found by its bytes.
 */
#pragma once
#include "proto/base/attr.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VOCAB_MAX ((int64_t)1 << 24)      /* ids; a hundred times the largest vocabulary */
#define VOCAB_BYTES_MAX ((size_t)1 << 30) /* of all tokens */

enum token_kind { TOKEN_NONE, TOKEN_BYTES, TOKEN_TEXT };

struct vocab_token {
    uint32_t at, len;
    enum token_kind kind;
    bool special;
};

struct vocab {
    struct vocab_token *tokens;
    int64_t n, tokens_cap; /* n: largest id + 1 */
    char *bytes;
    size_t bytes_len, bytes_cap;
    int32_t *slots; /* open addressing over TOKEN_BYTES; -1 empty */
    uint64_t n_slots;
};

void vocab_release(struct vocab *v);

/* Gives id its token, written in letters (converted here) or, with text true, as it is. Returns 0,
 * -ENOMEM, -EEXIST (the id has another token), -E2BIG (id or bytes beyond the limits). An equal
 * token is fine. */
LH_MUST_CHECK int vocab_put(struct vocab *v, int64_t id, const char *token, size_t len, bool text);

/* The same with the bytes that the token stands for. */
LH_MUST_CHECK int vocab_put_bytes(struct vocab *v, int64_t id, const char *bytes, size_t len);

/* Once all are in: makes vocab_find work. -EEXIST when two ids have the same bytes, the second in
 * *ret_id. */
LH_MUST_CHECK int vocab_index(struct vocab *v, int64_t *ret_id);
int32_t vocab_find(const struct vocab *v, const char *bytes, size_t len); /* -1: none */

/* Letters to bytes into out (len is enough); the number of bytes, or -1 for a letter outside the
 * alphabet. */
int64_t vocab_letters(const char *token, size_t len, char *out);

static inline const char *vocab_bytes(const struct vocab *v, int64_t id)
{
    return v->bytes + v->tokens[id].at;
}
