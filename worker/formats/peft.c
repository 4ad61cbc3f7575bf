/* peft.c - see peft.h. Defaults are those of PEFT's LoraConfig.
 *
 * What is refused is refused because it would change the numbers: another initialisation of the
 * base, biases, DoRA, layers left out. Members that PEFT adds from version to version and that are
 * null or false change nothing.
 */
#include "worker/formats/peft.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PEFT_CONFIG_BYTES_MAX (4u << 20)
#define PEFT_NAME_MAX 64
#define PEFT_RANK_MAX 1048576 /* above any layer's sizes, far below what overflows */

/* In the order of the letters, which is how PEFT sorts them. */
static const struct {
    const char *name;
    enum lh_target bit;
} targets[] = {{"down_proj", LH_TARGET_DOWN}, {"gate_proj", LH_TARGET_GATE},
               {"k_proj", LH_TARGET_K},       {"o_proj", LH_TARGET_O},
               {"q_proj", LH_TARGET_Q},       {"up_proj", LH_TARGET_UP},
               {"v_proj", LH_TARGET_V}};

static json_t *number(double x)
{
    return x == (double)(json_int_t)x ? json_integer((json_int_t)x) : json_real(x);
}

static json_t *pattern_of(const struct lh_pattern *p, unsigned n)
{
    json_t *o = json_object();

    for (unsigned i = 0; i < n; i++)
        (void)json_object_set_new(o, p[i].module, number(p[i].value));
    return o;
}

static json_t *modules_of(const struct lh_job *job, bool tied)
{
    json_t *list = json_array();

    if (!job->adapter.embeddings && !job->adapter.norms) {
        json_decref(list);
        return json_null();
    }
    if (job->adapter.embeddings)
        (void)json_array_append_new(list, json_string("embed_tokens"));
    if (job->adapter.norms)
        (void)json_array_append_new(list, json_string("input_layernorm"));
    if (job->adapter.embeddings && tied)
        (void)json_array_append_new(list, json_string("model.embed_tokens"));
    if (job->adapter.norms) {
        (void)json_array_append_new(list, json_string("norm"));
        (void)json_array_append_new(list, json_string("post_attention_layernorm"));
    }
    return list;
}

json_t *peft_config(const struct lh_job *job, const char *base, bool tied)
{
    json_t *names = json_array(), *o;

    for (unsigned i = 0; i < LH_ARRAY_LEN(targets); i++) {
        if (job->adapter.targets & targets[i].bit)
            (void)json_array_append_new(names, json_string(targets[i].name));
    }
    /* Sorted, as save_pretrained writes it. */
    o = json_pack(
        "{s:o, s:n, s:s, s:s, s:b, s:b, s:b, s:b, s:n, s:n, s:o, s:f, s:o, s:s, s:I, s:o, s:n, "
        "s:o, "
        "s:s, s:b, s:b}",
        "alpha_pattern", pattern_of(job->adapter.alpha_pattern, job->adapter.n_alpha_pattern),
        "auto_mapping", "base_model_name_or_path", base, "bias", "none", "ensure_weight_tying",
        tied && job->adapter.embeddings, "fan_in_fan_out", 0, "inference_mode", 1,
        "init_lora_weights", 1, "layers_pattern", "layers_to_transform", "lora_alpha",
        number(job->adapter.alpha), "lora_dropout", job->adapter.dropout, "modules_to_save",
        modules_of(job, tied), "peft_type", "LORA", "r", (json_int_t)job->adapter.rank,
        "rank_pattern", pattern_of(job->adapter.rank_pattern, job->adapter.n_rank_pattern),
        "revision", "target_modules", names, "task_type", "CAUSAL_LM", "use_dora", 0, "use_rslora",
        (int)job->adapter.use_rslora);
    return o;
}

void peft_close(struct peft_adapter *a)
{
    st_close(a->weights);
    json_decref(a->config);
    *a = (struct peft_adapter){NULL, NULL};
}

static int check_strings(const json_t *list, const char *key, const char *path,
                         struct lh_err *reterr)
{
    size_t i;
    json_t *v;

