/* tokenizer_export_gguf.c - tokenizer.ggml.* keys from a tokenizer.json with byte-level BPE.
 *
 * GGUF knows pre-tokenizers by name only, so one that cuts in a way without a name is refused. Rows
 * of the embedding without a token become unused ones, since the list must be as long as the
 * embedding.
 */
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "worker/text/tokenizer_export.h"
#include "worker/text/tokenizer_parts.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX (256u << 20)
#define TYPE_NORMAL 1 /* of tokenizer.ggml.token_type */
#define TYPE_CONTROL 3
#define TYPE_USER 4
#define TYPE_UNUSED 5

struct maker {
    const char *dir;
    int64_t vocab;
    json_t *root, *words; /* owned: tokenizer.json, tokenizer_config.json (or NULL) */
    const char **text;    /* owned, vocab: into root; NULL: no token */
    int32_t *type;        /* owned, vocab */
    struct tokenizer *t;  /* owned: the same file, read as we read it */
    struct gguf_writer *w;
};

static int load_beside(const struct maker *m, const char *name, json_t **ret, struct lh_err *reterr)
{
    char path[1400];

    (void)snprintf(path, sizeof(path), "%s/%s", m->dir, name);
    return lh_path_exists(path) ? lh_json_load(path, FILE_MAX, ret, reterr) : 0;
}

static int place(struct maker *m, int64_t id, const char *text, int32_t type, struct lh_err *reterr)
{
    if (id < 0 || id >= m->vocab)
        return lh_err_set(reterr, LH_EINPUT,
                          "token '%.64s' has id %lld, and the embedding %lld rows", text,
                          (long long)id, (long long)m->vocab);
    m->text[id] = text;
    m->type[id] = type;
    return 0;
}

