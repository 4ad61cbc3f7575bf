/* tokenizer_build.h - small byte-level vocabularies for tests, written as GGUF and as
 * tokenizer.json. */
#pragma once
#include "tests/unit/gguf_build.h"

#define TB_MAX 600

struct token_build {
    char tokens[TB_MAX][32], merges[TB_MAX][64];
    int32_t types[TB_MAX]; /* 1 normal, 3 control, 4 user-defined */
    unsigned n_tokens, n_merges;
};

/* out = a + between + b, which must fit. */
static inline LH_UNUSED void tb_join(char *out, size_t cap, const char *a, const char *between,
                                     const char *b)
{
    size_t x = strlen(a), y = strlen(between), z = strlen(b);

    assert_true(x + y + z < cap);
    memmove(out, a, x);
    memmove(out + x, between, y);
    memmove(out + x + y, b, z + 1);
}

/* The letter of a byte, as GPT-2 writes it, into at most two bytes and a 0. */
static inline LH_UNUSED const char *tb_letter(unsigned byte, char out[3])
{
    unsigned code = byte, others = 0;

    for (unsigned b = 0; b <= byte; b++) {
        bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;

        if (b == byte)
            code = printable ? b : 256 + others;
        others += !printable;
    }
    memset(out, 0, 3);
    if (code < 128) {
        out[0] = (char)code;
    } else {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 63));
    }
    return out;
}

static inline LH_UNUSED unsigned tb_add(struct token_build *t, const char *token, int32_t type)
{
    assert_true(t->n_tokens < TB_MAX);
    tb_join(t->tokens[t->n_tokens], sizeof(t->tokens[0]), token, "", "");
    t->types[t->n_tokens] = type;
    return t->n_tokens++;
}

/* All 256 bytes but those of `missing`, in order: ids 0 up. */
static inline LH_UNUSED void tb_bytes(struct token_build *t, const char *missing)
{
    char letter[3];

    for (unsigned b = 0; b < 256; b++) {
        if (b == 0 || !strchr(missing, (int)b))
            tb_add(t, tb_letter(b, letter), 1);
    }
}

/* The merge of two tokens in letters, and the token it makes; returns its id. */
static inline LH_UNUSED unsigned tb_merge(struct token_build *t, const char *left,
                                          const char *right)
{
    char both[64];

    tb_join(t->merges[t->n_merges++], sizeof(t->merges[0]), left, " ", right);
    tb_join(both, sizeof(both), left, "", right);
    return tb_add(t, both, 1);
}

static inline LH_UNUSED void tb_gguf_keys(struct gguf_build *g, const struct token_build *t,
                                          const char *pre)
{
    const char *list[TB_MAX];

    gb_str(g, "tokenizer.ggml.model", "gpt2");
    gb_str(g, "tokenizer.ggml.pre", pre);
    for (unsigned i = 0; i < t->n_tokens; i++)
        list[i] = t->tokens[i];
    gb_strings(g, "tokenizer.ggml.tokens", list, t->n_tokens);
    gb_i32s(g, "tokenizer.ggml.token_type", t->types, t->n_tokens);
    for (unsigned i = 0; i < t->n_merges; i++)
        list[i] = t->merges[i];
    gb_strings(g, "tokenizer.ggml.merges", list, t->n_merges);
}

static inline LH_UNUSED void tb_save_gguf(const struct token_build *t, const char *pre,
                                          const char *path)
{
    struct gguf_build g = {0};
    struct bytes b;

    tb_gguf_keys(&g, t, pre);
    b = gb_finish(&g);
    put_bytes(path, b.at, b.n);
    free(b.at);
}

/* The same as tokenizer.json; pre: its pre_tokenizer as text with ' for ". New reference. */
static inline LH_UNUSED json_t *tb_json(const struct token_build *t, const char *pre)
{
    json_t *vocab = json_object(), *merges = json_array(), *added = json_array();

    for (unsigned i = 0; i < t->n_tokens; i++) {
        json_object_set_new(vocab, t->tokens[i], json_integer(i));
        if (t->types[i] != 1)
            json_array_append_new(added, json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", i,
                                                   "content", t->tokens[i], "single_word", 0,
                                                   "lstrip", 0, "rstrip", 0, "normalized", 0,
                                                   "special", t->types[i] == 3));
    }
    for (unsigned i = 0; i < t->n_merges; i++)
        json_array_append_new(merges, json_string(t->merges[i]));
    return json_pack("{s:s, s:n, s:o, s:o, s:{s:s, s:n, s:n, s:b, s:b, s:o, s:o}}", "version",
                     "1.0", "normalizer", "pre_tokenizer", json_of(pre), "added_tokens", added,
                     "model", "type", "BPE", "dropout", "unk_token", "byte_fallback", 0,
                     "ignore_merges", 0, "vocab", vocab, "merges", merges);
}
