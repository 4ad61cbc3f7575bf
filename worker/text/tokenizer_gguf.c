/* tokenizer_gguf.c - a tokenizer from a GGUF file's tokenizer.ggml.* keys.
 *
 * The pre-tokenizer is known by its name only; each name here stands for the patterns that Hugging
 * Face's tokenizer.json of the same models has.
 */
#include "worker/formats/gguf.h"
#include "worker/text/tokenizer_parts.h"
#include <string.h>

#define TYPE_CONTROL 3 /* of tokenizer.ggml.token_type */
#define TYPE_USER 4
#define TYPE_UNUSED 5

static const struct tokenizer_pre pres[] = {
    {"gpt-2", false, PRETOK_GPT2, false},   {"gpt2", false, PRETOK_GPT2, false},
    {"smollm", true, PRETOK_GPT2, false},   {"llama-bpe", false, PRETOK_LLAMA3, true},
    {"llama3", false, PRETOK_LLAMA3, true}, {"llama-v3", false, PRETOK_LLAMA3, true},
};

const struct tokenizer_pre *tokenizer_pre_named(const char *name)
{
    for (unsigned i = 0; i < LH_ARRAY_LEN(pres); i++)
        if (strcmp(name, pres[i].name) == 0)
            return &pres[i];
    return NULL;
}

static int add_steps(struct tokenizer *t, const struct tokenizer_pre *pre, struct lh_err *reterr)
{
    int rc = pre->digits ? tokenizer_step(t, "\\p{N}", false, true, true, reterr) : 0;

    t->whole_words = pre->whole_words;
    return rc < 0 ? rc : tokenizer_step(t, pre->pattern, false, true, true, reterr);
}

const struct tokenizer_pre *tokenizer_pre_of(const struct tokenizer *t)
{
    for (unsigned i = 0; i < LH_ARRAY_LEN(pres); i++) {
        struct tokenizer like = {0};
        char unused[LH_SHA256_HEX];
        bool same;

        if (lh_sha256_init(&like.hash) < 0)
            return NULL;
        same = add_steps(&like, &pres[i], NULL) == 0 && like.steps_hash == t->steps_hash &&
               like.whole_words == t->whole_words;
        lh_sha256_final(&like.hash, unused);
        pretok_release(&like.pretok);
        if (same)
            return &pres[i];
    }
    return NULL;
}

static int add_pre(struct tokenizer *t, const char *name, struct lh_err *reterr)
{
    const struct tokenizer_pre *pre = tokenizer_pre_named(name);

    if (pre)
        return add_steps(t, pre, reterr);
    return lh_err_set(
        reterr, LH_EINPUT,
        "the pre-tokenizer '%s' is none of gpt-2, smollm, llama-bpe; use the model's Hugging Face "
        "directory with tokenizer.json",
        name);
}

static const struct gguf_value *array_of(const struct gguf_file *f, const char *key,
                                         enum gguf_type element)
{
    const struct gguf_value *v = gguf_find(f, key);

    return v && v->type == GGUF_ARRAY && v->element == element ? v : NULL;
}

static int add_tokens(struct tokenizer *t, const struct gguf_file *f, struct lh_err *reterr)
{
    const struct gguf_value *tokens = array_of(f, "tokenizer.ggml.tokens", GGUF_STRING);
    const struct gguf_value *types = gguf_find(f, "tokenizer.ggml.token_type");
    const uint8_t *cursor = NULL;
    int rc = 0;

    if (!tokens || tokens->n == 0)
        return lh_err_set(reterr, LH_EINPUT, "it has no tokenizer.ggml.tokens");
    if (tokens->n > (uint64_t)VOCAB_MAX)
        return lh_err_set(reterr, LH_EINPUT, "a vocabulary of %llu tokens",
                          (unsigned long long)tokens->n);
    if (types && (types->type != GGUF_ARRAY || types->n != tokens->n ||
                  (types->element != GGUF_I32 && types->element != GGUF_U32)))
        return lh_err_set(reterr, LH_EINPUT,
                          "tokenizer.ggml.token_type does not fit the %llu tokens",
                          (unsigned long long)tokens->n);
    for (uint64_t i = 0; i < tokens->n && rc == 0; i++) {
        int64_t type = types ? gguf_array_i64(types, i) : 1;
        struct added_token like = {.id = (int32_t)i, .special = type == TYPE_CONTROL};
        size_t len;
        const char *text = gguf_array_str(tokens, &cursor, &len);

        if (type == TYPE_UNUSED)
            continue; /* fills a row of the embedding; no text has it */
        rc = tokenizer_put(t, (int64_t)i, text, len, false, reterr);
        if (rc == 0 && (type == TYPE_CONTROL || type == TYPE_USER))
            rc = tokenizer_put_added(t, like.special ? 0 : 1, text, len, &like, reterr);
    }
    return rc;
}

