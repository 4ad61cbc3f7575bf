/* tokenizer_export_pieces.c - SentencePiece between a GGUF file and tokenizer.model.
 *
 * GGUF has pieces, scores and types; that is all that Llama's models need, and a model that needs
 * more is refused. The other way a model is written with what these keys mean: BPE by score, bytes
 * for what is unknown, text as it is.
 */
#include "proto/base/buf.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "worker/text/spm.h"
#include "worker/text/tokenizer_export.h"
#include "worker/text/tokenizer_parts.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODEL_BYTES_MAX (64u << 20)
#define BESIDE_SCORE                                                                               \
    (-1000.0f) /* of tokens beside the model, as llama.cpp's converter gives them */

/* ---- tokenizer.model to GGUF ---- */

struct from_model {
    const char *dir;
    int64_t vocab;
    struct spm_model *spm; /* owned */
    struct spm_info info;
    struct tokenizer *t; /* owned: the same files, with what stands beside the model */
    json_t *words;       /* owned: tokenizer_config.json, or NULL */
    struct gguf_writer *w;
};

static int open_model(struct from_model *m, struct lh_err *reterr)
{
    char path[1400], why[SPM_WHY_MAX] = "", *bytes;
    size_t n;
    int rc;

    (void)snprintf(path, sizeof(path), "%s/tokenizer.model", m->dir);
    rc = lh_read_file(path, MODEL_BYTES_MAX, &bytes, &n, reterr);
    if (rc < 0)
        return rc;
    rc = spm_open(bytes, n, &m->spm, &m->info, why);
    free(bytes);
    if (rc < 0)
        return lh_err_set(reterr, rc == -EINVAL ? LH_EINPUT : rc, "open '%s': %s", path, why);
    if (!m->info.merges)
        return lh_err_set(reterr, LH_ENOTSUP,
                          "'%s' changes texts, or cuts them by more than scores, which is all that "
                          "GGUF has words for; export as hf",
                          path);
    return 0;
}

static const struct added_token *beside(const struct from_model *m, int64_t id)
{
    for (unsigned pass = 0; pass < ADDED_PASSES; pass++)
        for (unsigned i = 0; i < m->t->added[pass].n; i++)
            if (m->t->added[pass].tokens[i].id == id)
                return &m->t->added[pass].tokens[i];
    return NULL;
}

struct piece {
    char unused[32];
    const char *text;
    size_t len;
    float score;
    enum sp_type type;
};

static void piece_at(const struct from_model *m, int64_t id, struct piece *p)
{
    const struct added_token *a;

    if (id < m->info.n_pieces) {
        p->text = spm_piece(m->spm, id, &p->len, &p->type);
        p->score = spm_score(m->spm, id);
        return;
    }
    a = beside(m, id);
    (void)snprintf(p->unused, sizeof(p->unused), "[PAD%lld]", (long long)id);
    p->text = a ? a->text : p->unused;
    p->len = strlen(p->text);
    p->score = BESIDE_SCORE;
    p->type = !a ? SP_UNUSED : a->special ? SP_CONTROL : SP_USER;
}

static void put_pieces(struct from_model *m)
{
    struct piece p;

    gguf_put_array(m->w, "tokenizer.ggml.tokens", GGUF_STRING, (uint64_t)m->vocab);
    for (int64_t id = 0; id < m->vocab; id++) {
        piece_at(m, id, &p);
        gguf_add_str(m->w, p.text, p.len);
    }
    gguf_put_array(m->w, "tokenizer.ggml.scores", GGUF_F32, (uint64_t)m->vocab);
    for (int64_t id = 0; id < m->vocab; id++) {
        piece_at(m, id, &p);
        gguf_add_f32(m->w, p.score);
    }
    gguf_put_array(m->w, "tokenizer.ggml.token_type", GGUF_I32, (uint64_t)m->vocab);
    for (int64_t id = 0; id < m->vocab; id++) {
        piece_at(m, id, &p);
        gguf_add_i32(m->w, (int32_t)p.type);
    }
}

static void put_id(struct from_model *m, const char *key, int64_t id)
{
    if (id >= 0 && id < m->vocab)
        gguf_put_u32(m->w, key, (uint32_t)id);
}

static void put_ids(struct from_model *m)
{
    const json_t *name = json_object_get(m->words, "pad_token");
    const char *pad =
        json_is_object(name) ? lh_json_str(name, "content", NULL) : json_string_value(name);
    struct piece p;
    int64_t unknown = -1, padding = -1;

    for (int64_t id = 0; id < m->vocab; id++) {
        piece_at(m, id, &p);
        if (p.type == SP_UNKNOWN && unknown < 0)
            unknown = id;
        if (pad && p.len == strlen(pad) && memcmp(p.text, pad, p.len) == 0)
            padding = id;
    }
    put_id(m, "tokenizer.ggml.bos_token_id", tokenizer_bos(m->t));
    put_id(m, "tokenizer.ggml.eos_token_id", tokenizer_eos(m->t));
    put_id(m, "tokenizer.ggml.unknown_token_id", unknown);
    put_id(m, "tokenizer.ggml.padding_token_id", padding);
    gguf_put_bool(m->w, "tokenizer.ggml.add_bos_token", tokenizer_adds_bos(m->t));
    gguf_put_bool(m->w, "tokenizer.ggml.add_eos_token", false);
    gguf_put_bool(m->w, "tokenizer.ggml.add_space_prefix", m->info.space_prefix);
}

