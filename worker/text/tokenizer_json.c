/* tokenizer_json.c - a tokenizer from tokenizer.json, with the special ids that the files beside it
 * name. */
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "worker/text/tokenizer_parts.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define TOKENIZER_BYTES_MAX (256u << 20) /* ten times the largest published */
#define CONFIG_BYTES_MAX (64u << 20)     /* tokenizer_config.json repeats the added tokens */

static int check_kind(const json_t *root, const json_t *model, struct lh_err *reterr)
{
    static const char *const empty[] = {"dropout", "continuing_subword_prefix",
                                        "end_of_word_suffix"};
    const json_t *normalizer = json_object_get(root, "normalizer");
    const char *type = lh_json_str(model, "type", "BPE"); /* old files leave it out */

    if (!json_is_object(model) || strcmp(type, "BPE") != 0)
        return lh_err_set(reterr, LH_EINPUT, "its model is '%.32s'; byte-level BPE is supported",
                          type);
    if (normalizer && !json_is_null(normalizer) &&
        json_array_size(json_object_get(normalizer, "normalizers")) +
                !json_object_get(normalizer, "normalizers") >
            0)
        return lh_err_set(reterr, LH_EINPUT, "its normalizer '%.32s' is not supported",
                          lh_json_str(normalizer, "type", "?"));
    for (unsigned i = 0; i < LH_ARRAY_LEN(empty); i++) {
        const json_t *v = json_object_get(model, empty[i]);

        if (v && !json_is_null(v) && !(json_is_string(v) && json_string_length(v) == 0) &&
            !(json_is_number(v) && json_number_value(v) == 0))
            return lh_err_set(reterr, LH_EINPUT, "its model sets '%s', which is not supported",
                              empty[i]);
    }
    if (lh_json_bool(model, "byte_fallback", 0))
        return lh_err_set(reterr, LH_EINPUT,
                          "its model sets byte_fallback, as SentencePiece does; byte-level BPE is "
                          "supported");
    return 0;
}

