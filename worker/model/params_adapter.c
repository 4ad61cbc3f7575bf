/* params_adapter.c - which parameters an adapter directory puts on top of a base; for evaluation,
 * where the directory and not the job says what there is. See params_spec_adapter in params.h. */
#include "proto/base/json.h"
#include "worker/model/params.h"
#include <errno.h>
#include <string.h>

static const char *const module_names[PARAMS_LINEARS] = {
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};

static int take_targets(const json_t *config, unsigned *ret_targets, struct lh_err *reterr)
{
    const json_t *list = json_object_get(config, "target_modules"), *entry;
    unsigned targets = 0;
    size_t i;

    json_array_foreach(list, i, entry)
    {
        const char *name = json_string_value(entry);
        unsigned bit = 0;

        for (unsigned k = 0; name && k < PARAMS_LINEARS; k++)
            if (strcmp(name, module_names[k]) == 0)
                bit = 1u << k;
        if (!bit)
            return lh_err_at(
                reterr, LH_EINPUT, "/model/adapter",
                "adapter_config.json has target module '%s', which is no linear layer of a Llama",
                name ? name : "?");
        targets |= bit;
    }
    if (!targets)
        return lh_err_at(reterr, LH_EINPUT, "/model/adapter",
                         "adapter_config.json needs target_modules as a list of layer names");
    *ret_targets = targets;
    return 0;
}

static int take_patterns(const json_t *config, const char *key, struct lh_arena *arena,
                         const struct lh_pattern **ret_patterns, unsigned *ret_n,
                         struct lh_err *reterr)
{
    json_t *patterns = json_object_get(config, key), *value;
    size_t n = json_object_size(patterns);
    struct lh_pattern *at = lh_arena_alloc(arena, LH_MAX(n, (size_t)1) * sizeof(*at));
    const char *module;
    unsigned i = 0;

    if (!at)
        return lh_err_set(reterr, -ENOMEM, "the patterns of the adapter");
    json_object_foreach(patterns, module, value)
    {
        at[i].module = lh_arena_strdup(arena, module);
        at[i].value = json_number_value(value);
        if (!at[i++].module)
            return lh_err_set(reterr, -ENOMEM, "the patterns of the adapter");
    }
    *ret_patterns = at;
    *ret_n = i;
    return 0;
}

int params_spec_adapter(const struct peft_adapter *adapter, enum kn_dtype dtype,
                        struct lh_arena *arena, struct params_spec *ret_spec, struct lh_err *reterr)
{
    const json_t *config = adapter->config;
    struct params_spec spec = {
        .lora = true,
        .embeddings = st_find(adapter->weights, PEFT_PREFIX "model.embed_tokens.weight") != NULL,
        .norms = st_find(adapter->weights, PEFT_PREFIX "model.norm.weight") != NULL,
        .use_rslora = lh_json_bool(config, "use_rslora", 0) != 0,
        .rank = lh_json_i64(config, "r", 8),
        .alpha = lh_json_num(config, "lora_alpha", 8),
        .dtype = dtype,
    };
    int rc = take_targets(config, &spec.targets, reterr);

    if (rc == 0)
        rc = take_patterns(config, "rank_pattern", arena, &spec.rank_pattern, &spec.n_rank_pattern,
                           reterr);
    if (rc == 0)
        rc = take_patterns(config, "alpha_pattern", arena, &spec.alpha_pattern,
                           &spec.n_alpha_pattern, reterr);
    if (rc == 0)
        *ret_spec = spec;
    return rc;
}