    if (!json_is_array(list))
        return lh_err_set(reterr, LH_EINPUT, "'%s': '%s' must be a list of module names", path,
                          key);
    json_array_foreach(list, i, v)
    {
        if (!json_is_string(v) || json_string_length(v) > PEFT_NAME_MAX)
            return lh_err_set(reterr, LH_EINPUT, "'%s': entry %zu of '%s' is not a module name",
                              path, i, key);
    }
    return 0;
}

static int check_unsupported(const json_t *config, const char *path, struct lh_err *reterr)
{
    /* clang-format off: a line each would be a page */
    static const char *const must_be_off[] = {
        "alora_invocation_tokens", "arrow_config", "corda_config", "exclude_modules",
        "fan_in_fan_out", "kasa_config", "layer_replication", "layers_to_transform", "lora_bias",
        "lora_ga_config", "monteclora_config", "target_parameters", "trainable_token_indices",
        "use_bdlora", "use_dora", "use_qalora", "velora_config",
    };
    /* clang-format on */
    const json_t *init = json_object_get(config, "init_lora_weights");

    for (unsigned i = 0; i < LH_ARRAY_LEN(must_be_off); i++) {
        const json_t *v = json_object_get(config, must_be_off[i]);

        if (v && !json_is_null(v) && !json_is_false(v))
            return lh_err_set(reterr, LH_EINPUT, "'%s': '%s' is set, which is not supported", path,
                              must_be_off[i]);
    }
    if (strcmp(lh_json_str(config, "bias", "none"), "none") != 0)
        return lh_err_set(reterr, LH_EINPUT, "'%s': 'bias' is '%.32s'; only \"none\" is supported",
                          path, lh_json_str(config, "bias", ""));
    if (json_is_string(init) && strcmp(json_string_value(init), "gaussian") != 0)
        return lh_err_set(
            reterr, LH_EINPUT,
            "'%s': 'init_lora_weights' is '%.32s', which may change the base; merge the adapter "
            "into its base with PEFT and start from that",
            path, json_string_value(init));
    return 0;
}

static bool is_rank(const json_t *value)
{
    return json_integer_value(value) >= 1 && json_integer_value(value) <= PEFT_RANK_MAX;
}

/* rank_pattern and alpha_pattern: an object of module names, or nothing. */
static int check_pattern_values(const json_t *config, const char *key, bool ranks, const char *path,
                                struct lh_err *reterr)
{
    json_t *patterns = json_object_get(config, key), *value;
    const char *module;

    if (patterns && !json_is_null(patterns) && !json_is_object(patterns))
        return lh_err_set(reterr, LH_EINPUT, "'%s': '%s' must be an object of module names", path,
                          key);
    json_object_foreach(patterns, module, value)
    {
        if (ranks ? !is_rank(value) : !json_is_number(value))
            return lh_err_set(reterr, LH_EINPUT, "'%s': '%s' of '%.64s' is not a %s", path, key,
                              module, ranks ? "whole number from 1 to 1048576" : "number");
    }
    return 0;
}

static int check_config(const json_t *config, const char *path, struct lh_err *reterr)
{
    const char *type = lh_json_str(config, "peft_type", "");
    const json_t *saved = json_object_get(config, "modules_to_save");
    const json_t *r = json_object_get(config, "r");
    int rc;

    if (strcmp(type, "LORA") != 0)
        return lh_err_set(reterr, LH_EINPUT, "'%s': 'peft_type' is '%.32s'; only LORA is supported",
                          path, type);
    rc = check_unsupported(config, path, reterr);
    if (rc == 0)
        rc = check_strings(json_object_get(config, "target_modules"), "target_modules", path,
                           reterr);
    if (rc == 0 && saved && !json_is_null(saved))
        rc = check_strings(saved, "modules_to_save", path, reterr);
    if (rc < 0)
        return rc;
    if (r && !is_rank(r))
        return lh_err_set(reterr, LH_EINPUT, "'%s': 'r' is not a whole number from 1 to 1048576",
                          path);
    rc = check_pattern_values(config, "rank_pattern", true, path, reterr);
    return rc < 0 ? rc : check_pattern_values(config, "alpha_pattern", false, path, reterr);
}

