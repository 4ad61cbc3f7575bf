/* source.h - a pre-trained model as the engine sees it: a config, named tensors, a tokenizer description.
 *
 * Behind it: a Hugging Face directory (config.json, model*.safetensors, tokenizer.json) or a GGUF file. Names and
 * layouts are always Hugging Face's: "model.layers.0.self_attn.q_proj.weight" [out,in], rotary halves; GGUF's q and
 * k rows are brought from neighbour pairs to halves while reading.
 */
#pragma once
#include "kernels/dtype.h"
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include "proto/job.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define MODEL_ROPE_FACTORS_MAX 256

/* The scaling of positions, all schemes in one struct (formulas: worker/model/rope.h). */
struct rope_config {
    enum lh_rope type; /* LH_ROPE_DEFAULT: none */
    double theta;      /* rope_theta, the base of the angles */
    double factor;     /* 1 when not scaled */
    double original_length; /* original_max_position_embeddings; 0: not given */
    double beta_fast, beta_slow;           /* yarn: 32, 1 when not given */
    double attention_factor;               /* yarn, longrope; 0: not given, derived */
    double mscale, mscale_all_dim;         /* yarn; 0: not given */
    double low_freq_factor, high_freq_factor; /* llama3 */
    double short_factor[MODEL_ROPE_FACTORS_MAX], long_factor[MODEL_ROPE_FACTORS_MAX]; /* longrope */
    unsigned n_factors;
};

struct model_config {
    int64_t n_layers, hidden, heads, kv_heads, head_dim, ff, vocab, max_positions;
    double norm_eps;
    bool tied; /* the head is the embedding */
    struct rope_config rope;
    int64_t bos_id, eos_id, pad_id; /* -1: none */
    json_t *raw; /* owned: config.json as read (or made from GGUF keys in Hugging Face's words), for export */
};

struct model_source;

/* What path means: itself, or the model.gguf in a directory without config.json (an export of kind gguf). */
#define MODEL_GGUF_NAME "model.gguf"
void model_source_resolve(const char *path, char ret_path[static 1100]);

/* path: a directory or a .gguf file. Reads config and tensor directory, no weights. Refuses what is not a Llama
 * (naming the architecture), missing files, attention or MLP biases, another activation: LH_EINPUT. */
LH_MUST_CHECK int model_source_open(const char *path, struct model_source **ret_source, struct lh_err *reterr);
void model_source_close(struct model_source *s);
const struct model_config *model_source_config(const struct model_source *s);
const char *model_source_path(const struct model_source *s);
bool model_source_has(const struct model_source *s, const char *name);

/* Checks that the tensor exists with exactly rows x cols (cols 0: a vector of rows): LH_EINPUT says what is there. */
LH_MUST_CHECK int model_source_check(const struct model_source *s, const char *name, int64_t rows, int64_t cols,
                                     struct lh_err *reterr);

/* Writes rows [r0, r0+rows) of the tensor as dtype into out (rows*cols elements), dequantising and converting
 * (through fp32, rounded once). Thread-safe. */
LH_MUST_CHECK int model_source_read(const struct model_source *s, const char *name, int64_t r0, int64_t rows,
                                    enum kn_dtype dtype, void *out, struct lh_err *reterr);

/* Lets go of the memory that holds the tensor's part of its file (name NULL: the parts of all tensors); reading it
 * again brings it back. */
void model_source_forget(const struct model_source *s, const char *name);

/* SHA-256 over the model's files (names and bytes), computed once and cached; for state.json and cache keys. */
LH_MUST_CHECK int model_source_digest(struct model_source *s, char ret_hex[static 65], struct lh_err *reterr);