static int add_vocab(struct tokenizer *t, const json_t *model, struct lh_err *reterr)
{
    json_t *vocab = json_object_get(model, "vocab"), *id;
    const char *token;
    int rc = 0;

    if (!json_is_object(vocab) || json_object_size(vocab) == 0)
        return lh_err_set(reterr, LH_EINPUT, "its model has no vocab");
    json_object_foreach(vocab, token, id)
    {
        if (!json_is_integer(id))
            rc = lh_err_set(reterr, LH_EINPUT, "the id of token '%.64s' is not a whole number",
                            token);
        else
            rc = tokenizer_put(t, json_integer_value(id), token, strlen(token), false, reterr);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int add_added(struct tokenizer *t, const json_t *root, struct lh_err *reterr)
{
    const json_t *list = json_object_get(root, "added_tokens");
    size_t i;
    json_t *v;

    json_array_foreach(list, i, v)
    {
        const char *text = lh_json_str(v, "content", "");
        int64_t id = lh_json_i64(v, "id", -1);
        struct added_token like = {
            .special = lh_json_bool(v, "special", 0) != 0,
            .left_strip = lh_json_bool(v, "lstrip", 0) != 0,
            .right_strip = lh_json_bool(v, "rstrip", 0) != 0,
        };
        int rc;

        if (id < 0 || id >= VOCAB_MAX)
            return lh_err_set(reterr, LH_EINPUT, "added token %zu has no valid id", i);
        if (lh_json_bool(v, "single_word", 0))
            return lh_err_set(reterr, LH_EINPUT,
                              "added token '%.64s' is single_word, which is not supported", text);
        like.id = (int32_t)id;
        rc = tokenizer_put_added(t, lh_json_bool(v, "normalized", !like.special) ? 1 : 0, text,
                                 strlen(text), &like, reterr);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int add_merge(struct tokenizer *t, const json_t *merge, size_t i, struct lh_err *reterr)
{
    const char *left = json_string_value(merge), *right = left ? strchr(left, ' ') : NULL;

    if (right)
        return tokenizer_merge(t, left, (size_t)(right - left), right + 1, strlen(right + 1),
                               reterr);
    left = json_string_value(json_array_get(merge, 0));
    right = json_string_value(json_array_get(merge, 1));
    if (!left || !right || json_array_size(merge) != 2)
        return lh_err_set(reterr, LH_EINPUT, "merge %zu is not two tokens", i);
    return tokenizer_merge(t, left, strlen(left), right, strlen(right), reterr);
}

static int add_merges(struct tokenizer *t, const json_t *model, struct lh_err *reterr)
{
    const json_t *merges = json_object_get(model, "merges");
    const char *unknown = lh_json_str(model, "unk_token", NULL);
    size_t i;
    json_t *v;
    int rc;

    if (!json_is_array(merges))
        return lh_err_set(reterr, LH_EINPUT, "its model has no merges");
    t->whole_words = lh_json_bool(model, "ignore_merges", 0) != 0;
    rc = tokenizer_index(t, json_array_size(merges), reterr);
    if (rc < 0)
        return rc;
    if (unknown) {
        json_t *id = json_object_get(json_object_get(model, "vocab"), unknown);

        if (!json_is_integer(id) || lh_json_bool(model, "fuse_unk", 0))
            return lh_err_set(reterr, LH_EINPUT,
                              "its unk_token '%.64s' has no id, or fuse_unk is set; neither is "
                              "supported",
                              unknown);
        t->bpe.unknown = (int32_t)json_integer_value(id);
        tokenizer_feed(t, "unknown", unknown, strlen(unknown));
    }
    json_array_foreach(merges, i, v)
    {
        rc = add_merge(t, v, i, reterr);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int load(struct tokenizer *t, const json_t *root, struct lh_err *reterr)
{
    const json_t *model = json_object_get(root, "model");
    int rc = check_kind(root, model, reterr);

    if (rc == 0)
        rc = tokenizer_json_pre(t, json_object_get(root, "pre_tokenizer"), reterr);
    if (rc == 0)
        rc = add_vocab(t, model, reterr);
    if (rc == 0)
        rc = add_added(t, root, reterr);
    return rc < 0 ? rc : add_merges(t, model, reterr);
}

/* The id of a token named as a string or {"content": ...}, or -1. */
static int64_t named_id(const struct tokenizer *t, const json_t *name)
{
    const char *text =
        json_is_object(name) ? lh_json_str(name, "content", NULL) : json_string_value(name);

    for (unsigned pass = 0; text && pass < ADDED_PASSES; pass++) {
        for (unsigned i = 0; i < t->added[pass].n; i++) {
            if (strcmp(t->added[pass].tokens[i].text, text) == 0)
                return t->added[pass].tokens[i].id;
        }
    }
    return -1;
}

static int64_t numbered_id(const struct tokenizer *t, const json_t *id)
{
    if (json_is_array(id))
        id = json_array_get(id, 0);
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= t->vocab.n)
        return -1;
    return json_integer_value(id);
}

/* Reads NAME in dir when it is there; *ret is NULL when not. */
static int load_beside(const char *dir, const char *name, json_t **ret, struct lh_err *reterr)
{
    char path[4096];

    *ret = NULL;
    if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
        return lh_err_set(reterr, -ENAMETOOLONG, "open the tokenizer of '%s'", dir);
    return lh_path_exists(path) ? lh_json_load(path, CONFIG_BYTES_MAX, ret, reterr) : 0;
}

/* A post-processor that begins a text with bos, alone or in a Sequence. */
static bool puts_first(const json_t *post, const char *bos)
{
    const json_t *list = json_object_get(post, "processors"), *first;
    size_t i;
    json_t *v;

    if (!json_is_array(list)) {
        first = json_array_get(json_object_get(post, "single"), 0);
        return strcmp(lh_json_str(json_object_get(first, "SpecialToken"), "id", ""), bos) == 0;
    }
    json_array_foreach(list, i, v)
    {
        first = json_array_get(json_object_get(v, "single"), 0);
        if (strcmp(lh_json_str(json_object_get(first, "SpecialToken"), "id", ""), bos) == 0)
            return true;
    }
    return false;
}

static bool adds_bos(const struct tokenizer *t, const json_t *root)
{
    for (unsigned pass = 0; pass < ADDED_PASSES; pass++)
        for (unsigned i = 0; i < t->added[pass].n; i++)
            if (t->added[pass].tokens[i].id == t->bos)
                return puts_first(json_object_get(root, "post_processor"),
                                  t->added[pass].tokens[i].text);
    return false;
}

static int find_ends(struct tokenizer *t, const char *dir, struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *words = NULL;
    LH_CLEANUP(lh_json_decrefp) json_t *config = NULL;
    int rc = load_beside(dir, "tokenizer_config.json", &words, reterr);

    if (rc == 0)
        rc = load_beside(dir, "config.json", &config, reterr);
    if (rc < 0)
        return rc;
    t->bos = named_id(t, json_object_get(words, "bos_token"));
    t->eos = named_id(t, json_object_get(words, "eos_token"));
    if (t->bos < 0)
        t->bos = numbered_id(t, json_object_get(config, "bos_token_id"));
    if (t->eos < 0)
        t->eos = numbered_id(t, json_object_get(config, "eos_token_id"));
    return 0;
}

int tokenizer_load_json(struct tokenizer *t, const char *dir, struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *root = NULL;
    char path[4096];
    int rc;

    if (snprintf(path, sizeof(path), "%s/tokenizer.json", dir) >= (int)sizeof(path))
        return lh_err_set(reterr, -ENAMETOOLONG, "open the tokenizer of '%s'", dir);
    if (!lh_path_exists(path))
        return lh_err_set(
            reterr, LH_EINPUT,
            "'%s' has no tokenizer.json; give a model directory that has one, or use data.format "
            "tokens",
            dir);
    rc = lh_json_load(path, TOKENIZER_BYTES_MAX, &root, reterr);
    if (rc < 0)
        return rc;
    rc = load(t, root, reterr);
    if (rc < 0)
        return lh_err_prefix(reterr, rc, "'%s'", path);
    rc = find_ends(t, dir, reterr);
    if (rc == 0)
        t->adds_bos = adds_bos(t, root);
    return rc;
}
