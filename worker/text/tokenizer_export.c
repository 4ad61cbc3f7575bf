/* tokenizer_export.c - carrying a tokenizer over; see tokenizer_export.h. What has to be written
 * anew is in tokenizer_export_json.c, tokenizer_export_gguf.c and tokenizer_export_pieces.c. */
#include "worker/text/tokenizer_export.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include "worker/formats/source.h"
#include "worker/text/tokenizer_parts.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX (256u << 20)

/* The window that tokenizer_config.json tells must not be shorter than the model's. */
static int copy_config(const char *from, const char *to, int64_t max_positions,
                       struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *config = NULL;
    int rc = lh_json_load(from, FILE_MAX, &config, reterr);

    if (rc < 0)
        return rc;
    if (lh_json_num(config, "model_max_length", 1e30) < (double)max_positions)
        (void)json_object_set_new(config, "model_max_length", json_integer(max_positions));
    return lh_json_save(to, config, reterr);
}

static int copy_file(const char *from, const char *to, struct lh_err *reterr)
{
    char *data = NULL;
    size_t len = 0;
    int rc = lh_read_file(from, FILE_MAX, &data, &len, reterr);

    if (rc == 0)
        rc = lh_write_file(to, data, len, reterr);
    free(data);
    return rc;
}

static int copy_directory(const char *base, const char *dir, int64_t max_positions,
                          bool *ret_carried, struct lh_err *reterr)
{
    /* The first three are a tokenizer; the others say more about one. */
    static const char *const names[] = {"tokenizer.json",      "tokenizer.model",
                                        "vocab.json",          "merges.txt",
                                        "added_tokens.json",   "special_tokens_map.json",
                                        "chat_template.jinja", "tokenizer_config.json",
                                        "chat_template.json",  "generation_config.json"};
    char from[1400], to[1400];
    bool carried = false;
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < LH_ARRAY_LEN(names); i++) {
        (void)snprintf(from, sizeof(from), "%s/%s", base, names[i]);
        (void)snprintf(to, sizeof(to), "%s/%s", dir, names[i]);
        if (!lh_path_exists(from))
            continue;
        carried = carried || i < 3;
        rc = strcmp(names[i], "tokenizer_config.json") == 0
                 ? copy_config(from, to, max_positions, reterr)
                 : copy_file(from, to, reterr);
    }
    if (rc == 0)
        *ret_carried = carried;
    return rc;
}

static bool is_of(const struct gguf_file *f, const char *kind)
{
    char model[64] = "";

    return gguf_str(f, "tokenizer.ggml.model", model, sizeof(model), NULL) == 1 &&
           strcmp(model, kind) == 0;
}

/* Where the base is, and its file; *ret_file stays NULL when it is a directory. */
static int open_base(const char *base, char ret_path[static 1100], struct gguf_file **ret_file,
                     struct lh_err *reterr)
{
    model_source_resolve(base, ret_path);
    return lh_is_dir(ret_path) ? 0 : gguf_open(ret_path, ret_file, reterr);
}

int tokenizer_export_hf(const char *base, const char *dir, int64_t max_positions, bool *ret_carried,
                        const char **ret_why, struct lh_err *reterr)
{
    LH_CLEANUP(gguf_closep) struct gguf_file *f = NULL;
    char path[1100];
    int rc = open_base(base, path, &f, reterr);

    if (rc < 0)
        return rc;
    *ret_why = "the base has no tokenizer";
    if (!f)
        return copy_directory(path, dir, max_positions, ret_carried, reterr);
    *ret_carried = false;
    if (!gguf_find(f, "tokenizer.ggml.model"))
        return 0;
    *ret_why = "the base's tokenizer is neither byte-level BPE nor SentencePiece; copy the "
               "tokenizer files of its Hugging Face directory";
    if (!is_of(f, "gpt2") && !is_of(f, "llama"))
        return 0;
    *ret_carried = true;
    rc = is_of(f, "gpt2") ? tokenizer_json_of_gguf(f, dir, max_positions, reterr)
                          : tokenizer_model_of_gguf(f, dir, max_positions, reterr);
    return rc < 0 ? lh_err_prefix(reterr, rc, "'%s'", path) : 0;
}

