/* params.c - the table of parameters: which there are, what trains, under which key; see params.h.
 *
 * Order: embedding, layers from the first (norm, q, k, v, o, norm, gate, up, down, each linear
 * followed by its LoRA factors), final norm, head. The order is part of how LoRA factors are
 * initialised and of how sums are made, so it must not change between versions without a note in
 * the checkpoint format.
 */
#include "worker/model/params.h"
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A tensor's first value begins a cache line in bf16, too. */
#define REGION_ALIGN 32

static const char *const linear_module[PARAMS_LINEARS] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj",
};

/* One table under construction. */
struct build {
    const struct model_config *config;
    const struct params_spec *spec;
    struct params *params;
    unsigned cap;
};

static int64_t padded(int64_t n)
{
    return (n + REGION_ALIGN - 1) / REGION_ALIGN * REGION_ALIGN;
}

static enum params_stretch stretch_of(const struct param *p)
{
    return p->w.t == KN_F32 ? PARAMS_EXACT : PARAMS_LOW;
}

struct params_range params_own(const struct params *p, const struct param *at)
{
    struct params_range own = p->own[stretch_of(at)];
    int64_t first = LH_MAX(own.first - at->place, (int64_t)0);
    int64_t end = LH_MIN(own.first + own.n - at->place, at->n);

    return (struct params_range){first, LH_MAX(end - first, (int64_t)0)};
}

/* Gives each tensor that trains its place in the regions. */
static void lay_out(struct params *p)
{
    for (int s = 0; s < PARAMS_STRETCHES; s++) {
        p->stretch[s].first = p->n_region;
        for (unsigned i = 0; i < p->n; i++) {
            if (!p->at[i].trains || (int)stretch_of(&p->at[i]) != s)
                continue;
            p->at[i].place = p->n_region;
            p->n_region += padded(p->at[i].n);
        }
        p->stretch[s].n = p->n_region - p->stretch[s].first;
        p->own[s] = p->stretch[s];
    }
}

const struct param *params_find(const struct params *p, const char *key)
{
    for (unsigned i = 0; i < p->n; i++)
        if (strcmp(p->at[i].key, key) == 0)
            return &p->at[i];
    return NULL;
}

const struct param *params_role(const struct params *p, enum param_role role, enum param_role of,
                                int layer)
{
    for (unsigned i = 0; i < p->n; i++)
        if (p->at[i].role == role && p->at[i].of == of && p->at[i].layer == layer)
            return &p->at[i];
    return NULL;
}

void params_spec_job(const struct lh_job *job, struct params_spec *ret_spec)
{
    *ret_spec = (struct params_spec){
        .full = job->full_finetune,
        .lora = !job->full_finetune,
        .trains = true,
        .embeddings = job->adapter.embeddings,
        .norms = job->adapter.norms,
        .use_rslora = job->adapter.use_rslora,
        .rank = job->adapter.rank,
        .alpha = job->adapter.alpha,
        .dropout = job->full_finetune ? 0 : job->adapter.dropout,
        .targets = job->adapter.targets,
        .rank_pattern = job->adapter.rank_pattern,
        .alpha_pattern = job->adapter.alpha_pattern,
        .n_rank_pattern = job->adapter.n_rank_pattern,
        .n_alpha_pattern = job->adapter.n_alpha_pattern,
        .dtype = job->precision == LH_FP32 ? KN_F32 : KN_BF16,
    };
}

/* JOB-17: the longest pattern that fits counts. */
static double pattern_value(const struct lh_pattern *patterns, unsigned n, const char *module,
                            double otherwise)
{
    size_t module_len = strlen(module), longest = 0;
    double value = otherwise;

    for (unsigned i = 0; i < n; i++) {
        size_t len = strlen(patterns[i].module);

        if (len > module_len || len <= longest ||
            strcmp(module + module_len - len, patterns[i].module) != 0)
            continue;
        if (len == module_len || module[module_len - len - 1] == '.') {
            value = patterns[i].value;
            longest = len;
        }
    }
    return value;
}

int64_t params_rank(const struct params_spec *spec, const char *module)
{
    return (int64_t)pattern_value(spec->rank_pattern, spec->n_rank_pattern, module,
                                  (double)spec->rank);
}

double params_scale(const struct params_spec *spec, const char *module)
{
    double alpha = pattern_value(spec->alpha_pattern, spec->n_alpha_pattern, module, spec->alpha);
    double rank = (double)params_rank(spec, module);

    return spec->use_rslora ? alpha / sqrt(rank) : alpha / rank;
}

static bool is_norm(enum param_role role)
{
    return role == PARAM_NORM_IN || role == PARAM_NORM_POST || role == PARAM_NORM_FINAL;
}

static bool in_adapter(const struct params_spec *spec, enum param_role role)
{
    if (role == PARAM_LORA_A || role == PARAM_LORA_B)
        return true;
    return spec->lora &&
           ((role == PARAM_EMBED && spec->embeddings) || (is_norm(role) && spec->norms));
}

static void add(struct build *b, const char *name, enum param_role role, enum param_role of,
                int layer, int64_t rows, int64_t cols)
{
    struct param *p = &b->params->at[b->params->n];
    bool adapter = in_adapter(b->spec, role);

    assert(b->params->n < b->cap);
    *p = (struct param){.role = role, .of = of, .layer = layer, .rows = rows, .cols = cols};
    p->n = cols > 0 ? rows * cols : rows;
    p->trains = b->spec->trains && (b->spec->full || adapter);
    p->decays = !is_norm(role);
    p->w = kn_mat(NULL, is_norm(role) ? KN_F32 : b->spec->dtype, rows, cols > 0 ? cols : 1);
    (void)snprintf(p->name, sizeof(p->name), "%s", name);
    (void)snprintf(p->key, sizeof(p->key), "%s%s", adapter ? PEFT_PREFIX : "", name);
    b->params->n++;
    b->params->n_total += p->n;
    if (p->trains)
        b->params->n_trainable += p->n;
}