static int place_all(struct maker *m, struct lh_err *reterr)
{
    json_t *vocab = json_object_get(json_object_get(m->root, "model"), "vocab"), *value;
    const char *text;
    size_t i;
    int rc = 0;

    json_object_foreach(vocab, text, value)
    {
        rc = place(m, json_integer_value(value), text, TYPE_NORMAL, reterr);
        if (rc < 0)
            return rc;
    }
    json_array_foreach(json_object_get(m->root, "added_tokens"), i, value)
    {
        rc = place(m, lh_json_i64(value, "id", -1), lh_json_str(value, "content", ""),
                   lh_json_bool(value, "special", 0) ? TYPE_CONTROL : TYPE_USER, reterr);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static void put_tokens(struct maker *m)
{
    gguf_put_array(m->w, "tokenizer.ggml.tokens", GGUF_STRING, (uint64_t)m->vocab);
    for (int64_t id = 0; id < m->vocab; id++) {
        char unused[32];

        (void)snprintf(unused, sizeof(unused), "[PAD%lld]", (long long)id);
        if (!m->text[id])
            m->type[id] = TYPE_UNUSED;
        gguf_add_str(m->w, m->text[id] ? m->text[id] : unused,
                     strlen(m->text[id] ? m->text[id] : unused));
    }
    gguf_put_array(m->w, "tokenizer.ggml.token_type", GGUF_I32, (uint64_t)m->vocab);
    for (int64_t id = 0; id < m->vocab; id++)
        gguf_add_i32(m->w, m->type[id]);
}

/* A merge is "left right" in older files and ["left", "right"] in newer ones. */
static int put_merges(struct maker *m, struct lh_err *reterr)
{
    const json_t *merges = json_object_get(json_object_get(m->root, "model"), "merges");
    char pair[8200];
    size_t i;
    json_t *v;

    gguf_put_array(m->w, "tokenizer.ggml.merges", GGUF_STRING, json_array_size(merges));
    json_array_foreach(merges, i, v)
    {
        const char *left = json_string_value(json_array_get(v, 0));
        const char *right = json_string_value(json_array_get(v, 1));
        int n = json_is_string(v)
                    ? snprintf(pair, sizeof(pair), "%s", json_string_value(v))
                    : snprintf(pair, sizeof(pair), "%s %s", left ? left : "", right ? right : "");

        if (n < 0 || (size_t)n >= sizeof(pair))
            return lh_err_set(reterr, LH_EINPUT, "merge %zu is too long", i);
        gguf_add_str(m->w, pair, (size_t)n);
    }
    return 0;
}

/* The id of the token that a member of tokenizer_config.json names, or -1. */
static int64_t named_id(const struct maker *m, const char *key)
{
    const json_t *name = json_object_get(m->words, key);
    const char *text =
        json_is_object(name) ? lh_json_str(name, "content", NULL) : json_string_value(name);

    for (int64_t id = 0; text && id < m->vocab; id++)
        if (m->text[id] && strcmp(m->text[id], text) == 0)
            return id;
    return -1;
}

static void put_id(struct maker *m, const char *key, int64_t id)
{
    if (id >= 0 && id < m->vocab)
        gguf_put_u32(m->w, key, (uint32_t)id);
}

/* In tokenizer_config.json, one or a list of named ones, or in a file of its own. */
int tokenizer_put_template(const char *dir, const json_t *words, struct gguf_writer *w,
                           struct lh_err *reterr)
{
    const json_t *template = json_object_get(words, "chat_template"), *v;
    const char *text = json_string_value(template);
    char path[1400], *file = NULL;
    size_t i, len;
    int rc = 0;

    json_array_foreach(template, i, v)
    {
        if (!text || strcmp(lh_json_str(v, "name", ""), "default") == 0)
            text = lh_json_str(v, "template", text);
    }
    (void)snprintf(path, sizeof(path), "%s/chat_template.jinja", dir);
    if (lh_path_exists(path)) {
        rc = lh_read_file(path, FILE_MAX, &file, &len, reterr);
        text = file;
    }
    if (rc == 0 && text)
        gguf_put_str(w, "tokenizer.chat_template", text);
    free(file);
    return rc;
}

static int put_all(struct maker *m, struct lh_err *reterr)
{
    const struct tokenizer_pre *pre = tokenizer_pre_of(m->t);
    int rc;

    if (!pre)
        return lh_err_set(reterr, LH_ENOTSUP,
                          "its pre-tokenizer is none that GGUF has a name for (gpt-2, smollm, "
                          "llama-bpe); export as hf");
    rc = place_all(m, reterr);
    if (rc < 0)
        return rc;
    gguf_put_str(m->w, "tokenizer.ggml.model", "gpt2");
    gguf_put_str(m->w, "tokenizer.ggml.pre", pre->name);
    put_tokens(m);
    rc = put_merges(m, reterr);
    if (rc < 0)
        return rc;
    put_id(m, "tokenizer.ggml.bos_token_id", tokenizer_bos(m->t));
    put_id(m, "tokenizer.ggml.eos_token_id", tokenizer_eos(m->t));
    put_id(m, "tokenizer.ggml.unknown_token_id", named_id(m, "unk_token"));
    put_id(m, "tokenizer.ggml.padding_token_id", named_id(m, "pad_token"));
    gguf_put_bool(m->w, "tokenizer.ggml.add_bos_token", tokenizer_adds_bos(m->t));
    return tokenizer_put_template(m->dir, m->words, m->w, reterr);
}

int tokenizer_keys_of_json(const char *dir, int64_t vocab, struct gguf_writer *w,
                           struct lh_err *reterr)
{
    struct maker m = {.dir = dir, .vocab = vocab, .w = w};
    int rc = tokenizer_open(dir, &m.t, reterr);

    if (rc == 0)
        rc = load_beside(&m, "tokenizer.json", &m.root, reterr);
    if (rc == 0)
        rc = load_beside(&m, "tokenizer_config.json", &m.words, reterr);
    m.text = calloc((size_t)vocab, sizeof(*m.text));
    m.type = calloc((size_t)vocab, sizeof(*m.type));
    if (rc == 0 && (!m.text || !m.type))
        rc = lh_err_set(reterr, -ENOMEM, "vocabulary");
    if (rc == 0) {
        rc = put_all(&m, reterr);
        if (rc < 0)
            rc = lh_err_prefix(reterr, rc, "the tokenizer of '%s'", dir);
    }
    free(m.text);
    free(m.type);
    json_decref(m.root);
    json_decref(m.words);
    tokenizer_free(m.t);
    return rc;
}
