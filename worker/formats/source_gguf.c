/* source_gguf.c - a GGUF file as a model source: its names in Hugging Face's words. */
#include "proto/base/str.h"
#include "worker/formats/gguf_config.h"
#include "worker/formats/hf_config.h"
#include "worker/formats/source_files.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* The name, or NULL for a tensor that is no weight (frequency tables, read with the config) with
 * *skip set. */
static const char *hf_name(struct model_source *s, const char *gguf, bool *skip)
{
    static const char *const whole[][2] = {
        {"token_embd.weight", "model.embed_tokens.weight"},
        {"output_norm.weight", "model.norm.weight"},
        {"output.weight", "lm_head.weight"},
    };
    static const char *const layer[][2] = {
        {"attn_norm", "input_layernorm"}, {"ffn_norm", "post_attention_layernorm"},
        {"attn_q", "self_attn.q_proj"},   {"attn_k", "self_attn.k_proj"},
        {"attn_v", "self_attn.v_proj"},   {"attn_output", "self_attn.o_proj"},
        {"ffn_gate", "mlp.gate_proj"},    {"ffn_up", "mlp.up_proj"},
        {"ffn_down", "mlp.down_proj"},
    };
    char part[64], kind[16];
    unsigned n;
    int used = 0;

    *skip = lh_starts_with(gguf, "rope_freqs.") || lh_starts_with(gguf, "rope_factors_");
    for (unsigned i = 0; i < LH_ARRAY_LEN(whole); i++) {
        if (strcmp(gguf, whole[i][0]) == 0)
            return whole[i][1];
    }
    if (sscanf(gguf, "blk.%4u.%63[a-z_].%15[a-z]%n", &n, part, kind, &used) == 3 &&
        gguf[used] == '\0') {
        for (unsigned i = 0; i < LH_ARRAY_LEN(layer); i++) {
            if (strcmp(part, layer[i][0]) == 0)
                return lh_arena_printf(&s->arena, "model.layers.%u.%s.%s", n, layer[i][1], kind);
        }
    }
    return gguf; /* refused later, by this name */
}

static int add_tensor(struct model_source *s, const struct gguf_tensor *g, struct lh_err *reterr)
{
    bool skip;
    struct source_tensor t = {
        .name = hf_name(s, g->name, &skip),
        .rows = g->n_dims == 1 ? g->dims[0] : g->dims[1],
        .cols = g->n_dims == 1 ? 0 : g->dims[0],
        .type = g->type,
        .data = g->data,
    };

    if (skip)
        return 0;
    if (!t.name)
        return lh_err_set(reterr, -ENOMEM, "open model '%s'", s->path);
    for (int d = 2; d < g->n_dims; d++) {
        if (g->dims[d] != 1)
            return lh_err_set(reterr, LH_EINPUT,
                              "'%s': tensor '%.100s' has %d dimensions, a Llama's have two",
                              s->path, g->name, g->n_dims);
    }
    if (lh_ends_with(t.name, ".q_proj.weight"))
        t.pair_heads = s->config.heads;
    else if (lh_ends_with(t.name, ".k_proj.weight"))
        t.pair_heads = s->config.kv_heads;
    return source_add(s, &t, reterr);
}

int source_open_gguf(struct model_source *s, struct lh_err *reterr)
{
    json_t *raw;
    int rc = gguf_open(s->path, &s->gguf, reterr);

    if (rc == 0)
        rc = gguf_config(s->gguf, s->path, &raw, reterr);
    if (rc < 0)
        return rc;
    rc = hf_config_parse(raw, s->path, &s->config, reterr);
    json_decref(raw);
    for (unsigned i = 0; rc == 0 && i < gguf_tensor_count(s->gguf); i++)
        rc = add_tensor(s, gguf_tensor_at(s->gguf, i), reterr);
    return rc < 0 ? rc : source_add_file(s, s->path, reterr);
}