static int check_keys(const struct st_file *f, const char *path, struct lh_err *reterr)
{
    for (unsigned i = 0; i < st_count(f); i++) {
        const struct st_tensor *t = st_at(f, i);

        if (!lh_starts_with(t->name, PEFT_PREFIX))
            return lh_err_set(reterr, LH_EINPUT, "'%s': tensor '%.100s' does not begin with '%s'",
                              path, t->name, PEFT_PREFIX);
        if (t->dtype != ST_F32 && t->dtype != ST_BF16 && t->dtype != ST_F16)
            return lh_err_set(reterr, LH_EINPUT,
                              "'%s': tensor '%.100s' is of type %s, not F32, BF16 or F16", path,
                              t->name, st_dtype_name(t->dtype));
    }
    return 0;
}

int peft_open(const char *dir, struct peft_adapter *ret_adapter, struct lh_err *reterr)
{
    struct peft_adapter a = {NULL, NULL};
    char path[4096];
    int rc;

    if (snprintf(path, sizeof(path), "%s/adapter_config.json", dir) >= (int)sizeof(path) - 32)
        return lh_err_set(reterr, -ENAMETOOLONG, "open adapter '%s'", dir);
    if (!lh_path_exists(path))
        return lh_err_set(reterr, LH_EINPUT,
                          "'%s' has no adapter_config.json; give a PEFT adapter directory", dir);
    rc = lh_json_load(path, PEFT_CONFIG_BYTES_MAX, &a.config, reterr);
    if (rc == 0)
        rc = check_config(a.config, path, reterr);
    (void)snprintf(path, sizeof(path), "%s/adapter_model.safetensors", dir);
    if (rc == 0 && !lh_path_exists(path))
        rc = lh_err_set(reterr, LH_EINPUT,
                        "'%s' has no adapter_model.safetensors; convert an older "
                        "adapter_model.bin with PEFT",
                        dir);
    if (rc == 0)
        rc = st_open(path, &a.weights, reterr);
    if (rc == 0)
        rc = check_keys(a.weights, path, reterr);
    if (rc < 0) {
        peft_close(&a);
        return rc;
    }
    *ret_adapter = a;
    return 0;
}

static int check_number(const json_t *config, const char *key, double otherwise, double wanted,
                        const char *pointer, struct lh_err *reterr)
{
    double has = lh_json_num(config, key, otherwise);

    if (has == wanted)
        return 0;
    return lh_err_at(reterr, LH_EJOB, pointer,
                     "the adapter to start from has %s = %g, the job asks for %g; make them equal",
                     key, has, wanted);
}

static void target_names(unsigned bits, char buf[static 128])
{
    size_t used = 0;

    buf[0] = '\0';
    for (unsigned i = 0; i < LH_ARRAY_LEN(targets); i++) {
        if (bits & targets[i].bit)
            used +=
                (size_t)snprintf(buf + used, 128 - used, "%s%s", used ? ", " : "", targets[i].name);
    }
}

static int check_targets(const json_t *config, const struct lh_job *job, struct lh_err *reterr)
{
    char has_text[128], wanted_text[128];
    unsigned has = 0;
    size_t i;
    json_t *v;

    json_array_foreach(json_object_get(config, "target_modules"), i, v)
    {
        unsigned bit = 0;

        for (unsigned t = 0; t < LH_ARRAY_LEN(targets); t++) {
            if (strcmp(json_string_value(v), targets[t].name) == 0)
                bit = targets[t].bit;
        }
        if (!bit)
            return lh_err_at(
                reterr, LH_EJOB, "/adapter/targets",
                "the adapter to start from has LoRA on '%s', which is none of the seven linear "
                "layers of a Llama layer",
                json_string_value(v));
        has |= bit;
    }
    if (has == job->adapter.targets)
        return 0;
    target_names(has, has_text);
    target_names(job->adapter.targets, wanted_text);
    return lh_err_at(
        reterr, LH_EJOB, "/adapter/targets",
        "the adapter to start from has LoRA on %s, the job asks for %s; make them equal", has_text,
        wanted_text);
}