int tokenizer_keys_of_model(const char *dir, int64_t vocab, struct gguf_writer *w,
                            struct lh_err *reterr)
{
    struct from_model m = {.dir = dir, .vocab = vocab, .w = w};
    int rc = tokenizer_open(dir, &m.t, reterr);

    if (rc == 0)
        rc = open_model(&m, reterr);
    if (rc == 0)
        rc = tokenizer_load_beside(dir, "tokenizer_config.json", &m.words, reterr);
    if (rc == 0 && (m.info.n_pieces > vocab || tokenizer_vocab(m.t) > vocab))
        rc = lh_err_set(reterr, LH_EINPUT,
                        "the tokenizer of '%s' has %lld tokens, and the embedding %lld rows", dir,
                        (long long)tokenizer_vocab(m.t), (long long)vocab);
    if (rc == 0) {
        gguf_put_str(w, "tokenizer.ggml.model", "llama");
        gguf_put_str(w, "tokenizer.ggml.pre", "default");
        put_pieces(&m);
        put_ids(&m);
        rc = tokenizer_put_template(dir, m.words, w, reterr);
    }
    spm_free(m.spm);
    json_decref(m.words);
    tokenizer_free(m.t);
    return rc;
}

/* ---- GGUF to tokenizer.model ---- */

/* Fields of sentencepiece_model.proto, and how protocol buffers write them. */
enum { MODEL_PIECE = 1, MODEL_TRAINER = 2, MODEL_NORMALIZER = 3 };
enum { PIECE_TEXT = 1, PIECE_SCORE = 2, PIECE_TYPE = 3 };
enum {
    TRAINER_TYPE = 3,
    TRAINER_VOCAB = 4,
    TRAINER_BYTES = 35,
    TRAINER_UNK = 40,
    TRAINER_BOS = 41,
    TRAINER_EOS = 42,
    TRAINER_PAD = 43,
    TRAINER_UNK_PIECE = 45,
    TRAINER_BOS_PIECE = 46,
    TRAINER_EOS_PIECE = 47
};
enum { NORMALIZER_NAME = 1, NORMALIZER_PREFIX = 3, NORMALIZER_TRIM = 4, NORMALIZER_ESCAPE = 5 };
#define TYPE_BPE 2
enum { WIRE_VARINT = 0, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

struct message {
    struct lh_buf buf;
    int failed; /* sticky */
};

static void put(struct message *m, const void *bytes, size_t n)
{
    int rc = m->failed || n == 0 ? 0 : lh_buf_append(&m->buf, bytes, n);

    if (rc < 0)
        m->failed = rc;
}

static void put_varint(struct message *m, uint64_t value)
{
    uint8_t byte;

    do {
        byte = (uint8_t)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        put(m, &byte, 1);
        value >>= 7;
    } while (value > 0);
}

static void put_number(struct message *m, unsigned field, int64_t value)
{
    put_varint(m, field << 3 | WIRE_VARINT);
    put_varint(m, (uint64_t)value);
}

static void put_text(struct message *m, unsigned field, const char *text, size_t len)
{
    put_varint(m, field << 3 | WIRE_BYTES);
    put_varint(m, len);
    put(m, text, len);
}

/* Appends `inner` as a field and empties it. */
static void put_message(struct message *m, unsigned field, struct message *inner)
{
    put_text(m, field, inner->buf.data ? inner->buf.data : "", inner->buf.len);
    m->failed = m->failed ? m->failed : inner->failed;
    lh_buf_consume(&inner->buf, inner->buf.len);
}

static const struct gguf_value *array_of(const struct gguf_file *f, const char *key,
                                         enum gguf_type element, uint64_t n)
{
    const struct gguf_value *v = gguf_find(f, key);

