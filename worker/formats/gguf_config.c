/* gguf_config.c - see gguf_config.h.
 *
 * GGUF stores floats in 32 bits, so 1e-5 reads as 9.99999974e-06; the shortest decimal number that
 * rounds to the same 32 bits is taken, which is what the model's author wrote.
 */
#include "worker/formats/gguf_config.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct maker {
    const struct gguf_file *f;
    const char *path;
    json_t *raw;
    struct lh_err *reterr;
    int rc; /* the first error; later calls do nothing */
};

static double shortest(double x)
{
    char text[40];

    for (int digits = 1; digits < 9; digits++) {
        (void)snprintf(text, sizeof(text), "%.*g", digits, x);
        if ((float)strtod(text, NULL) == (float)x)
            return strtod(text, NULL);
    }
    return x;
}

static void put(struct maker *m, json_t *object, const char *key, json_t *value)
{
    if (m->rc == 0 && json_object_set_new(object, key, value) < 0)
        m->rc = lh_err_set(m->reterr, -ENOMEM, "config of '%s'", m->path);
    else if (m->rc < 0)
        json_decref(value);
}

/* Prefixes an error of the gguf_* getters with the file. */
static int checked(struct maker *m, int rc)
{
    if (rc < 0 && m->rc == 0)
        m->rc = lh_err_prefix(m->reterr, rc, "'%s'", m->path);
    return rc;
}

/* Copies an integer key; true when it was there. */
static bool integer(struct maker *m, const char *from, const char *to, bool required)
{
    int64_t v = 0;
    int rc;

    if (m->rc < 0)
        return false;
    rc = checked(m, gguf_i64(m->f, from, &v, m->reterr));
    if (rc == 1)
        put(m, m->raw, to, json_integer(v));
    else if (rc == 0 && required)
        m->rc = lh_err_set(m->reterr, LH_EINPUT, "'%s' has no key '%s'; is it a whole model?",
                           m->path, from);
    return rc == 1;
}

/* The value of a float key, or otherwise. */
static double number(struct maker *m, const char *key, double otherwise)
{
    double v = otherwise;

    if (m->rc < 0)
        return otherwise;
    if (checked(m, gguf_num(m->f, key, &v, m->reterr)) != 1)
        return otherwise;
    if (!isfinite(v)) {
        m->rc =
            lh_err_set(m->reterr, LH_EINPUT, "'%s': key '%s' is not a finite number", m->path, key);
        return otherwise;
    }
    return shortest(v);
}

/* Refuses when the key is there with another value than the one that changes nothing. */
static void must_be(struct maker *m, const char *key, double neutral)
{
    double v = number(m, key, neutral);

    if (m->rc == 0 && v != neutral)
        m->rc = lh_err_set(m->reterr, LH_EINPUT, "'%s': key '%s' is %g, which is not supported",
                           m->path, key, v);
}

static json_t *factors_of(struct maker *m, const char *tensor)
{
    const struct gguf_tensor *t = gguf_tensor_find(m->f, tensor);
    json_t *list;

    if (!t || m->rc < 0)
        return NULL;
    if (t->type != QUANT_F32 || t->n_dims != 1 || t->dims[0] > 4096) {
        m->rc = lh_err_set(m->reterr, LH_EINPUT, "'%s': tensor '%s' is not a vector of F32",
                           m->path, tensor);
        return NULL;
    }
    list = json_array();
    for (int64_t i = 0; i < t->dims[0]; i++) {
        float x;

        memcpy(&x, t->data + 4 * i, sizeof(x));
        if (!(x > 0 && x < 1e9f)) {
            m->rc =
                lh_err_set(m->reterr, LH_EINPUT, "'%s': entry %lld of '%s' is not a number above 0",
                           m->path, (long long)i, tensor);
            json_decref(list);
            return NULL;
        }
        (void)json_array_append_new(list, json_real(shortest((double)x)));
    }
    return list;
}

/* What the llama3 scheme divides the frequency of dimension i by. */
static double llama3_divisor(double theta, double head_dim, double i, double factor,
                             double original)
{
    const double low = 1, high = 4;
    double wave = 2 * M_PI * pow(theta, 2 * i / head_dim), s;

    if (wave < original / high)
        return 1;
    if (wave > original / low)
        return factor;
    s = (original / wave - low) / (high - low);
    return 1 / ((1 - s) / factor + s);
}

/* rope_freqs.weight: the divisor of each frequency. When they are what the llama3 scheme gives for
 * a common original length its members are written, else the list itself as longrope with no change
 * of the attention's scale. */
