/* hf_config.c - see hf_config.h. Defaults are those of transformers' LlamaConfig. */
#include "worker/formats/hf_config.h"
#include "proto/base/json.h"
#include <math.h>
#include <string.h>

#define HIDDEN_MAX (1 << 20)      /* 64 times the widest Llama */
#define VOCAB_MAX (1 << 24)       /* ids are int32 with room to spare */
#define POSITIONS_MAX (1ll << 32) /* beyond it positions stop being exact in fp32 angles anyway */
#define HEADS_MAX 4096

struct reader {
    const json_t *at;
    const char *where;
    struct lh_err *reterr;
    int rc; /* the first error; later reads do nothing */
};

static int64_t integer(struct reader *r, const char *key, int64_t otherwise, int64_t min,
                       int64_t max)
{
    const json_t *v = json_object_get(r->at, key);

    if (r->rc < 0 || ((!v || json_is_null(v)) && otherwise >= 0))
        return otherwise;
    if (!v)
        r->rc = lh_err_set(r->reterr, LH_EINPUT, "'%s' has no member '%s'; is it a Llama's config?",
                           r->where, key);
    else if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max)
        r->rc =
            lh_err_set(r->reterr, LH_EINPUT, "'%s': '%s' is not a whole number from %lld to %lld",
                       r->where, key, (long long)min, (long long)max);
    return r->rc < 0 ? otherwise : json_integer_value(v);
}

/* otherwise NAN: required. */
static double number(struct reader *r, const char *key, double otherwise, double min, double max)
{
    const json_t *v = json_object_get(r->at, key);
    double x = json_number_value(v);

    if (r->rc < 0 || ((!v || json_is_null(v)) && !isnan(otherwise)))
        return otherwise;
    if (!v || !json_is_number(v) || !(x >= min && x <= max)) {
        r->rc =
            lh_err_set(r->reterr, LH_EINPUT, "'%s': '%s' is %s, a number from %g to %g is needed",
                       r->where, key, v ? "something else" : "missing", min, max);
        return otherwise;
    }
    return x;
}

static void refuse_true(struct reader *r, const char *key)
{
    if (r->rc == 0 && json_is_true(json_object_get(r->at, key)))
        r->rc =
            lh_err_set(r->reterr, LH_EINPUT,
                       "'%s': '%s' is true; models with biases are not supported", r->where, key);
}

static void check_architecture(struct reader *r)
{
    const json_t *list = json_object_get(r->at, "architectures");
    const char *first = json_string_value(json_array_get(list, 0));
    const char *type = lh_json_str(r->at, "model_type", NULL);
    const char *activation = lh_json_str(r->at, "hidden_act", "silu");

    if (first && strcmp(first, "LlamaForCausalLM") != 0)
        r->rc = lh_err_set(r->reterr, LH_EINPUT,
                           "'%s': the architecture is %.64s; only LlamaForCausalLM is supported",
                           r->where, first);
    else if (!first && !type)
        r->rc = lh_err_set(
            r->reterr, LH_EINPUT,
            "'%s' has neither 'architectures' nor 'model_type'; is it a model's config?", r->where);
    else if (type && strcmp(type, "llama") != 0)
        r->rc = lh_err_set(r->reterr, LH_EINPUT,
                           "'%s': the model type is '%.64s'; only 'llama' is supported", r->where,
                           type);
    else if (strcmp(activation, "silu") != 0 && strcmp(activation, "swish") != 0)
        r->rc =
            lh_err_set(r->reterr, LH_EINPUT, "'%s': hidden_act is '%.64s'; only silu is supported",
                       r->where, activation);
    else if (json_is_object(json_object_get(r->at, "quantization_config")))
        r->rc = lh_err_set(
            r->reterr, LH_EINPUT,
            "'%s' has a quantization_config; use the weights in F32, F16 or BF16, or a GGUF",
            r->where);
    refuse_true(r, "attention_bias");
    refuse_true(r, "mlp_bias");
}

/* An id, or the first of a list (several ends of text), or -1. */
static int64_t token_id(struct reader *r, const char *key, int64_t vocab)
{
    const json_t *v = json_object_get(r->at, key);

    if (json_is_array(v))
        v = json_array_get(v, 0);
    if (!v || json_is_null(v) || r->rc < 0)
        return -1;
    if (json_is_integer(v) && json_integer_value(v) == -1)
        return -1; /* how some files say "none" */
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= vocab) {
        r->rc = lh_err_set(r->reterr, LH_EINPUT, "'%s': '%s' is not an id below vocab_size (%lld)",
                           r->where, key, (long long)vocab);
        return -1;
    }
    return json_integer_value(v);
}

