/* gguf_llama.c - see gguf_llama.h. */
#include "worker/formats/gguf_llama.h"
#include "proto/base/str.h"
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* GGUF's file_type and quantization_version, as llama.cpp counts them. */
#define FTYPE_F32 0
#define FTYPE_F16 1
#define FTYPE_Q8_0 7
#define FTYPE_BF16 32
#define QUANTIZATION_VERSION 2

struct buffers {
    float *values, *paired;
    uint8_t *packed;
};

static void buffers_release(struct buffers *b)
{
    free(b->values);
    free(b->paired);
    free(b->packed);
}

static uint32_t file_type(enum quant_type type)
{
    switch (type) {
    case QUANT_F32:
        return FTYPE_F32;
    case QUANT_F16:
        return FTYPE_F16;
    case QUANT_BF16:
        return FTYPE_BF16;
    default:
        assert(type == QUANT_Q8_0);
        return FTYPE_Q8_0;
    }
}

/* What the base says of itself and we do not say anew. */
static void general_keys(struct gguf_writer *w, const struct gguf_llama *m)
{
    static const char *const ours[] = {"general.architecture", "general.name", "general.file_type",
                                       "general.quantization_version", "general.alignment"};

    gguf_put_str(w, "general.architecture", "llama");
    gguf_put_str(w, "general.name", m->name);
    gguf_put_u32(w, "general.file_type", file_type(m->type));
    if (m->type == QUANT_Q8_0)
        gguf_put_u32(w, "general.quantization_version", QUANTIZATION_VERSION);
    for (unsigned i = 0; m->base && i < gguf_value_count(m->base); i++) {
        const struct gguf_value *v = gguf_value_at(m->base, i);
        bool take = lh_starts_with(v->key, "general.");

        for (unsigned k = 0; k < LH_ARRAY_LEN(ours); k++)
            take = take && strcmp(v->key, ours[k]) != 0;
        if (take)
            gguf_put_copy(w, v);
    }
}

static void size_keys(struct gguf_writer *w, const struct gguf_llama *m)
{
    const struct model_config *c = m->config;

    gguf_put_u32(w, "llama.block_count", (uint32_t)c->n_layers);
    gguf_put_u32(w, "llama.context_length", (uint32_t)LH_MIN(m->context, (int64_t)UINT32_MAX));
    gguf_put_u32(w, "llama.embedding_length", (uint32_t)c->hidden);
    gguf_put_u32(w, "llama.feed_forward_length", (uint32_t)c->ff);
    gguf_put_u32(w, "llama.attention.head_count", (uint32_t)c->heads);
    gguf_put_u32(w, "llama.attention.head_count_kv", (uint32_t)c->kv_heads);
    gguf_put_u32(w, "llama.attention.key_length", (uint32_t)c->head_dim);
    gguf_put_u32(w, "llama.attention.value_length", (uint32_t)c->head_dim);
    gguf_put_f32(w, "llama.attention.layer_norm_rms_epsilon", c->norm_eps);
    gguf_put_u32(w, "llama.vocab_size", (uint32_t)c->vocab);
}

static void yarn_keys(struct gguf_writer *w, const struct gguf_llama *m)
{
    const struct rope_config *r = m->rope;
    double usual = 0.1 * log(r->factor) + 1;

    if (r->beta_fast > 0 && r->beta_fast != 32)
        gguf_put_f32(w, "llama.rope.scaling.yarn_beta_fast", r->beta_fast);
    if (r->beta_slow > 0 && r->beta_slow != 1)
        gguf_put_f32(w, "llama.rope.scaling.yarn_beta_slow", r->beta_slow);
    if (fabs(m->scaling / usual - 1) > 1e-9) /* GGUF's multiplies the usual one */
        gguf_put_f32(w, "llama.rope.scaling.attn_factor", m->scaling / usual);
}

