/* tokenizer_export_json.c - tokenizer.json and the files beside it from a GGUF's byte-level
 * vocabulary.
 *
 * Merges are written as "left right", which every version of the tokenizers library reads (no
 * byte-level token holds a space).
 */
#include "proto/base/json.h"
#include "worker/text/tokenizer_export.h"
#include "worker/text/tokenizer_parts.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TYPE_CONTROL 3 /* of tokenizer.ggml.token_type */
#define TYPE_USER 4
#define TYPE_UNUSED 5

struct maker {
    const struct gguf_file *f;
    const struct gguf_value *tokens, *types, *merges;
    const struct tokenizer_pre *pre;
    json_t *vocab, *added; /* owned */
};

static const struct gguf_value *strings(const struct gguf_file *f, const char *key)
{
    const struct gguf_value *v = gguf_find(f, key);

    return v && v->type == GGUF_ARRAY && v->element == GGUF_STRING ? v : NULL;
}

static int64_t type_at(const struct maker *m, uint64_t i)
{
    return m->types ? gguf_array_i64(m->types, i) : 1;
}

static int add_tokens(struct maker *m, struct lh_err *reterr)
{
    const uint8_t *cursor = NULL;

    m->vocab = json_object();
    m->added = json_array();
    if (!m->vocab || !m->added)
        return lh_err_set(reterr, -ENOMEM, "vocabulary");
    for (uint64_t i = 0; i < m->tokens->n; i++) {
        int64_t type = type_at(m, i);
        size_t len;
        const char *text = gguf_array_str(m->tokens, &cursor, &len);
        json_t *name;
        int rc = 0;

        if (type == TYPE_UNUSED)
            continue;
        name = json_stringn(text, len);
        if (!name || json_object_get(m->vocab, json_string_value(name)))
            rc = lh_err_set(reterr, LH_EINPUT, "token %llu is no text, or stands twice",
                            (unsigned long long)i);
        else if (json_object_set_new(m->vocab, json_string_value(name),
                                     json_integer((json_int_t)i)) < 0)
            rc = lh_err_set(reterr, -ENOMEM, "vocabulary");
        if (rc == 0 && (type == TYPE_CONTROL || type == TYPE_USER) && len > 0)
            (void)json_array_append_new(m->added, json_pack("{s:I, s:O, s:b, s:b, s:b, s:b, s:b}",
                                                            "id", (json_int_t)i, "content", name,
                                                            "single_word", 0, "lstrip", 0, "rstrip",
                                                            0, "normalized", type == TYPE_USER,
                                                            "special", type == TYPE_CONTROL));
        json_decref(name);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static json_t *merges_json(const struct maker *m)
{
    json_t *list = json_array();
    const uint8_t *cursor = NULL;

    for (uint64_t i = 0; i < m->merges->n; i++) {
        size_t len;
        const char *text = gguf_array_str(m->merges, &cursor, &len);

        (void)json_array_append_new(list, json_stringn(text, len));
    }
    return list;
}

static json_t *pre_json(const struct tokenizer_pre *pre)
{
    bool own = strcmp(pre->pattern, PRETOK_GPT2) != 0;
    json_t *last = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                             "trim_offsets", 1, "use_regex", !own);
    json_t *list;

    if (!pre->digits && !own)
        return last;
    list = json_array();
    if (pre->digits)
        (void)json_array_append_new(
            list, json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", 1));
    if (own)
        (void)json_array_append_new(list, json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split",
                                                    "pattern", "Regex", pre->pattern, "behavior",
                                                    "Isolated", "invert", 0));
    (void)json_array_append_new(list, last);
    return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list);
}

/* The text of the token that a key names (a new JSON string), or NULL. */
static json_t *named(const struct gguf_file *f, const char *key)
{
    const struct gguf_value *tokens = strings(f, "tokenizer.ggml.tokens");
    const uint8_t *cursor = NULL;
    const char *text = NULL;
    size_t len = 0;
    int64_t id = -1;

    if (!tokens || gguf_i64(f, key, &id, NULL) != 1 || id < 0 || (uint64_t)id >= tokens->n)
        return NULL;
    for (int64_t i = 0; i <= id; i++)
        text = gguf_array_str(tokens, &cursor, &len);
    return json_stringn(text, len);
}

static bool adds_bos(const struct maker *m)
{
    const struct gguf_value *v = gguf_find(m->f, "tokenizer.ggml.add_bos_token");

    return v && v->type == GGUF_BOOL ? v->data[0] != 0 : m->pre->whole_words;
}

