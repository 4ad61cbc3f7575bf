/* tokenizer_pieces.c - SentencePiece tokenizers from a GGUF file, or from tokenizer.model in a
 * directory.
 *
 * A GGUF file holds pieces with scores and nothing else, as llama.cpp reads them: merged here by
 * score. tokenizer.model is read by the SentencePiece library, which also encodes where more than
 * scores decides; the models of Llama are merged here, several times faster.
 */
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "worker/formats/gguf.h"
#include "worker/text/pieces.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODEL_BYTES_MAX (64u << 20) /* ten times the largest published */

static void begin(struct tokenizer *t)
{
    memset(t->byte_tokens, 0xff, sizeof(t->byte_tokens));
    t->pieces = true;
}

/* ---- GGUF ---- */

static const struct gguf_value *array_of(const struct gguf_file *f, const char *key,
                                         enum gguf_type element, uint64_t n)
{
    const struct gguf_value *v = gguf_find(f, key);

    return v && v->type == GGUF_ARRAY && v->element == element && (n == 0 || v->n == n) ? v : NULL;
}

static int put_tokens(struct tokenizer *t, const struct gguf_value *tokens,
                      const struct gguf_value *types, struct lh_err *reterr)
{
    const uint8_t *cursor = NULL;
    int rc = 0;

    for (uint64_t i = 0; i < tokens->n && rc == 0; i++) {
        int64_t type = gguf_array_i64(types, i);
        size_t len;
        const char *piece = gguf_array_str(tokens, &cursor, &len);

        if (type < SP_NORMAL || type > SP_BYTE)
            return lh_err_set(reterr, LH_EINPUT, "token %llu has the unknown type %lld",
                              (unsigned long long)i, (long long)type);
        rc = pieces_put(t, (int64_t)i, piece, len, (enum sp_type)type, reterr);
    }
    return rc;
}

int tokenizer_load_gguf_pieces(struct tokenizer *t, const struct gguf_file *f,
                               struct lh_err *reterr)
{
    const struct gguf_value *tokens = array_of(f, "tokenizer.ggml.tokens", GGUF_STRING, 0);
    const struct gguf_value *prefix = gguf_find(f, "tokenizer.ggml.add_space_prefix");
    const struct gguf_value *scores, *types;
    float *copy;
    int rc;

    if (!tokens || tokens->n == 0 || tokens->n > (uint64_t)VOCAB_MAX)
        return lh_err_set(reterr, LH_EINPUT, "it has no tokenizer.ggml.tokens, or too many");
    scores = array_of(f, "tokenizer.ggml.scores", GGUF_F32, tokens->n);
    types = array_of(f, "tokenizer.ggml.token_type", GGUF_I32, tokens->n);
    if (!scores || !types)
        return lh_err_set(reterr, LH_EINPUT,
                          "tokenizer.ggml.%s is missing or does not fit the %llu tokens",
                          scores ? "token_type" : "scores", (unsigned long long)tokens->n);
    begin(t);
    t->space_prefix = !prefix || prefix->type != GGUF_BOOL || prefix->data[0] != 0;
    tokenizer_feed(t, "space_prefix", &t->space_prefix, sizeof(bool));
    rc = put_tokens(t, tokens, types, reterr);
    if (rc < 0)
        return rc;
    copy = malloc(tokens->n * sizeof(*copy)); /* the file keeps no alignment */
    if (!copy)
        return lh_err_set(reterr, -ENOMEM, "vocabulary");
    memcpy(copy, scores->data, tokens->n * sizeof(*copy));
    rc = pieces_index(t, copy, reterr);
    free(copy);
    return rc;
}

/* ---- tokenizer.model ---- */

static int open_model(struct tokenizer *t, const char *path, struct spm_info *ret_info,
                      struct lh_err *reterr)
{
    char *bytes, why[SPM_WHY_MAX] = "";
    size_t n;
    int rc = lh_read_file(path, MODEL_BYTES_MAX, &bytes, &n, reterr);

    if (rc < 0)
        return rc;
    tokenizer_feed(t, "model", bytes, n);
    rc = spm_open(bytes, n, &t->spm, ret_info, why);
    free(bytes);
    if (rc == -ENOSYS)
        return lh_err_set(reterr, LH_ENOTSUP,
                          "'%s' is a SentencePiece model, and this longhaul was built without that "
                          "library (Debian: libsentencepiece-dev); use a .gguf file of the model, "
                          "or prepare the data elsewhere and use data.format tokens",
                          path);
    if (rc == -EINVAL)
        return lh_err_set(reterr, LH_EINPUT, "'%s' is no SentencePiece model that can be used: %s",
                          path, why);
    return rc < 0 ? lh_err_set(reterr, rc, "open '%s'", path) : 0;
}