static int rope_keys(struct gguf_writer *w, const struct gguf_llama *m, struct lh_err *reterr)
{
    const struct rope_config *r = m->rope;
    const char *type = NULL;

    gguf_put_u32(w, "llama.rope.dimension_count", (uint32_t)m->config->head_dim);
    gguf_put_f32(w, "llama.rope.freq_base", r->theta);
    switch (r->type) {
    case LH_ROPE_DEFAULT:
    case LH_ROPE_NTK:
    case LH_ROPE_LLAMA3: /* the tensor rope_freqs says all */
        return 0;
    case LH_ROPE_DYNAMIC:
        return lh_err_at(reterr, LH_EJOB, "/export/format",
                         "GGUF has no keys for positions of type dynamic; use export.format hf");
    case LH_ROPE_LINEAR:
        type = "linear";
        break;
    case LH_ROPE_YARN:
        type = "yarn";
        break;
    case LH_ROPE_LONGROPE:
        type = "longrope";
        break;
    }
    gguf_put_str(w, "llama.rope.scaling.type", type);
    if (r->type == LH_ROPE_LONGROPE)
        gguf_put_f32(w, "llama.rope.scaling.attn_factor", m->scaling);
    else
        gguf_put_f32(w, "llama.rope.scaling.factor", r->factor);
    if (r->type != LH_ROPE_LINEAR)
        gguf_put_u32(w, "llama.rope.scaling.original_context_length",
                     (uint32_t)LH_MIN(r->original_length, (double)UINT32_MAX));
    if (r->type == LH_ROPE_YARN)
        yarn_keys(w, m);
    gguf_put_bool(w, "llama.rope.scaling.finetuned", true);
    return 0;
}

int gguf_llama_keys(struct gguf_writer *w, const struct gguf_llama *m, struct lh_err *reterr)
{
    general_keys(w, m);
    size_keys(w, m);
    return rope_keys(w, m, reterr);
}

/* The name in GGUF, or false for what is no weight of a Llama. */
static bool gguf_name(const char *hf, char *buf, size_t cap)
{
    static const char *const whole[][2] = {
        {"model.embed_tokens.weight", "token_embd.weight"},
        {"model.norm.weight", "output_norm.weight"},
        {"lm_head.weight", "output.weight"},
    };
    static const char *const layer[][2] = {
        {"input_layernorm.weight", "attn_norm"}, {"post_attention_layernorm.weight", "ffn_norm"},
        {"self_attn.q_proj.weight", "attn_q"},   {"self_attn.k_proj.weight", "attn_k"},
        {"self_attn.v_proj.weight", "attn_v"},   {"self_attn.o_proj.weight", "attn_output"},
        {"mlp.gate_proj.weight", "ffn_gate"},    {"mlp.up_proj.weight", "ffn_up"},
        {"mlp.down_proj.weight", "ffn_down"},
    };
    unsigned n;
    int used = 0;

    for (unsigned i = 0; i < LH_ARRAY_LEN(whole); i++) {
        if (strcmp(hf, whole[i][0]) == 0) {
            (void)snprintf(buf, cap, "%s", whole[i][1]);
            return true;
        }
    }
    if (sscanf(hf, "model.layers.%4u.%n", &n, &used) != 1 || used == 0)
        return false;
    for (unsigned i = 0; i < LH_ARRAY_LEN(layer); i++) {
        if (strcmp(hf + used, layer[i][0]) == 0) {
            (void)snprintf(buf, cap, "blk.%u.%s.weight", n, layer[i][1]);
            return true;
        }
    }
    return false;
}

/* As llama.cpp's converter: vectors stay fp32, rows that blocks do not fill become F16. */
static enum quant_type type_of(const struct gguf_llama *m, const struct weights_entry *e)
{
    if (e->cols == 0)
        return QUANT_F32;
    return e->cols % quant_info(m->type)->block == 0 ? m->type : QUANT_F16;
}

/* Rows of one head when they must be brought to pairs, else 0. */
static int64_t pair_rows(const struct gguf_llama *m, const char *name)
{
    bool paired = lh_ends_with(name, ".q_proj.weight") || lh_ends_with(name, ".k_proj.weight");

    return paired ? m->config->head_dim : 0;
}

/* Row i and row i + half of each head become neighbours. */
static void make_pairs(const float *from, float *to, int64_t rows, int64_t cols, int64_t head)
{
    for (int64_t r = 0; r < rows; r++) {
        int64_t i = r % head;
        int64_t source = r - i + (i % 2 == 0 ? i / 2 : head / 2 + i / 2);

        memcpy(to + r * cols, from + source * cols, (size_t)cols * sizeof(*to));
    }
}

static int64_t piece_rows(const struct gguf_llama *m, const struct weights_entry *e)
{
    int64_t head = pair_rows(m, e->name),
            rows = LH_MAX(WEIGHTS_PIECE / weights_cols(e), (int64_t)1);

    if (head > 0)
        rows = LH_MAX(rows / head, (int64_t)1) * head;
    return LH_MIN(rows, e->rows);
}