static int add_linear(struct build *b, int layer, int which, int64_t out, int64_t in,
                      struct lh_err *reterr)
{
    enum param_role role = (enum param_role)((int)PARAM_Q + which);
    char module[128], name[160];
    int64_t rank;

    (void)snprintf(module, sizeof(module), "model.layers.%d.%s", layer, linear_module[which]);
    (void)snprintf(name, sizeof(name), "%s.weight", module);
    add(b, name, role, role, layer, out, in);
    if (!b->spec->lora || !(b->spec->targets & 1u << which))
        return 0;
    rank = params_rank(b->spec, module);
    if (rank < 1 || rank > out || rank > in)
        return lh_err_at(
            reterr, LH_EJOB, "/adapter/rank",
            "rank %lld of %s must lie between 1 and %lld, the smaller side of its matrix",
            (long long)rank, module, (long long)LH_MIN(out, in));
    (void)snprintf(name, sizeof(name), "%s.lora_A.weight", module);
    add(b, name, PARAM_LORA_A, role, layer, rank, in);
    (void)snprintf(name, sizeof(name), "%s.lora_B.weight", module);
    add(b, name, PARAM_LORA_B, role, layer, out, rank);
    return 0;
}

static int add_layer(struct build *b, int layer, struct lh_err *reterr)
{
    const struct model_config *c = b->config;
    int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    const int64_t out[PARAMS_LINEARS] = {q, kv, kv, c->hidden, c->ff, c->ff, c->hidden};
    const int64_t in[PARAMS_LINEARS] = {c->hidden, c->hidden, c->hidden, q,
                                        c->hidden, c->hidden, c->ff};
    char name[160];

    for (int which = 0; which < PARAMS_LINEARS; which++) {
        int rc;

        if (which == 0 || which == (int)PARAM_GATE - (int)PARAM_Q) {
            enum param_role role = which == 0 ? PARAM_NORM_IN : PARAM_NORM_POST;

            (void)snprintf(name, sizeof(name), "model.layers.%d.%s.weight", layer,
                           which == 0 ? "input_layernorm" : "post_attention_layernorm");
            add(b, name, role, role, layer, c->hidden, 0);
        }
        rc = add_linear(b, layer, which, out[which], in[which], reterr);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int params_init(const struct model_config *config, const struct params_spec *spec,
                struct params *ret_params, struct lh_err *reterr)
{
    struct params params = {0};
    struct build b = {config, spec, &params, 0};
    int rc = 0;

    assert(config->n_layers > 0 && config->n_layers <= LH_LAYERS_MAX);
    b.cap = (unsigned)config->n_layers * (2 + 3 * PARAMS_LINEARS) + 3;
    params.at = calloc(b.cap, sizeof(*params.at));
    if (!params.at)
        return lh_err_set(reterr, -ENOMEM, "the table of parameters");
    add(&b, "model.embed_tokens.weight", PARAM_EMBED, PARAM_EMBED, -1, config->vocab,
        config->hidden);
    for (int layer = 0; layer < config->n_layers && rc == 0; layer++)
        rc = add_layer(&b, layer, reterr);
    add(&b, "model.norm.weight", PARAM_NORM_FINAL, PARAM_NORM_FINAL, -1, config->hidden, 0);
    if (!config->tied)
        add(&b, "lm_head.weight", PARAM_HEAD, PARAM_HEAD, -1, config->vocab, config->hidden);
    if (rc < 0) {
        params_release(&params);
        return rc;
    }
    lay_out(&params);
    *ret_params = params;
    return 0;
}

void params_release(struct params *p)
{
    free(p->at);
    *p = (struct params){0};
}

void params_plan(struct params *p, struct plan *plan)
{
    uint64_t bytes = (uint64_t)p->n_region * sizeof(float);

    plan_add(plan, PLAN_GRADIENTS, &p->grad, bytes);
    plan_add(plan, PLAN_ADAPTER, &p->master, bytes);
    plan_add(plan, PLAN_OPTIMIZER, &p->m, bytes);
    plan_add(plan, PLAN_OPTIMIZER, &p->v, bytes);
    plan_add(plan, PLAN_WEIGHTS, &p->low, (uint64_t)p->stretch[PARAMS_LOW].n * sizeof(*p->low));
    for (unsigned i = 0; i < p->n; i++) {
        struct param *at = &p->at[i];

        if (!at->trains)
            plan_add(plan, PLAN_WEIGHTS, &at->w.p, (uint64_t)at->n * kn_dtype_bytes(at->w.t));
    }
}

void params_bind(struct params *p)
{
    for (unsigned i = 0; i < p->n; i++) {
        struct param *at = &p->at[i];

        if (!at->trains)
            continue;
        at->grad = p->grad + at->place;
        at->master = p->master + at->place;
        at->m = p->m + at->place;
        at->v = p->v + at->place;
        at->w.p = at->master;
        if (stretch_of(at) == PARAMS_LOW)
            at->w.p = p->low + (at->place - p->stretch[PARAMS_LOW].first);
    }
}
