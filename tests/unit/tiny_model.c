/* tiny_model.c - a small random Llama for tests; see tiny_model.h. */
#include "tests/unit/tiny_model.h"
#include "proto/base/fs.h"
#include "worker/model/rope.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
// clang-format off
#include <cmocka.h>
// clang-format on

#define TENSORS_MAX 128

double tiny_random(uint64_t seed, uint64_t i)
{
    uint64_t x = seed * 0x9e3779b97f4a7c15u + i;

    for (int k = 0; k < 3; k++) {
        x ^= x >> 31;
        x *= 0xbf58476d1ce4e5b9u;
    }
    return (double)(x >> 11) * 0x1p-52 - 1;
}

struct writing {
    struct st_entry entries[TENSORS_MAX];
    char names[TENSORS_MAX][96];
    unsigned n;
};

static void declare(struct writing *w, const char *name, int64_t rows, int64_t cols)
{
    assert_true(w->n < TENSORS_MAX);
    (void)snprintf(w->names[w->n], sizeof(w->names[0]), "%s", name);
    w->entries[w->n] = (struct st_entry){w->names[w->n], ST_F32, cols > 0 ? 2 : 1, {rows, cols}};
    w->n++;
}

static void declare_layer(struct writing *w, const struct tiny_shape *s, int layer)
{
    struct {
        const char *module;
        int64_t rows, cols;
    } part[] = {
        {"input_layernorm", s->hidden, 0},
        {"post_attention_layernorm", s->hidden, 0},
        {"self_attn.q_proj", s->heads * s->head_dim, s->hidden},
        {"self_attn.k_proj", s->kv_heads * s->head_dim, s->hidden},
        {"self_attn.v_proj", s->kv_heads * s->head_dim, s->hidden},
        {"self_attn.o_proj", s->hidden, s->heads * s->head_dim},
        {"mlp.gate_proj", s->ff, s->hidden},
        {"mlp.up_proj", s->ff, s->hidden},
        {"mlp.down_proj", s->hidden, s->ff},
    };

    for (size_t i = 0; i < LH_ARRAY_LEN(part); i++) {
        char name[96];

        (void)snprintf(name, sizeof(name), "model.layers.%d.%s.weight", layer, part[i].module);
        declare(w, name, part[i].rows, part[i].cols);
    }
}

static void write_tensors(const char *path, const struct writing *w, uint64_t seed)
{
    struct st_writer *out;
    struct lh_err err = {0};

    assert_int_equal(st_create(path, w->entries, w->n, NULL, &out, &err), 0);
    for (unsigned i = 0; i < w->n; i++) {
        const struct st_entry *e = &w->entries[i];
        int64_t n = e->shape[0] * (e->n_dims == 2 ? e->shape[1] : 1);
        float *values = malloc((size_t)n * sizeof(float));

        assert_non_null(values);
        for (int64_t k = 0; k < n; k++) {
            double r = tiny_random(seed + i, (uint64_t)k);

            values[k] = (float)(e->n_dims == 1 ? 1 + 0.2 * r : r * 1.2 / sqrt((double)e->shape[1]));
        }
        assert_int_equal(st_write(out, values, (uint64_t)n * sizeof(float), &err), 0);
        free(values);
    }
    assert_int_equal(st_finish(out, &err), 0);
}

const char *tiny_model_write(const struct tiny_shape *s, uint64_t seed)
{
    static char dir[64];
    struct writing *w = calloc(1, sizeof(*w));
    char path[128], config[1024];

    assert_non_null(w);
    (void)snprintf(dir, sizeof(dir), "/tmp/longhaul-tiny-XXXXXX");
    assert_non_null(mkdtemp(dir));
    (void)snprintf(
        config, sizeof(config),
        "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_act\":"
        "\"silu\","
        "\"attention_bias\":false,\"mlp_bias\":false,\"hidden_size\":%d,\"intermediate_size\":%d,"
        "\"num_attention_heads\":%d,\"num_key_value_heads\":%d,\"head_dim\":%d,\"num_hidden_"
        "layers\":%d,"
        "\"vocab_size\":%d,\"max_position_embeddings\":64,\"rms_norm_eps\":1e-5,\"rope_theta\":"
        "10000.0,"
        "\"tie_word_embeddings\":%s}",
        s->hidden, s->ff, s->heads, s->kv_heads, s->head_dim, s->layers, s->vocab,
        s->tied ? "true" : "false");
    (void)snprintf(path, sizeof(path), "%s/config.json", dir);
    assert_int_equal(lh_write_file(path, config, strlen(config), NULL), 0);
    declare(w, "model.embed_tokens.weight", s->vocab, s->hidden);
    for (int layer = 0; layer < s->layers; layer++)
        declare_layer(w, s, layer);
    declare(w, "model.norm.weight", s->hidden, 0);
    if (!s->tied)
        declare(w, "lm_head.weight", s->vocab, s->hidden);
    (void)snprintf(path, sizeof(path), "%s/model.safetensors", dir);
    write_tensors(path, w, seed);
    free(w);
    return dir;
}