static int check_pattern(const json_t *config, const char *key, const struct lh_pattern *p,
                         unsigned n, const char *pointer, struct lh_err *reterr)
{
    const json_t *has = json_object_get(config, key);

    if (json_object_size(has) != n)
        return lh_err_at(
            reterr, LH_EJOB, pointer,
            "the adapter to start from has %zu entries in %s, the job has %u; make them equal",
            json_object_size(has), key, n);
    for (unsigned i = 0; i < n; i++) {
        const json_t *v = json_object_get(has, p[i].module);

        if (!json_is_number(v) || json_number_value(v) != p[i].value)
            return lh_err_at(
                reterr, LH_EJOB, pointer,
                "for module '%s' the adapter to start from has %g in %s, the job asks for %g",
                p[i].module, json_number_value(v), key, p[i].value);
    }
    return 0;
}

/* PEFT's rule: a module is kept whole when its name ends with an entry. */
static bool saves(const json_t *list, const char *module)
{
    size_t i;
    json_t *v;

    json_array_foreach(list, i, v)
    {
        if (lh_ends_with(module, json_string_value(v)))
            return true;
    }
    return false;
}

static int check_saved(const json_t *config, const struct lh_job *job, struct lh_err *reterr)
{
    static const char *const norms[] = {"model.layers.0.input_layernorm",
                                        "model.layers.0.post_attention_layernorm", "model.norm"};
    const json_t *list = json_object_get(config, "modules_to_save");
    bool embeddings = saves(list, "model.embed_tokens");
    unsigned n_norms = 0;

    for (unsigned i = 0; i < LH_ARRAY_LEN(norms); i++)
        n_norms += saves(list, norms[i]);
    if (saves(list, "lm_head") && !lh_json_bool(config, "ensure_weight_tying", 0))
        return lh_err_at(
            reterr, LH_EJOB, "/model/adapter",
            "the adapter to start from trains the head by itself (modules_to_save has lm_head), "
            "which is not supported");
    if (embeddings != job->adapter.embeddings)
        return lh_err_at(reterr, LH_EJOB, "/adapter/embeddings",
                         "the adapter to start from has %s embeddings, the job says embeddings: %s",
                         embeddings ? "trained" : "no trained",
                         job->adapter.embeddings ? "true" : "false");
    if (n_norms != 0 && n_norms != LH_ARRAY_LEN(norms))
        return lh_err_at(
            reterr, LH_EJOB, "/adapter/norms",
            "the adapter to start from trains some norms and not others, which is not supported");
    if ((n_norms != 0) != job->adapter.norms)
        return lh_err_at(reterr, LH_EJOB, "/adapter/norms",
                         "the adapter to start from has %s norms, the job says norms: %s",
                         n_norms ? "trained" : "no trained", job->adapter.norms ? "true" : "false");
    return 0;
}

int peft_check(const struct peft_adapter *a, const struct lh_job *job, struct lh_err *reterr)
{
    const json_t *c = a->config;
    bool rslora = lh_json_bool(c, "use_rslora", 0) != 0;
    int rc;

    if (job->full_finetune)
        return lh_err_at(
            reterr, LH_EJOB, "/model/adapter",
            "a job without an adapter cannot start from one; merge it into the base first");
    rc = check_number(c, "r", 8, (double)job->adapter.rank, "/adapter/rank", reterr);
    if (rc == 0)
        rc = check_number(c, "lora_alpha", 8, job->adapter.alpha, "/adapter/alpha", reterr);
    if (rc == 0)
        rc = check_targets(c, job, reterr);
    if (rc == 0 && rslora != job->adapter.use_rslora)
        rc = lh_err_at(reterr, LH_EJOB, "/adapter/use_rslora",
                       "the adapter to start from has use_rslora %s, the job says %s",
                       rslora ? "true" : "false", job->adapter.use_rslora ? "true" : "false");
    if (rc == 0)
        rc = check_pattern(c, "rank_pattern", job->adapter.rank_pattern,
                           job->adapter.n_rank_pattern, "/adapter/rank_pattern", reterr);
    if (rc == 0)
        rc = check_pattern(c, "alpha_pattern", job->adapter.alpha_pattern,
                           job->adapter.n_alpha_pattern, "/adapter/alpha_pattern", reterr);
    return rc < 0 ? rc : check_saved(c, job, reterr);
}