static void rope_freqs(struct maker *m, json_t *rope, double theta)
{
    static const int originals[] = {8192, 2048, 4096, 16384, 32768, 65536, 131072};
    json_t *list = factors_of(m, "rope_freqs.weight");
    size_t n = json_array_size(list);
    double factor = n ? json_number_value(json_array_get(list, n - 1)) : 1;
    bool all_one = true;

    for (size_t i = 0; i < n; i++)
        all_one = all_one && json_number_value(json_array_get(list, i)) == 1;
    if (!list || all_one) {
        json_decref(list);
        return;
    }
    for (unsigned o = 0; o < LH_ARRAY_LEN(originals); o++) {
        double worst = 0;

        for (size_t i = 0; i < n; i++)
            worst = fmax(worst, fabs(json_number_value(json_array_get(list, i)) /
                                         llama3_divisor(theta, 2.0 * (double)n, (double)i, factor,
                                                        originals[o]) -
                                     1));
        if (worst < 1e-5) {
            put(m, rope, "rope_type", json_string("llama3"));
            put(m, rope, "factor", json_real(factor));
            put(m, rope, "low_freq_factor", json_real(1));
            put(m, rope, "high_freq_factor", json_real(4));
            put(m, rope, "original_max_position_embeddings", json_integer(originals[o]));
            json_decref(list);
            return;
        }
    }
    put(m, rope, "rope_type", json_string("longrope"));
    put(m, rope, "factor", json_real(fmax(1, factor)));
    put(m, rope, "attention_factor", json_real(1));
    put(m, rope, "original_max_position_embeddings",
        json_integer(json_integer_value(json_object_get(m->raw, "max_position_embeddings"))));
    put(m, rope, "short_factor", json_incref(list));
    put(m, rope, "long_factor", list);
}

static void rope_longrope(struct maker *m, json_t *rope)
{
    json_t *lists[2] = {factors_of(m, "rope_factors_short.weight"),
                        factors_of(m, "rope_factors_long.weight")};

    if (m->rc == 0 && (!lists[0] || !lists[1]))
        m->rc = lh_err_set(
            m->reterr, LH_EINPUT,
            "'%s': longrope without tensors rope_factors_short and rope_factors_long", m->path);
    put(m, rope, "short_factor", lists[0] ? lists[0] : json_null());
    put(m, rope, "long_factor", lists[1] ? lists[1] : json_null());
    put(m, rope, "attention_factor", json_real(number(m, "llama.rope.scaling.attn_factor", 1)));
}

static void rope_scaled(struct maker *m, json_t *rope, const char *type)
{
    double factor = number(m, "llama.rope.scaling.factor", number(m, "llama.rope.scale_linear", 1));
    double attention = number(m, "llama.rope.scaling.attn_factor", 1);
    double original = number(m, "llama.rope.scaling.original_context_length", 0);

    put(m, rope, "rope_type", json_string(type));
    if (strcmp(type, "longrope") == 0)
        rope_longrope(m, rope);
    else
        put(m, rope, "factor", json_real(factor));
    if (original > 0)
        put(m, rope, "original_max_position_embeddings", json_integer((json_int_t)original));
    if (strcmp(type, "yarn") != 0)
        return;
    must_be(m, "llama.rope.scaling.yarn_ext_factor", 1);
    must_be(m, "llama.rope.scaling.yarn_attn_factor", 1);
    must_be(m, "llama.rope.scaling.yarn_log_multiplier", 0);
    put(m, rope, "beta_fast", json_real(number(m, "llama.rope.scaling.yarn_beta_fast", 32)));
    put(m, rope, "beta_slow", json_real(number(m, "llama.rope.scaling.yarn_beta_slow", 1)));
    if (attention != 1) /* GGUF's multiplies the usual factor, Hugging Face's replaces it */
        put(m, rope, "attention_factor", json_real(attention * (0.1 * log(factor) + 1)));
}

static void rope_keys(struct maker *m)
{
    double theta = number(m, "llama.rope.freq_base", 10000);
    double linear = number(m, "llama.rope.scaling.factor", number(m, "llama.rope.scale_linear", 1));
    char type[32] = "none";
    json_t *rope;

    if (m->rc < 0 ||
        checked(m, gguf_str(m->f, "llama.rope.scaling.type", type, sizeof(type), m->reterr)) < 0)
        return;
    put(m, m->raw, "rope_theta", json_real(theta));
    rope = json_object();
    if (strcmp(type, "none") == 0 && linear != 1)
        (void)snprintf(type, sizeof(type), "linear");
    if (strcmp(type, "linear") == 0 || strcmp(type, "yarn") == 0 || strcmp(type, "longrope") == 0)
        rope_scaled(m, rope, type);
    else if (strcmp(type, "none") != 0)
        m->rc =
            lh_err_set(m->reterr, LH_EINPUT,
                       "'%s': llama.rope.scaling.type '%s' is none of none, linear, yarn, longrope",
                       m->path, type);
    else
        rope_freqs(m, rope, theta);
    if (json_object_size(rope) > 0)
        put(m, m->raw, "rope_scaling", rope);
    else
        json_decref(rope);
}