static void rope_type(struct reader *r, struct rope_config *rope)
{
    static const struct {
        const char *name;
        enum lh_rope type;
    } types[] = {{"default", LH_ROPE_DEFAULT}, {"linear", LH_ROPE_LINEAR},
                 {"dynamic", LH_ROPE_DYNAMIC}, {"yarn", LH_ROPE_YARN},
                 {"llama3", LH_ROPE_LLAMA3},   {"longrope", LH_ROPE_LONGROPE}};
    const char *name = lh_json_str(r->at, "rope_type", lh_json_str(r->at, "type", NULL));

    if (!name) {
        /* transformers 5 may leave the type out when nothing is scaled. */
        if (json_object_get(r->at, "factor"))
            r->rc = lh_err_set(r->reterr, LH_EINPUT, "'%s': position scaling without a 'rope_type'",
                               r->where);
        return;
    }
    for (unsigned i = 0; i < LH_ARRAY_LEN(types); i++) {
        if (strcmp(name, types[i].name) == 0) {
            rope->type = types[i].type;
            return;
        }
    }
    r->rc = lh_err_set(
        r->reterr, LH_EINPUT,
        "'%s': rope_type '%.32s' is none of default, linear, dynamic, yarn, llama3, longrope",
        r->where, name);
}

static void factor_list(struct reader *r, const char *key, int64_t head_dim, double *out)
{
    const json_t *list = json_object_get(r->at, key);

    if (r->rc < 0)
        return;
    if (!json_is_array(list) || (int64_t)json_array_size(list) != head_dim / 2 ||
        head_dim / 2 > MODEL_ROPE_FACTORS_MAX) {
        r->rc = lh_err_set(r->reterr, LH_EINPUT,
                           "'%s': '%s' must be a list of %lld numbers (at most %d)", r->where, key,
                           (long long)(head_dim / 2), MODEL_ROPE_FACTORS_MAX);
        return;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        out[i] = json_number_value(json_array_get(list, i));
        if (!(out[i] > 0 && out[i] < 1e9)) {
            r->rc = lh_err_set(r->reterr, LH_EINPUT,
                               "'%s': entry %zu of '%s' is not a number above 0", r->where, i, key);
            return;
        }
    }
}

static void yarn_members(struct reader *r, struct rope_config *rope)
{
    const json_t *truncate = json_object_get(r->at, "truncate");

    rope->beta_fast = number(r, "beta_fast", 32, 1e-9, 1e9);
    rope->beta_slow = number(r, "beta_slow", 1, 1e-9, 1e9);
    rope->mscale = number(r, "mscale", 0, 0, 1e6);
    rope->mscale_all_dim = number(r, "mscale_all_dim", 0, 0, 1e6);
    if (r->rc == 0 && json_is_false(truncate))
        r->rc = lh_err_set(r->reterr, LH_EINPUT, "'%s': yarn with truncate false is not supported",
                           r->where);
}

static void longrope_members(struct reader *r, const struct model_config *c,
                             struct rope_config *rope)
{
    factor_list(r, "short_factor", c->head_dim, rope->short_factor);
    factor_list(r, "long_factor", c->head_dim, rope->long_factor);
    rope->n_factors = (unsigned)(c->head_dim / 2);
    if (r->rc == 0 && rope->original_length <= 0)
        r->rc = lh_err_set(r->reterr, LH_EINPUT,
                           "'%s': longrope needs 'original_max_position_embeddings'", r->where);
    if (r->rc == 0 && rope->factor <= 0)
        rope->factor = fmax(1, (double)c->max_positions / rope->original_length);
}