/* tokenizer.model where there is one that is read, as tokenizer_open decides. */
static int keys_of_directory(const char *dir, int64_t vocab, struct gguf_writer *w,
                             bool *ret_carried, struct lh_err *reterr)
{
    char json[1400], model[1400];
    struct tokenizer *t = NULL;
    bool pieces;
    int rc;

    (void)snprintf(json, sizeof(json), "%s/tokenizer.json", dir);
    (void)snprintf(model, sizeof(model), "%s/tokenizer.model", dir);
    if (!lh_path_exists(json) && !lh_path_exists(model))
        return 0;
    rc = tokenizer_open(dir, &t, reterr);
    if (rc < 0)
        return rc;
    pieces = t->pieces;
    tokenizer_free(t);
    *ret_carried = true;
    return pieces ? tokenizer_keys_of_model(dir, vocab, w, reterr)
                  : tokenizer_keys_of_json(dir, vocab, w, reterr);
}

int tokenizer_export_gguf(const char *base, int64_t vocab, struct gguf_writer *w, bool *ret_carried,
                          const char **ret_why, struct lh_err *reterr)
{
    LH_CLEANUP(gguf_closep) struct gguf_file *f = NULL;
    char path[1100];
    int rc = open_base(base, path, &f, reterr);

    if (rc < 0)
        return rc;
    *ret_why = "the base has neither tokenizer.json nor tokenizer.model";
    *ret_carried = false;
    if (!f)
        return keys_of_directory(path, vocab, w, ret_carried, reterr);
    *ret_why = "the base has no tokenizer";
    for (unsigned i = 0; i < gguf_value_count(f); i++) {
        if (!lh_starts_with(gguf_value_at(f, i)->key, "tokenizer."))
            continue;
        gguf_put_copy(w, gguf_value_at(f, i));
        *ret_carried = true;
    }
    return 0;
}

static int encode(const struct tokenizer *t, const char *text, bool special, struct token_list *ids,
                  struct lh_err *reterr)
{
    ids->n = 0;
    return tokenizer_encode(t, text, strlen(text), special, ids, reterr);
}

static int compare_ids(const struct tokenizer *a, const struct tokenizer *b, struct lh_err *reterr)
{
    static const char text[] =
        "The quick brown fox can't jump 3.14159 times over 1,234,567 dogs in 2012; it's "
        "they'll've'd.\n\n"
        "    if (x != y) {\n\t\treturn &a[i++] ? 0x7f : ~b;\t}\r\n   \n"
        "\xc3\x9c"
        "bergr\xc3\xb6\xc3\x9f"
        "e na\xc3\xafve \xe2\x80\x94 \xe2\x82\xac"
        "99 "
        "\xd0\x9f\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82 "
        "\xe4\xbd\xa0\xe5\xa5\xbd\xe4\xb8\x96\xe7\x95\x8c\xe3\x80\x82 "
        "\xd8\xb3\xd9\x84\xd8\xa7\xd9\x85 \xf0\x9f\x98\x80\xf0\x9f\x91\x8d\xf0\x9f\x8f\xbd "
        "<|im_start|>user\nhi<|im_end|>\n<|endoftext|><|begin_of_text|><|eot_id|> <s></s>  end  ";
    struct token_list x = {0}, y = {0};
    int rc = 0;

    for (int special = 0; rc == 0 && special < 2; special++) {
        size_t at = 0;

        rc = encode(a, text, special != 0, &x, reterr);
        if (rc == 0)
            rc = encode(b, text, special != 0, &y, reterr);
        while (rc == 0 && at < x.n && at < y.n && x.at[at] == y.at[at])
            at++;
        if (rc == 0 && (x.n != y.n || at < x.n))
            rc = lh_err_set(reterr, LH_EINTERNAL,
                            "the exported tokenizer gives other ids than the base's: token %zu of "
                            "the sample is %d, not %d",
                            at, at < y.n ? y.at[at] : -1, at < x.n ? x.at[at] : -1);
    }
    token_list_release(&x);
    token_list_release(&y);
    return rc;
}

int tokenizer_compare(const char *base, const char *made, struct lh_err *reterr)
{
    struct tokenizer *a = NULL, *b = NULL;
    int rc = tokenizer_open(base, &a, reterr);

    if (rc == 0)
        rc = tokenizer_open(made, &b, reterr);
    if (rc == 0)
        rc = compare_ids(a, b, reterr);
    if (rc == 0 && (tokenizer_bos(a) != tokenizer_bos(b) || tokenizer_eos(a) != tokenizer_eos(b) ||
                    tokenizer_adds_bos(a) != tokenizer_adds_bos(b)))
        rc = lh_err_set(reterr, LH_EINTERNAL,
                        "the exported tokenizer has bos %lld, eos %lld; the base's has %lld, %lld",
                        (long long)tokenizer_bos(b), (long long)tokenizer_eos(b),
                        (long long)tokenizer_bos(a), (long long)tokenizer_eos(a));
    tokenizer_free(a);
    tokenizer_free(b);
    return rc;
}