void tiny_model_remove(const char *dir)
{
    assert_int_equal(lh_remove_tree(dir, NULL), 0);
}

struct params_spec tiny_spec(enum kn_dtype dtype)
{
    return (struct params_spec){.lora = true,
                                .trains = true,
                                .embeddings = true,
                                .norms = true,
                                .rank = 2,
                                .alpha = 4,
                                .targets = 0x7f,
                                .dtype = dtype};
}

/* LoRA's B starts at zero, and then the gradient of A is zero too. */
static void shake_b(struct tiny *t)
{
    for (unsigned i = 0; i < t->model.params.n; i++) {
        const struct param *p = &t->model.params.at[i];

        for (int64_t k = 0; p->role == PARAM_LORA_B && p->trains && k < p->n; k++)
            p->master[k] = (float)(0.3 * tiny_random(1000 + i, (uint64_t)k));
    }
    params_refresh(&t->model.params, t->ops, t->stream);
}

void tiny_open(struct tiny *t, const struct tiny_options *o)
{
    struct llama_options options = {.params = &o->spec,
                                    .tokens = o->rows * o->row_tokens,
                                    .row_tokens = o->row_tokens,
                                    .wrap_tokens = o->wrap_tokens,
                                    .backward = o->spec.trains,
                                    .mlp_tile = o->mlp_tile,
                                    .head_tile = o->head_tile};
    double inv_freq[64], scaling;
    struct lh_err err = {0};

    memcpy(options.keep, o->keep, sizeof(options.keep));
    *t = (struct tiny){.ops = o->ops};
    assert_int_equal(model_source_open(o->dir, &t->source, &err), 0);
    options.config = model_source_config(t->source);
    assert_int_equal(rope_frequencies(&options.config->rope, options.config, o->row_tokens,
                                      inv_freq, &scaling, &err),
                     0);
    assert_int_equal(t->ops->stream_new(1, &t->stream, &err), 0);
    assert_int_equal(llama_init(&options, &t->model, &err), 0);
    assert_int_equal(
        llama_load(&t->model, t->ops, t->stream, t->source, NULL, 7, inv_freq, scaling, &err), 0);
    shake_b(t);
    assert_int_equal(t->ops->sync(t->stream, &err), 0);
}

void tiny_close(struct tiny *t)
{
    llama_release(&t->model);
    t->ops->stream_free(t->stream);
    model_source_close(t->source);
}

void tiny_check_role(struct tiny *t, enum param_role role, tiny_loss_fn *loss, void *arg)
{
    struct params *p = &t->model.params;
    float *grads = malloc((size_t)p->n_region * sizeof(float));
    double gg = 0, h, up = 0, down = 0;

    assert_non_null(grads);
    (void)loss(arg);
    memcpy(grads, p->grad, (size_t)p->n_region * sizeof(float));
    for (unsigned i = 0; i < p->n; i++)
        for (int64_t k = 0; p->at[i].role == role && k < p->at[i].n; k++)
            gg += (double)p->at[i].grad[k] * (double)p->at[i].grad[k];
    assert_true(gg > 1e-12);
    h = 5e-4 / gg;
    for (int side = 0; side < 3; side++) {
        double by = side == 0 ? h : side == 1 ? -2 * h : h; /* up, down, back */

        for (unsigned i = 0; i < p->n; i++)
            for (int64_t k = 0; p->at[i].role == role && k < p->at[i].n; k++)
                p->at[i].master[k] += (float)(by * (double)grads[p->at[i].grad - p->grad + k]);
        params_refresh(p, t->ops, t->stream);
        if (side < 2)
            *(side == 0 ? &up : &down) = loss(arg);
    }
    if (fabs((up - down) / (2 * h) - gg) > 5e-3 * gg)
        fail_msg("role %d: the loss changes by %.8g a unit, the gradient says %.8g", (int)role,
                 (up - down) / (2 * h), gg);
    free(grads);
}