/* The scheme, from rope_parameters (transformers 5) or rope_scaling and rope_theta (4). */
static void read_rope(struct reader *r, struct model_config *c)
{
    const json_t *top = r->at, *v5 = json_object_get(top, "rope_parameters");
    const json_t *scaling = json_is_object(v5) ? v5 : json_object_get(top, "rope_scaling");
    struct rope_config *rope = &c->rope;
    bool needs_factor;

    rope->factor = 1;
    rope->theta = number(r, "rope_theta", 10000, 1e-3, 1e15);
    rope->original_length =
        number(r, "original_max_position_embeddings", 0, 0, (double)POSITIONS_MAX);
    if (r->rc < 0 || !scaling || json_is_null(scaling))
        return;
    if (!json_is_object(scaling)) {
        r->rc = lh_err_set(r->reterr, LH_EINPUT, "'%s': the position scaling is not an object",
                           r->where);
        return;
    }
    r->at = scaling;
    rope_type(r, rope);
    rope->theta = number(r, "rope_theta", rope->theta, 1e-3, 1e15);
    (void)number(r, "partial_rotary_factor", 1, 1, 1);
    rope->original_length = number(r, "original_max_position_embeddings", rope->original_length, 0,
                                   (double)POSITIONS_MAX);
    if (rope->type != LH_ROPE_DEFAULT && r->rc == 0) {
        needs_factor = rope->type != LH_ROPE_LONGROPE;
        rope->factor = number(r, "factor", needs_factor ? (double)NAN : 0, 1, 1e6);
        rope->attention_factor = number(r, "attention_factor", 0, 0, 1e6);
    }
    if (rope->type == LH_ROPE_DYNAMIC) /* whatever else the config says, as transformers */
        rope->original_length = (double)c->max_positions;
    if (rope->type == LH_ROPE_YARN)
        yarn_members(r, rope);
    if (rope->type == LH_ROPE_LONGROPE)
        longrope_members(r, c, rope);
    if (rope->type == LH_ROPE_LLAMA3) {
        rope->low_freq_factor = number(r, "low_freq_factor", (double)NAN, 1e-6, 1e6);
        rope->high_freq_factor = number(r, "high_freq_factor", (double)NAN, 1e-6, 1e6);
        if (r->rc == 0 &&
            (rope->high_freq_factor <= rope->low_freq_factor || rope->original_length <= 0))
            r->rc = lh_err_set(r->reterr, LH_EINPUT,
                               "'%s': llama3 positions need original_max_position_embeddings and a "
                               "high_freq_factor above low_freq_factor",
                               r->where);
    }
    r->at = top;
}

static void read_sizes(struct reader *r, struct model_config *c)
{
    c->n_layers = integer(r, "num_hidden_layers", -1, 1, LH_LAYERS_MAX);
    c->hidden = integer(r, "hidden_size", -1, 1, HIDDEN_MAX);
    c->ff = integer(r, "intermediate_size", -1, 1, 16 * HIDDEN_MAX);
    c->vocab = integer(r, "vocab_size", -1, 1, VOCAB_MAX);
    c->heads = integer(r, "num_attention_heads", -1, 1, HEADS_MAX);
    c->kv_heads = integer(r, "num_key_value_heads", c->heads, 1, HEADS_MAX);
    c->max_positions = integer(r, "max_position_embeddings", 2048, 1, POSITIONS_MAX);
    c->norm_eps = number(r, "rms_norm_eps", 1e-6, 1e-30, 1);
    if (r->rc < 0)
        return;
    c->head_dim = integer(r, "head_dim", c->hidden / c->heads, 2, HIDDEN_MAX);
    if (r->rc < 0)
        return;
    if (!json_is_integer(json_object_get(r->at, "head_dim")) && c->hidden % c->heads != 0)
        r->rc = lh_err_set(r->reterr, LH_EINPUT,
                           "'%s': hidden_size %lld is no multiple of num_attention_heads %lld",
                           r->where, (long long)c->hidden, (long long)c->heads);
    else if (c->heads % c->kv_heads != 0)
        r->rc =
            lh_err_set(r->reterr, LH_EINPUT,
                       "'%s': num_attention_heads %lld is no multiple of num_key_value_heads %lld",
                       r->where, (long long)c->heads, (long long)c->kv_heads);
    else if (c->head_dim % 2 != 0)
        r->rc = lh_err_set(r->reterr, LH_EINPUT,
                           "'%s': a head size of %lld is odd, rotation needs pairs", r->where,
                           (long long)c->head_dim);
}

int hf_config_parse(json_t *raw, const char *where, struct model_config *ret_config,
                    struct lh_err *reterr)
{
    struct reader r = {raw, where, reterr, 0};
    struct model_config c;

    memset(&c, 0, sizeof(c));
    if (!json_is_object(raw))
        return lh_err_set(reterr, LH_EINPUT, "'%s' is not a JSON object", where);
    check_architecture(&r);
    read_sizes(&r, &c);
    c.tied = lh_json_bool(raw, "tie_word_embeddings", 0) != 0;
    (void)number(&r, "partial_rotary_factor", 1, 1, 1);
    c.bos_id = token_id(&r, "bos_token_id", c.vocab);
    c.eos_id = token_id(&r, "eos_token_id", c.vocab);
    c.pad_id = token_id(&r, "pad_token_id", c.vocab);
    read_rope(&r, &c);
    if (r.rc < 0)
        return r.rc;
    c.raw = json_incref(raw);
    *ret_config = c;
    return 0;
}
