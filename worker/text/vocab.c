/* vocab.c - see vocab.h. */
#include "worker/text/vocab.h"
#include "worker/text/utf8.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void vocab_release(struct vocab *v)
{
    free(v->tokens);
    free(v->bytes);
    free(v->slots);
    memset(v, 0, sizeof(*v));
}

static bool printable(uint32_t c)
{
    return (c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255);
}

/* GPT-2's alphabet: printable Latin-1 stands for itself, the other 68 bytes for U+0100 on, in
 * order. */
static int byte_of_letter(uint32_t c)
{
    if (c < 256)
        return printable(c) ? (int)c : -1;
    if (c < 256 + 33)
        return (int)(c - 256);
    if (c < 256 + 33 + 34) /* 127 to 160 */
        return (int)(c - 256 - 33 + 127);
    return c == 256 + 67 ? 173 : -1;
}

int64_t vocab_letters(const char *token, size_t len, char *out)
{
    size_t at = 0;
    int64_t n = 0;

    while (at < len) {
        uint32_t code;
        int byte;

        at += utf8_char(token + at, &code);
        byte = byte_of_letter(code);
        if (byte < 0)
            return -1;
        out[n++] = (char)byte;
    }
    return n;
}

/* Room for the token id and len bytes; bytes is never NULL after it, also for an empty token. */
static int reserve(struct vocab *v, int64_t id, size_t len)
{
    if (id < 0 || id >= VOCAB_MAX || len > VOCAB_BYTES_MAX - v->bytes_len)
        return -E2BIG;
    if (id >= v->tokens_cap) {
        int64_t cap = v->tokens_cap ? v->tokens_cap : 1024;
        struct vocab_token *more;

        while (cap <= id)
            cap *= 2;
        more = realloc(v->tokens, (size_t)cap * sizeof(*more));
        if (!more)
            return -ENOMEM;
        memset(more + v->tokens_cap, 0, (size_t)(cap - v->tokens_cap) * sizeof(*more));
        v->tokens = more;
        v->tokens_cap = cap;
    }
    if (!v->bytes || v->bytes_len + len > v->bytes_cap) {
        size_t cap = v->bytes_cap ? v->bytes_cap : 1 << 16;
        char *more;

        while (cap < v->bytes_len + len)
            cap *= 2;
        more = realloc(v->bytes, cap);
        if (!more)
            return -ENOMEM;
        v->bytes = more;
        v->bytes_cap = cap;
    }
    return 0;
}

/* The token whose n bytes stand behind those that are taken. */
static int take(struct vocab *v, int64_t id, int64_t n, enum token_kind kind)
{
    struct vocab_token *t = &v->tokens[id];

    if (t->kind != TOKEN_NONE)
        return t->len == n && memcmp(vocab_bytes(v, id), v->bytes + v->bytes_len, t->len) == 0
                   ? 0
                   : -EEXIST;
    *t = (struct vocab_token){(uint32_t)v->bytes_len, (uint32_t)n, kind, false};
    v->bytes_len += (size_t)n;
    if (id >= v->n)
        v->n = id + 1;
    return 0;
}

int vocab_put_bytes(struct vocab *v, int64_t id, const char *bytes, size_t len)
{
    int rc = reserve(v, id, len);

    if (rc < 0)
        return rc;
    memcpy(v->bytes + v->bytes_len, bytes, len);
    return take(v, id, (int64_t)len, TOKEN_BYTES);
}

int vocab_put(struct vocab *v, int64_t id, const char *token, size_t len, bool text)
{
    int64_t n = -1;
    int rc = reserve(v, id, len);

    if (rc < 0)
        return rc;
    if (!text)
        n = vocab_letters(token, len, v->bytes + v->bytes_len);
    if (n >= 0)
        return take(v, id, n, TOKEN_BYTES);
    memcpy(v->bytes + v->bytes_len, token, len);
    return take(v, id, (int64_t)len, TOKEN_TEXT);
}

static uint64_t hash(const char *bytes, size_t len)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (size_t i = 0; i < len; i++)
        h = (h ^ (uint8_t)bytes[i]) * 0x100000001b3u;
    return h ^ h >> 29;
}

int vocab_index(struct vocab *v, int64_t *ret_id)
{
    v->n_slots = 1024;
    while (v->n_slots < 2 * (uint64_t)v->n)
        v->n_slots *= 2;
    free(v->slots);
    v->slots = malloc(v->n_slots * sizeof(*v->slots));
    if (!v->slots)
        return -ENOMEM;
    memset(v->slots, 0xff, v->n_slots * sizeof(*v->slots));
    for (int64_t id = 0; id < v->n; id++) {
        const struct vocab_token *t = &v->tokens[id];
        uint64_t at;

        if (t->kind != TOKEN_BYTES)
            continue;
        if (vocab_find(v, vocab_bytes(v, id), t->len) >= 0) {
            *ret_id = id;
            return -EEXIST;
        }
        at = hash(vocab_bytes(v, id), t->len) & (v->n_slots - 1);
        while (v->slots[at] >= 0)
            at = (at + 1) & (v->n_slots - 1);
        v->slots[at] = (int32_t)id;
    }
    return 0;
}

int32_t vocab_find(const struct vocab *v, const char *bytes, size_t len)
{
    uint64_t at = hash(bytes, len) & (v->n_slots - 1);

    for (; v->slots[at] >= 0; at = (at + 1) & (v->n_slots - 1)) {
        const struct vocab_token *t = &v->tokens[v->slots[at]];

        if (t->len == len && memcmp(v->bytes + t->at, bytes, len) == 0)
            return v->slots[at];
    }
    return -1;
}
