/* tokenizer_json.c - a tokenizer from tokenizer.json, with the special ids that the files beside it
 * name. */
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "worker/text/tokenizer_parts.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define TOKENIZER_BYTES_MAX (256u << 20) /* ten times the largest published */

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
                          "its model sets byte_fallback, as SentencePiece does; put the "
                          "tokenizer.model of the same model beside it");
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

int tokenizer_put_json(struct tokenizer *t, int64_t id, const json_t *token, struct lh_err *reterr)
{
    const char *text = lh_json_str(token, "content", "");
    struct added_token like = {
        .special = lh_json_bool(token, "special", 0) != 0,
        .left_strip = lh_json_bool(token, "lstrip", 0) != 0,
        .right_strip = lh_json_bool(token, "rstrip", 0) != 0,
    };

    if (id < 0 || id >= VOCAB_MAX)
        return lh_err_set(reterr, LH_EINPUT, "the added token '%.64s' has no valid id", text);
    if (lh_json_bool(token, "single_word", 0))
        return lh_err_set(reterr, LH_EINPUT,
                          "added token '%.64s' is single_word, which is not supported", text);
    like.id = (int32_t)id;
    return tokenizer_put_added(t, lh_json_bool(token, "normalized", !like.special) ? 1 : 0, text,
                               strlen(text), &like, reterr);
}

static int add_added(struct tokenizer *t, const json_t *root, struct lh_err *reterr)
{
    const json_t *list = json_object_get(root, "added_tokens");
    size_t i;
    json_t *v;
    int rc;

    json_array_foreach(list, i, v)
    {
        rc = tokenizer_put_json(t, lh_json_i64(v, "id", -1), v, reterr);
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

int tokenizer_load_beside(const char *dir, const char *name, json_t **ret, struct lh_err *reterr)
{
    char path[4096];

    *ret = NULL;
    if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
        return lh_err_set(reterr, -ENAMETOOLONG, "open the tokenizer of '%s'", dir);
    return lh_path_exists(path) ? lh_json_load(path, TOKENIZER_BYTES_MAX, ret, reterr) : 0;
}

/* The first that is known; neither: what the model itself says stays. */
static void take_id(int64_t *id, int64_t named, int64_t numbered)
{
    *id = named >= 0 ? named : *id >= 0 ? *id : numbered;
}

/* The post-processor puts a special token before a text. */
static bool begins_with_token(const json_t *processor)
{
    const json_t *list = json_object_get(processor, "processors");
    const json_t *first = json_array_get(json_object_get(processor, "single"), 0);
    size_t i;
    json_t *v;

    json_array_foreach(list, i, v)
    {
        if (json_object_get(json_array_get(json_object_get(v, "single"), 0), "SpecialToken"))
            return true;
    }
    return json_object_get(first, "SpecialToken") != NULL;
}

static int find_ends(struct tokenizer *t, const char *dir, const json_t *root,
                     struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *words = NULL;
    LH_CLEANUP(lh_json_decrefp) json_t *config = NULL;
    int rc = tokenizer_load_beside(dir, "tokenizer_config.json", &words, reterr);

    if (rc == 0)
        rc = tokenizer_load_beside(dir, "config.json", &config, reterr);
    if (rc < 0)
        return rc;
    take_id(&t->bos, named_id(t, json_object_get(words, "bos_token")),
            numbered_id(t, json_object_get(config, "bos_token_id")));
    take_id(&t->eos, named_id(t, json_object_get(words, "eos_token")),
            numbered_id(t, json_object_get(config, "eos_token_id")));
    t->adds_bos = lh_json_bool(words, "add_bos_token",
                               t->adds_bos ||
                                   begins_with_token(json_object_get(root, "post_processor"))) != 0;
    return 0;
}

/* Written out of a SentencePiece model: that is what is read then. */
static bool is_sentencepiece(const json_t *root)
{
    const json_t *model = json_object_get(root, "model");

    return lh_json_bool(model, "byte_fallback", 0) ||
           strcmp(lh_json_str(model, "type", ""), "Unigram") == 0;
}

static int load_directory(struct tokenizer *t, const char *dir, const json_t *root,
                          struct lh_err *reterr)
{
    char path[4096], model[4096];
    int rc;

    (void)snprintf(path, sizeof(path), "%s/tokenizer.json", dir);
    (void)snprintf(model, sizeof(model), "%s/tokenizer.model", dir);
    if (lh_path_exists(model) && (!root || is_sentencepiece(root)))
        return tokenizer_load_spm(t, dir, reterr);
    if (!root)
        return lh_err_set(reterr, LH_EINPUT,
                          "'%s' has neither tokenizer.json nor tokenizer.model; give a model "
                          "directory that has one, or use data.format tokens",
                          dir);
    rc = load(t, root, reterr);
    return rc < 0 ? lh_err_prefix(reterr, rc, "'%s'", path) : 0;
}

int tokenizer_load_json(struct tokenizer *t, const char *dir, struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *root = NULL;
    int rc = strlen(dir) < 4000 ? 0 : lh_err_set(reterr, -ENAMETOOLONG, "open '%.200s'", dir);

    if (rc == 0)
        rc = tokenizer_load_beside(dir, "tokenizer.json", &root, reterr);
    if (rc == 0)
        rc = load_directory(t, dir, root, reterr);
    return rc < 0 ? rc : find_ends(t, dir, root, reterr);
}