static bool is_added(const struct tokenizer *t, int64_t id)
{
    for (unsigned pass = 0; pass < ADDED_PASSES; pass++) {
        for (unsigned i = 0; i < t->added[pass].n; i++) {
            if (t->added[pass].tokens[i].id == id)
                return true;
        }
    }
    return false;
}

/* A token beside the model, as {"content", "special", ...}; the model's control pieces are there.
 */
static int put_beside(struct tokenizer *t, int64_t id, const json_t *token, struct lh_err *reterr)
{
    return is_added(t, id) ? 0 : tokenizer_put_json(t, id, token, reterr);
}

static int put_list(struct tokenizer *t, const json_t *list, struct lh_err *reterr)
{
    size_t i;
    json_t *v;
    int rc = 0;

    json_array_foreach(list, i, v)
    {
        rc = put_beside(t, lh_json_i64(v, "id", -1), v, reterr);
        if (rc < 0)
            break;
    }
    return rc;
}

/* {"32000": {"content": ...}} of tokenizer_config.json, {"<pad>": 32000} of added_tokens.json. */
static int put_map(struct tokenizer *t, const json_t *map, struct lh_err *reterr)
{
    const char *key;
    json_t *v;
    int rc = 0;

    json_object_foreach((json_t *)(uintptr_t)map, key, v)
    {
        if (json_is_integer(v)) {
            LH_CLEANUP(lh_json_decrefp)
            json_t *token = json_pack("{s:s, s:b}", "content", key, "normalized", 0);

            rc = token ? put_beside(t, json_integer_value(v), token, reterr)
                       : lh_err_set(reterr, -ENOMEM, "added tokens");
        } else {
            rc = put_beside(t, strtoll(key, NULL, 10), v, reterr);
        }
        if (rc < 0)
            break;
    }
    return rc;
}

/* Files written with this model say in one of three places what stands beside it. */
static int put_added(struct tokenizer *t, const char *dir, struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *root = NULL;
    LH_CLEANUP(lh_json_decrefp) json_t *words = NULL;
    LH_CLEANUP(lh_json_decrefp) json_t *plain = NULL;
    int rc = tokenizer_load_beside(dir, "tokenizer.json", &root, reterr);

    if (rc == 0)
        rc = tokenizer_load_beside(dir, "tokenizer_config.json", &words, reterr);
    if (rc == 0)
        rc = tokenizer_load_beside(dir, "added_tokens.json", &plain, reterr);
    if (rc == 0)
        rc = put_list(t, json_object_get(root, "added_tokens"), reterr);
    if (rc == 0)
        rc = put_map(t, json_object_get(words, "added_tokens_decoder"), reterr);
    return rc < 0 ? rc : put_map(t, plain, reterr);
}

/* Merges by the model's scores; the model has done its work then. */
static int index_scores(struct tokenizer *t, int64_t n_pieces, struct lh_err *reterr)
{
    float *scores = calloc((size_t)t->vocab.n, sizeof(*scores)); /* tokens beside it have none */
    int rc;

    if (!scores)
        return lh_err_set(reterr, -ENOMEM, "vocabulary");
    for (int64_t id = 0; id < n_pieces; id++)
        scores[id] = spm_score(t->spm, id);
    rc = pieces_index(t, scores, reterr);
    free(scores);
    spm_free(t->spm);
    t->spm = NULL;
    return rc;
}

int tokenizer_load_spm(struct tokenizer *t, const char *dir, struct lh_err *reterr)
{
    struct spm_info info;
    char path[4096];
    int rc;

    (void)snprintf(path, sizeof(path), "%s/tokenizer.model", dir);
    begin(t);
    rc = open_model(t, path, &info, reterr);
    if (rc < 0)
        return rc;
    t->space_prefix = info.space_prefix;
    for (int64_t id = 0; id < info.n_pieces && rc == 0; id++) {
        enum sp_type type;
        size_t len;
        const char *piece = spm_piece(t->spm, id, &len, &type);

        rc = pieces_put(t, id, piece, len, type, reterr);
    }
    if (rc < 0)
        return lh_err_prefix(reterr, rc, "'%s'", path);
    rc = put_added(t, dir, reterr);
    if (rc == 0)
        rc = info.merges ? index_scores(t, info.n_pieces, reterr) : pieces_index(t, NULL, reterr);
    if (rc < 0)
        return lh_err_prefix(reterr, rc, "'%s'", dir);
    t->cuts_words = t->cuts_words && info.as_it_is;
    t->bos = info.bos;
    t->eos = info.eos;
    t->adds_bos = true;
    return 0;
}