static int add_merges(struct tokenizer *t, const struct gguf_file *f, struct lh_err *reterr)
{
    const struct gguf_value *merges = array_of(f, "tokenizer.ggml.merges", GGUF_STRING);
    const uint8_t *cursor = NULL;
    int rc;

    if (!merges)
        return lh_err_set(reterr, LH_EINPUT, "it has no tokenizer.ggml.merges");
    rc = tokenizer_index(t, merges->n, reterr);
    for (uint64_t i = 0; i < merges->n && rc == 0; i++) {
        size_t len;
        const char *text = gguf_array_str(merges, &cursor, &len);
        const char *space = memchr(text, ' ', len);

        if (!space)
            rc = lh_err_set(reterr, LH_EINPUT, "merge %llu is not two tokens with a space between",
                            (unsigned long long)i);
        else
            rc = tokenizer_merge(t, text, (size_t)(space - text), space + 1,
                                 len - 1 - (size_t)(space - text), reterr);
    }
    return rc;
}

static int read_id(const struct tokenizer *t, const struct gguf_file *f, const char *key,
                   int64_t *ret_id, struct lh_err *reterr)
{
    int64_t id;
    int rc = gguf_i64(f, key, &id, reterr);

    if (rc == 1 && (id < 0 || id >= t->vocab.n))
        return lh_err_set(reterr, LH_EINPUT, "%s is %lld, there are %lld tokens", key,
                          (long long)id, (long long)t->vocab.n);
    if (rc == 1)
        *ret_id = id;
    return rc < 0 ? rc : 0;
}

/* Left out it follows the kind of tokenizer, as in llama.cpp. */
static bool read_adds_bos(const struct gguf_file *f, bool otherwise)
{
    const struct gguf_value *v = gguf_find(f, "tokenizer.ggml.add_bos_token");

    return v && v->type == GGUF_BOOL ? v->data[0] != 0 : otherwise;
}

static int load_words(struct tokenizer *t, const struct gguf_file *f, const char *pre,
                      struct lh_err *reterr)
{
    int rc;

    if (!pre[0])
        return lh_err_set(reterr, LH_EINPUT,
                          "it does not name its pre-tokenizer (tokenizer.ggml.pre); use the "
                          "model's Hugging Face directory with tokenizer.json");
    rc = add_pre(t, pre, reterr);
    if (rc == 0)
        rc = add_tokens(t, f, reterr);
    return rc < 0 ? rc : add_merges(t, f, reterr);
}

static int load(struct tokenizer *t, const struct gguf_file *f, struct lh_err *reterr)
{
    char model[64] = "", pre[64] = "";
    int rc = gguf_str(f, "tokenizer.ggml.model", model, sizeof(model), reterr);

    if (rc >= 0)
        rc = gguf_str(f, "tokenizer.ggml.pre", pre, sizeof(pre), reterr);
    if (rc < 0)
        return rc;
    if (strcmp(model, "llama") == 0)
        rc = tokenizer_load_gguf_pieces(t, f, reterr);
    else if (strcmp(model, "gpt2") == 0)
        rc = load_words(t, f, pre, reterr);
    else
        rc = lh_err_set(reterr, LH_EINPUT,
                        "its tokenizer model is '%s'; byte-level BPE ('gpt2') and SentencePiece "
                        "('llama') are supported",
                        model);
    if (rc == 0)
        rc = read_id(t, f, "tokenizer.ggml.bos_token_id", &t->bos, reterr);
    if (rc == 0)
        rc = read_id(t, f, "tokenizer.ggml.eos_token_id", &t->eos, reterr);
    t->adds_bos = read_adds_bos(f, t->whole_words || t->pieces);
    return rc;
}

int tokenizer_load_gguf(struct tokenizer *t, const char *path, struct lh_err *reterr)
{
    struct gguf_file *f;
    int rc = gguf_open(path, &f, reterr);

    if (rc < 0)
        return rc;
    rc = load(t, f, reterr);
    gguf_close(f);
    return rc < 0 ? lh_err_prefix(reterr, rc, "'%s'", path) : 0;
}