static void check_architecture(struct maker *m)
{
    char name[64] = "";
    int64_t n = 0;
    int rc = checked(m, gguf_str(m->f, "general.architecture", name, sizeof(name), m->reterr));

    if (rc >= 0 && strcmp(name, "llama") != 0)
        m->rc =
            lh_err_set(m->reterr, LH_EINPUT,
                       "'%s': the architecture is '%s'; only 'llama' is supported", m->path, name);
    if (m->rc == 0 && checked(m, gguf_i64(m->f, "split.count", &n, m->reterr)) == 1 && n > 1)
        m->rc = lh_err_set(
            m->reterr, LH_EINPUT,
            "'%s' is one of %lld pieces of a GGUF; join them with llama-gguf-split --merge",
            m->path, (long long)n);
    must_be(m, "llama.expert_count", 0);
    must_be(m, "llama.attention.sliding_window", 0);
}

static void size_keys(struct maker *m)
{
    const struct gguf_tensor *embedding = gguf_tensor_find(m->f, "token_embd.weight");
    int64_t rotated = 0, value = 0, head = 0;

    integer(m, "llama.block_count", "num_hidden_layers", true);
    integer(m, "llama.embedding_length", "hidden_size", true);
    integer(m, "llama.feed_forward_length", "intermediate_size", true);
    integer(m, "llama.attention.head_count", "num_attention_heads", true);
    integer(m, "llama.attention.head_count_kv", "num_key_value_heads", false);
    integer(m, "llama.context_length", "max_position_embeddings", true);
    integer(m, "llama.attention.key_length", "head_dim", false);
    if (m->rc == 0 && (!embedding || embedding->n_dims != 2))
        m->rc = lh_err_set(m->reterr, LH_EINPUT, "'%s' has no matrix 'token_embd.weight'", m->path);
    if (m->rc < 0)
        return;
    if (!integer(m, "llama.vocab_size", "vocab_size", false))
        put(m, m->raw, "vocab_size", json_integer(embedding->dims[1]));
    if (!json_object_get(m->raw, "head_dim")) {
        int64_t heads = json_integer_value(json_object_get(m->raw, "num_attention_heads"));
        int64_t hidden = json_integer_value(json_object_get(m->raw, "hidden_size"));

        if (heads > 0 && hidden > 0 && hidden % heads == 0)
            put(m, m->raw, "head_dim", json_integer(hidden / heads));
    }
    head = json_integer_value(json_object_get(m->raw, "head_dim"));
    if (checked(m, gguf_i64(m->f, "llama.rope.dimension_count", &rotated, m->reterr)) == 1 &&
        rotated != head)
        m->rc = lh_err_set(m->reterr, LH_EINPUT,
                           "'%s': %lld of %lld dimensions of a head are rotated; all must be",
                           m->path, (long long)rotated, (long long)head);
    if (m->rc == 0 &&
        checked(m, gguf_i64(m->f, "llama.attention.value_length", &value, m->reterr)) == 1 &&
        value != head)
        m->rc = lh_err_set(m->reterr, LH_EINPUT,
                           "'%s': keys of %lld but values of %lld elements a head", m->path,
                           (long long)head, (long long)value);
}

int gguf_config(const struct gguf_file *f, const char *path, json_t **ret_raw,
                struct lh_err *reterr)
{
    struct maker m = {f, path, json_object(), reterr, 0};

    if (!m.raw)
        return lh_err_set(reterr, -ENOMEM, "config of '%s'", path);
    check_architecture(&m);
    put(&m, m.raw, "architectures", json_pack("[s]", "LlamaForCausalLM"));
    put(&m, m.raw, "model_type", json_string("llama"));
    put(&m, m.raw, "hidden_act", json_string("silu"));
    size_keys(&m);
    put(&m, m.raw, "rms_norm_eps",
        json_real(number(&m, "llama.attention.layer_norm_rms_epsilon", 1e-5)));
    put(&m, m.raw, "attention_bias", json_false());
    put(&m, m.raw, "mlp_bias", json_false());
    put(&m, m.raw, "tie_word_embeddings", json_boolean(!gguf_tensor_find(f, "output.weight")));
    integer(&m, "tokenizer.ggml.bos_token_id", "bos_token_id", false);
    integer(&m, "tokenizer.ggml.eos_token_id", "eos_token_id", false);
    integer(&m, "tokenizer.ggml.padding_token_id", "pad_token_id", false);
    rope_keys(&m);
    if (m.rc < 0) {
        json_decref(m.raw);
        return m.rc;
    }
    *ret_raw = m.raw;
    return 0;
}