/* Puts bos before a text, as a published tokenizer.json of Llama 3 does. */
static json_t *post_json(const struct maker *m)
{
    LH_CLEANUP(lh_json_decrefp) json_t *name = named(m->f, "tokenizer.ggml.bos_token_id");
    const char *bos = json_string_value(name);

    if (!bos || !json_object_get(m->vocab, bos) || !adds_bos(m))
        return json_null();
    return json_pack("{s:s, s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}],"
                     " s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}, {s:{s:s, s:i}}, {s:{s:s, s:i}}],"
                     " s:{s:{s:s, s:[O], s:[s]}}}",
                     "type", "TemplateProcessing", "single", "SpecialToken", "id", bos, "type_id",
                     0, "Sequence", "id", "A", "type_id", 0, "pair", "SpecialToken", "id", bos,
                     "type_id", 0, "Sequence", "id", "A", "type_id", 0, "SpecialToken", "id", bos,
                     "type_id", 1, "Sequence", "id", "B", "type_id", 1, "special_tokens", bos, "id",
                     bos, "ids", json_object_get(m->vocab, bos), "tokens", bos);
}

static json_t *tokenizer_json(const struct maker *m)
{
    return json_pack("{s:s, s:n, s:n, s:O, s:n, s:o, s:o,"
                     " s:{s:s, s:b, s:b, s:b},"
                     " s:{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:O, s:o}}",
                     "version", "1.0", "truncation", "padding", "added_tokens", m->added,
                     "normalizer", "pre_tokenizer", pre_json(m->pre), "post_processor",
                     post_json(m), "decoder", "type", "ByteLevel", "add_prefix_space", 1,
                     "trim_offsets", 1, "use_regex", 1, "model", "type", "BPE", "dropout",
                     "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0,
                     "byte_fallback", 0, "ignore_merges", m->pre->whole_words, "vocab", m->vocab,
                     "merges", merges_json(m));
}

static json_t *words_json(const struct gguf_file *f)
{
    static const char *const keys[][2] = {
        {"bos_token", "tokenizer.ggml.bos_token_id"},
        {"eos_token", "tokenizer.ggml.eos_token_id"},
        {"unk_token", "tokenizer.ggml.unknown_token_id"},
        {"pad_token", "tokenizer.ggml.padding_token_id"},
    };
    json_t *words = json_object();

    for (unsigned i = 0; i < LH_ARRAY_LEN(keys); i++) {
        json_t *text = named(f, keys[i][1]);

        if (text)
            (void)json_object_set_new(words, keys[i][0], text);
    }
    return words;
}

static int save(const char *dir, const char *name, json_t *value, struct lh_err *reterr)
{
    char path[1400];
    int rc;

    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    rc = value ? lh_json_save(path, value, reterr) : lh_err_set(reterr, -ENOMEM, "'%s'", path);
    json_decref(value);
    return rc;
}

int tokenizer_config_of_gguf(const struct gguf_file *f, const char *dir, json_t *config,
                             int64_t max_positions, struct lh_err *reterr)
{
    const struct gguf_value *template = gguf_find(f, "tokenizer.chat_template");
    LH_CLEANUP(lh_json_decrefp) json_t *words = words_json(f);
    int rc;

    (void)json_object_update(config, words);
    (void)json_object_set_new(config, "model_max_length", json_integer(max_positions));
    (void)json_object_set_new(config, "clean_up_tokenization_spaces", json_false());
    if (template && template->type == GGUF_STRING)
        (void)json_object_set_new(config, "chat_template",
                                  json_stringn((const char *)template->data, template->n));
    rc = save(dir, "tokenizer_config.json", config, reterr);
    return rc < 0 ? rc : save(dir, "special_tokens_map.json", json_incref(words), reterr);
}

int tokenizer_json_of_gguf(const struct gguf_file *f, const char *dir, int64_t max_positions,
                           struct lh_err *reterr)
{
    struct maker m = {.f = f,
                      .tokens = strings(f, "tokenizer.ggml.tokens"),
                      .types = gguf_find(f, "tokenizer.ggml.token_type"),
                      .merges = strings(f, "tokenizer.ggml.merges")};
    char pre[64] = "";
    int rc = gguf_str(f, "tokenizer.ggml.pre", pre, sizeof(pre), reterr);

    if (rc < 0)
        return rc;
    m.pre = tokenizer_pre_named(pre);
    if (!m.pre)
        return lh_err_set(reterr, LH_ENOTSUP,
                          "its pre-tokenizer '%s' is none of gpt-2, smollm, llama-bpe, so no "
                          "tokenizer.json can be written; export as gguf",
                          pre);
    if (!m.tokens || !m.merges ||
        (m.types && (m.types->type != GGUF_ARRAY || m.types->n != m.tokens->n ||
                     m.types->element == GGUF_STRING)))
        return lh_err_set(reterr, LH_EINPUT, "its tokenizer keys do not fit each other");
    rc = add_tokens(&m, reterr);
    if (rc == 0)
        rc = save(dir, "tokenizer.json", tokenizer_json(&m), reterr);
    if (rc == 0)
        rc = tokenizer_config_of_gguf(
            f, dir, json_pack("{s:s}", "tokenizer_class", "PreTrainedTokenizerFast"), max_positions,
            reterr);
    json_decref(m.vocab);
    json_decref(m.added);
    return rc;
}
