/* tiny_model.h - a small random Llama for tests: a Hugging Face directory in a temporary place, and
 * a model over it. */
#pragma once
#include "worker/formats/source.h"
#include "worker/model/llama.h"

struct tiny_shape {
    int layers, hidden, heads, kv_heads, head_dim, ff, vocab;
    bool tied;
};

/* Writes config.json and model.safetensors below a new directory, and returns its path (static
 * until the next call). Fails the test when it cannot. */
const char *tiny_model_write(const struct tiny_shape *shape, uint64_t seed);
void tiny_model_remove(const char *dir);

/* A job for it, for engine-level helpers: only what the table of parameters needs. */
struct params_spec tiny_spec(enum kn_dtype dtype);

/* A loaded model on a back end; tiles 0: chosen. Every LoRA B is made non-zero, so that its A has a
 * gradient. */
struct tiny {
    struct model_source *source;
    struct llama model;
    struct kn_stream *stream;
    const struct kn_ops *ops;
};
struct tiny_options {
    const char *dir;
    const struct kn_ops *ops;
    struct params_spec spec;
    int64_t rows, row_tokens, wrap_tokens, mlp_tile, head_tile;
    int64_t keep[WORK_KEEPS]; /* layers that keep it */
};
void tiny_open(struct tiny *t, const struct tiny_options *options);
void tiny_close(struct tiny *t);

/* Moves every parameter of a role along its gradient, and back: the loss must follow. loss leaves
 * the gradients of what it returns, from zero. */
typedef double tiny_loss_fn(void *arg);
void tiny_check_role(struct tiny *t, enum param_role role, tiny_loss_fn *loss, void *arg);

/* A number in [-1, 1) from a counter. */
double tiny_random(uint64_t seed, uint64_t i);