static int write_tensor(struct gguf_writer *w, const struct gguf_llama *m,
                        const struct weights *weights, unsigned i, const struct buffers *b,
                        struct lh_err *reterr)
{
    const struct weights_entry *e = &weights->at[i];
    const struct quant_info *info = quant_info(type_of(m, e));
    int64_t cols = weights_cols(e), head = pair_rows(m, e->name), rows, bad;
    int rc = 0;

    for (int64_t r0 = 0; rc == 0 && r0 < e->rows; r0 += rows) {
        const float *values = b->values;

        rows = LH_MIN(piece_rows(m, e), e->rows - r0);
        rc = weights->read(weights->arg, i, r0, rows, b->values, reterr);
        if (rc < 0)
            return rc;
        if (head > 0) {
            make_pairs(b->values, b->paired, rows, cols, head);
            values = b->paired;
        }
        bad = quant_pack(type_of(m, e), values, rows * cols, b->packed);
        if (bad >= 0)
            return lh_err_at(reterr, LH_EJOB, "/export/dtype",
                             "a value of %s near %g is beyond the range of %s; export as bf16 or "
                             "f32",
                             e->name, (double)values[bad], info->name);
        rc = gguf_writer_data(w, b->packed,
                              (uint64_t)(rows * cols) / info->block * info->block_bytes, reterr);
    }
    return rc;
}

static int buffers_init(struct buffers *b, const struct gguf_llama *m,
                        const struct weights *weights, struct lh_err *reterr)
{
    size_t most = (size_t)m->config->head_dim;

    for (unsigned i = 0; i < weights->n; i++)
        most =
            LH_MAX(most, (size_t)(piece_rows(m, &weights->at[i]) * weights_cols(&weights->at[i])));
    b->values = malloc(most * sizeof(float));
    b->paired = malloc(most * sizeof(float));
    b->packed = malloc(most * sizeof(float));
    return b->values && b->paired && b->packed ? 0
                                               : lh_err_set(reterr, -ENOMEM, "buffers for weights");
}

/* Tensors of what the angles are divided by: llama3's list, longrope's two. */
static const char *const *factor_names(const struct gguf_llama *m)
{
    static const char *const none[] = {NULL}, *const one[] = {"rope_freqs.weight", NULL};
    static const char *const two[] = {"rope_factors_long.weight", "rope_factors_short.weight",
                                      NULL};

    return m->rope->type == LH_ROPE_LLAMA3 ? one : m->rope->type == LH_ROPE_LONGROPE ? two : none;
}

static float factor_at(const struct gguf_llama *m, unsigned list, int64_t i)
{
    double plain = pow(m->rope->theta, -2.0 * (double)i / (double)m->config->head_dim);

    if (m->rope->type == LH_ROPE_LLAMA3)
        return (float)(plain / m->inv_freq[i]);
    return (float)(list == 0 ? m->rope->long_factor[i] : m->rope->short_factor[i]);
}

int gguf_llama_tensors(struct gguf_writer *w, const struct gguf_llama *m,
                       const struct weights *weights, struct lh_err *reterr)
{
    LH_CLEANUP(buffers_release) struct buffers b = {0};
    const char *const *factors = factor_names(m);
    int64_t half = m->config->head_dim / 2;
    char name[128];
    int rc = buffers_init(&b, m, weights, reterr);

    for (unsigned k = 0; rc == 0 && factors[k]; k++)
        gguf_put_tensor(w, factors[k], QUANT_F32, half, 0);
    for (unsigned i = 0; rc == 0 && i < weights->n; i++) {
        const struct weights_entry *e = &weights->at[i];

        if (!gguf_name(e->name, name, sizeof(name)))
            rc = lh_err_set(reterr, LH_EINTERNAL, "tensor '%s' has no name in GGUF", e->name);
        else
            gguf_put_tensor(w, name, type_of(m, e), e->rows, e->cols);
    }
    if (rc == 0)
        rc = gguf_writer_begin(w, reterr);
    for (unsigned k = 0; rc == 0 && factors[k]; k++) {
        for (int64_t i = 0; i < half; i++)
            b.values[i] = factor_at(m, k, i);
        rc = gguf_writer_data(w, b.values, (uint64_t)half * sizeof(float), reterr);
    }
    for (unsigned i = 0; rc == 0 && i < weights->n; i++)
        rc = write_tensor(w, m, weights, i, &b, reterr);
    return rc;
}