    return v && v->type == GGUF_ARRAY && v->element == element && (n == 0 || v->n == n) ? v : NULL;
}

/* The id that a key names, and its text; -1. */
static int64_t named(const struct gguf_file *f, const struct gguf_value *tokens, const char *key,
                     const char **ret_text, size_t *ret_len)
{
    const uint8_t *cursor = NULL;
    int64_t id = -1;

    if (gguf_i64(f, key, &id, NULL) != 1 || id < 0 || (uint64_t)id >= tokens->n)
        return -1;
    for (int64_t i = 0; i <= id; i++)
        *ret_text = gguf_array_str(tokens, &cursor, ret_len);
    return id;
}

static void put_trainer(struct message *m, const struct gguf_file *f,
                        const struct gguf_value *tokens)
{
    static const struct {
        const char *key;
        unsigned id, piece; /* fields; piece 0: none */
    } names[] = {{"tokenizer.ggml.unknown_token_id", TRAINER_UNK, TRAINER_UNK_PIECE},
                 {"tokenizer.ggml.bos_token_id", TRAINER_BOS, TRAINER_BOS_PIECE},
                 {"tokenizer.ggml.eos_token_id", TRAINER_EOS, TRAINER_EOS_PIECE},
                 {"tokenizer.ggml.padding_token_id", TRAINER_PAD, 0}};

    put_number(m, TRAINER_TYPE, TYPE_BPE);
    put_number(m, TRAINER_VOCAB, (int64_t)tokens->n);
    put_number(m, TRAINER_BYTES, 1);
    for (unsigned i = 0; i < LH_ARRAY_LEN(names); i++) {
        const char *text = NULL;
        size_t len = 0;
        int64_t id = named(f, tokens, names[i].key, &text, &len);

        if (id < 0 && names[i].id == TRAINER_UNK)
            continue; /* the piece of that type says it */
        put_number(m, names[i].id, id);
        if (id >= 0 && names[i].piece)
            put_text(m, names[i].piece, text, len);
    }
}

static void put_normalizer(struct message *m, const struct gguf_file *f)
{
    const struct gguf_value *prefix = gguf_find(f, "tokenizer.ggml.add_space_prefix");

    put_text(m, NORMALIZER_NAME, "identity", strlen("identity"));
    put_number(m, NORMALIZER_PREFIX, !prefix || prefix->type != GGUF_BOOL || prefix->data[0] != 0);
    put_number(m, NORMALIZER_TRIM, 0);
    put_number(m, NORMALIZER_ESCAPE, 1);
}

static void put_all(struct message *m, struct message *inner, const struct gguf_file *f,
                    const struct gguf_value *tokens, const struct gguf_value *scores,
                    const struct gguf_value *types)
{
    const uint8_t *cursor = NULL;

    for (uint64_t i = 0; i < tokens->n; i++) {
        size_t len;
        const char *text = gguf_array_str(tokens, &cursor, &len);

        put_text(inner, PIECE_TEXT, text, len);
        put_varint(inner, PIECE_SCORE << 3 | WIRE_FIXED32);
        put(inner, scores->data + 4 * i, 4);
        put_number(inner, PIECE_TYPE, gguf_array_i64(types, i));
        put_message(m, MODEL_PIECE, inner);
    }
    put_trainer(inner, f, tokens);
    put_message(m, MODEL_TRAINER, inner);
    put_normalizer(inner, f);
    put_message(m, MODEL_NORMALIZER, inner);
}

int tokenizer_model_of_gguf(const struct gguf_file *f, const char *dir, int64_t max_positions,
                            struct lh_err *reterr)
{
    const struct gguf_value *tokens = array_of(f, "tokenizer.ggml.tokens", GGUF_STRING, 0);
    const struct gguf_value *scores, *types;
    const struct gguf_value *add_bos = gguf_find(f, "tokenizer.ggml.add_bos_token");
    bool adds = !add_bos || add_bos->type != GGUF_BOOL || add_bos->data[0] != 0;
    struct message m = {.failed = 0}, inner = {.failed = 0};
    char path[1400];
    int rc;

    scores = tokens ? array_of(f, "tokenizer.ggml.scores", GGUF_F32, tokens->n) : NULL;
    types = tokens ? array_of(f, "tokenizer.ggml.token_type", GGUF_I32, tokens->n) : NULL;
    if (!scores || !types)
        return lh_err_set(reterr, LH_EINPUT, "its tokenizer keys do not fit each other");
    lh_buf_init(&m.buf, MODEL_BYTES_MAX);
    lh_buf_init(&inner.buf, MODEL_BYTES_MAX);
    put_all(&m, &inner, f, tokens, scores, types);
    (void)snprintf(path, sizeof(path), "%s/tokenizer.model", dir);
    rc = m.failed ? lh_err_set(reterr, m.failed, "'%s'", path)
                  : lh_write_file(path, m.buf.data, m.buf.len, reterr);
    lh_buf_release(&m.buf);
    lh_buf_release(&inner.buf);
    if (rc < 0)
        return rc;
    return tokenizer_config_of_gguf(f, dir,
                                    json_pack("{s:s, s:b, s:b, s:b}", "tokenizer_class",
                                              "LlamaTokenizer", "add_bos_token", adds,
                                              "add_eos_token", 0, "legacy", 1),
                                    max_positions, reterr);
}
