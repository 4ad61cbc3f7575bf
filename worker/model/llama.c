/* llama.c - the whole model; see llama.h. */
#include "worker/model/llama.h"
#include "worker/model/rope.h"
#include "worker/profile.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Row numbers, positions and segment begins are int32. */
#define TOKENS_MAX ((int64_t)1 << 30)

static struct linear linear_of(const struct params *p, const struct params_spec *spec,
                               enum param_role role, int layer)
{
    struct linear l = {.w = params_role(p, role, role, layer),
                       .a = params_role(p, PARAM_LORA_A, role, layer),
                       .b = params_role(p, PARAM_LORA_B, role, layer)};

    if (l.a) {
        char module[sizeof(l.w->name)];

        (void)memcpy(module, l.w->name, sizeof(module));
        module[strlen(module) - strlen(".weight")] = '\0';
        l.rank = l.a->rows;
        l.scale = (float)params_scale(spec, module);
        l.place = (uint64_t)(l.a - p->at);
    }
    return l;
}

static void find_layers(struct llama *m, const struct params_spec *spec)
{
    const struct params *p = &m->params;

    for (int i = 0; i < m->config.n_layers; i++) {
        struct llama_layer *l = &m->layers[i];

        l->attention.norm = params_role(p, PARAM_NORM_IN, PARAM_NORM_IN, i);
        l->attention.q = linear_of(p, spec, PARAM_Q, i);
        l->attention.k = linear_of(p, spec, PARAM_K, i);
        l->attention.v = linear_of(p, spec, PARAM_V, i);
        l->attention.o = linear_of(p, spec, PARAM_O, i);
        l->mlp.norm = params_role(p, PARAM_NORM_POST, PARAM_NORM_POST, i);
        l->mlp.gate = linear_of(p, spec, PARAM_GATE, i);
        l->mlp.up = linear_of(p, spec, PARAM_UP, i);
        l->mlp.down = linear_of(p, spec, PARAM_DOWN, i);
    }
    m->head.norm = params_role(p, PARAM_NORM_FINAL, PARAM_NORM_FINAL, -1);
    m->head.w = m->config.tied ? params_role(p, PARAM_EMBED, PARAM_EMBED, -1)
                               : params_role(p, PARAM_HEAD, PARAM_HEAD, -1);
}

static void highest_ranks(const struct params *p, int64_t rank[PARAMS_LINEARS])
{
    for (unsigned i = 0; i < p->n; i++) {
        int of = (int)p->at[i].of - (int)PARAM_Q;

        if (p->at[i].role == PARAM_LORA_A)
            rank[of] = LH_MAX(rank[of], p->at[i].rows);
    }
}

/* The memory plan for m->dims. */
static int make_plan(struct llama *m, struct lh_err *reterr)
{
    plan_release(&m->plan);
    params_plan(&m->params, &m->plan);
    dropout_plan(&m->dropout, &m->dims, m->dropout.rate, &m->plan);
    for (int i = PLAN_SCRATCH; i < PLAN_PARTS; i++)
        plan_add_outside(&m->plan, (enum plan_part)i, m->outside[i]);
    return work_plan(&m->work, &m->dims, &m->plan, reterr);
}

/* Positions, results, and who sees whom: two classes of heads. */
static uint64_t host_bytes(const struct llama *m)
{
    uint64_t seen = (uint64_t)LH_MAX(m->dims.T, m->dims.wrap_T);

    return (uint64_t)m->dims.T * (sizeof(*m->pos) + sizeof(*m->nll)) +
           seen * LH_ARRAY_LEN(m->seg.begin) * sizeof(int32_t) +
           (uint64_t)m->dims.wrap_T * sizeof(*m->documents);
}

int llama_init(const struct llama_options *options, struct llama *m, struct lh_err *reterr)
{
    const struct model_config *c = options->config;
    int rc;

    if (options->tokens < 1 || options->tokens > TOKENS_MAX)
        return lh_err_at(reterr, LH_EJOB, "/resources/micro_batches",
                         "a micro-batch of %lld tokens on one rank; it must hold 1 to %lld: take "
                         "fewer rows a micro-batch or a shorter context.length",
                         (long long)options->tokens, (long long)TOKENS_MAX);
    *m = (struct llama){.config = *c, .dropout.rate = options->params->dropout};
    m->dims = (struct dims){
        .L = c->n_layers,
        .C = c->hidden,
        .H = c->heads,
        .KV = c->kv_heads,
        .D = c->head_dim,
        .F = c->ff,
        .V = c->vocab,
        .T = options->tokens,
        .wrap_T = options->wrap_tokens,
        .positions = options->row_tokens,
        .cache = options->cache,
        .dtype = options->params->dtype,
        .backward = options->backward,
    };
    rc = params_init(c, options->params, &m->params, reterr);
    if (rc < 0)
        return rc;
    highest_ranks(&m->params, m->dims.R);
    work_tiles(&m->dims);
    if (options->mlp_tile > 0)
        m->dims.mlp_tile = options->mlp_tile;
    if (options->head_tile > 0)
        m->dims.head_tile = options->head_tile;
    m->layers = calloc((size_t)c->n_layers, sizeof(*m->layers));
    if (!m->layers) {
        llama_release(m);
        return lh_err_set(reterr, -ENOMEM, "the table of layers");
    }
    find_layers(m, options->params);
    m->outside[PLAN_HOST] = host_bytes(m);
    rc = llama_keep(m, options->keep, reterr);
    if (rc < 0)
        llama_release(m);
    return rc;
}

int llama_keep(struct llama *m, const int64_t keep[WORK_KEEPS], struct lh_err *reterr)
{
    assert(!m->block);
    for (int i = 0; i < WORK_KEEPS; i++) {
        assert(keep[i] >= 0);
        assert(keep[i] <= (m->dims.backward ? m->dims.L : 0));
        m->dims.keep[i] = keep[i];
    }
    return make_plan(m, reterr);
}

void llama_add_outside(struct llama *m, enum plan_part part, uint64_t bytes)
{
    m->outside[part] += bytes;
    plan_add_outside(&m->plan, part, bytes);
}

void llama_unbind(struct llama *m)
{
    if (m->block)
        m->device.ops->free(m->device.stream, m->block);
    if (m->seg_spec.rows > 0)
        kn_segments_release(&m->seg);
    dropout_release(&m->dropout);
    free(m->pos);
    free(m->documents);
    free(m->nll);
    m->block = NULL;
    m->seg_spec.rows = 0;
    m->pos = NULL;
    m->documents = NULL;
    m->nll = NULL;
}

void llama_release(struct llama *m)
{
    llama_unbind(m);
    free(m->layers);
    work_release(&m->work);
    plan_release(&m->plan);
    params_release(&m->params);
    *m = (struct llama){0};
}

int llama_angles(struct llama *m, const double *inv_freq, double scaling, struct lh_err *reterr)
{
    uint64_t bytes = (uint64_t)m->dims.positions * (uint64_t)m->dims.D * sizeof(float);
    float *table = malloc(bytes);
    int rc;

    if (!table)
        return lh_err_set(reterr, -ENOMEM, "the table of angles");
    rope_table(inv_freq, scaling, m->dims.D, m->dims.positions, table);
    m->device.ops->upload(m->device.stream, m->work.cos_sin, table, bytes);
    rc = m->device.ops->sync(m->device.stream, reterr);
    free(table);
    return rc;
}

int llama_bind(struct llama *m, const struct kn_ops *ops, struct kn_stream *stream,
               struct lh_err *reterr)
{
    int rc = plan_check(&m->plan, 0, "", reterr);

    if (rc < 0)
        return rc;
    assert(!m->block);
    rc = dropout_alloc(&m->dropout, reterr);
    if (rc < 0)
        return rc;
    m->device = (struct device){.ops = ops, .stream = stream};
    m->pos = malloc((size_t)m->dims.T * sizeof(*m->pos));
    m->nll = malloc((size_t)m->dims.T * sizeof(*m->nll));
    m->documents = malloc((size_t)m->dims.wrap_T * sizeof(*m->documents) + 1);
    m->block = ops->alloc(stream, m->plan.peak);
    if (!m->pos || !m->nll || !m->documents || !m->block)
        return lh_err_set(reterr, -ENOMEM, "%llu bytes for the model",
                          (unsigned long long)m->plan.peak);
    plan_bind(&m->plan, m->block);
    params_bind(&m->params);
    for (unsigned i = 0; i < m->params.n; i++)
        assert(m->params.at[i].w.p);
    return 0;
}

int llama_load(struct llama *m, const struct kn_ops *ops, struct kn_stream *stream,
               const struct model_source *source, const struct peft_adapter *adapter, uint64_t seed,
               const double *inv_freq, double scaling, struct lh_err *reterr)
{
    int rc = llama_bind(m, ops, stream, reterr);

    if (rc == 0)
        rc = llama_angles(m, inv_freq, scaling, reterr);
    if (rc < 0)
        return rc;
    return params_load(&m->params, source, adapter, seed, ops, stream, reterr);
}

/* Tokens that attention puts before each row. */
static int64_t lead_of(const struct llama_batch *b)
{
    return b->wrap ? b->group / 2 : 0;
}

/* Those of rows that wrap: the copies' first. */
static const int32_t *wrap_documents(struct llama *m, const struct llama_batch *b)
{
    int64_t lead = lead_of(b), row = b->row_tokens;

    if (lead == 0 || !b->documents)
        return b->documents;
    for (int64_t r = 0; r < b->rows; r++) {
        int32_t *to = m->documents + r * (lead + row);
        const int32_t *from = b->documents + r * row;

        memcpy(to, from + row - lead, (size_t)lead * sizeof(*to));
        memcpy(to + lead, from, (size_t)row * sizeof(*to));
    }
    return m->documents;
}

/* Who sees whom. Kept for the next batch, unless documents say it. */
static int make_segments(struct llama *m, const struct llama_batch *b, struct lh_err *reterr)
{
    struct kn_segments_spec spec = {.rows = b->rows,
                                    .row_tokens = b->row_tokens + lead_of(b),
                                    .group = b->group,
                                    .heads = m->dims.H,
                                    .wrap = b->wrap};
    struct kn_segments_spec *was = &m->seg_spec;
    int rc;

    assert(lead_of(b) == 0 || b->rows * spec.row_tokens <= m->dims.wrap_T);
    if (!b->documents && !was->documents && was->rows == spec.rows &&
        was->row_tokens == spec.row_tokens && was->group == spec.group && was->wrap == spec.wrap)
        return 0;
    if (was->rows > 0)
        kn_segments_release(&m->seg);
    was->rows = 0;
    spec.documents = wrap_documents(m, b);
    rc = kn_segments_init(&spec, &m->seg, reterr);
    if (rc == 0)
        *was = spec;
    return rc;
}

/* Segments, ids, labels and positions of a batch onto the device. */
static int put_batch(struct llama *m, const struct llama_batch *b, struct lh_err *reterr)
{
    int64_t T = b->rows * b->row_tokens;
    int rc;

    assert(T > 0);
    assert(T <= m->dims.T);
    assert(b->row_tokens <= m->dims.positions);
    rc = make_segments(m, b, reterr);
    if (rc < 0)
        return rc;
    for (int64_t t = 0; t < T; t++)
        m->pos[t] = (int32_t)(t % b->row_tokens);
    m->device.ops->upload(m->device.stream, m->work.pos, m->pos, (uint64_t)T * sizeof(*m->pos));
    m->device.ops->upload(m->device.stream, m->work.ids, b->ids, (uint64_t)T * sizeof(*b->ids));
    m->device.ops->upload(m->device.stream, m->work.labels, b->labels,
                          (uint64_t)T * sizeof(*b->labels));
    return 0;
}

static void beat(const struct llama *m)
{
    if (m->beat)
        m->beat(m->beat_arg);
}

/* Embedding and layers; kept[l] holds the input of layer l, kept[L] what goes into the head. */
static int forward(struct llama *m, const struct attention_view *a, struct lh_err *reterr)
{
    const struct param *embed = params_role(&m->params, PARAM_EMBED, PARAM_EMBED, -1);

    m->device.ops->embed_fwd(m->device.stream, work_kept(&m->work, 0, a->T), embed->w, m->work.ids);
    for (int64_t l = 0; l < m->dims.L; l++) {
        int rc;

        work_enter(&m->work, l);
        attention_forward(&m->device, &m->layers[l].attention, &m->work, a,
                          work_kept(&m->work, l, a->T));
        mlp_forward(&m->device, &m->layers[l].mlp, &m->work, work_kept(&m->work, l + 1, a->T),
                    work_mat(&m->work, m->work.room.x1, a->T, m->dims.C), a->eps);
        rc = m->device.ops->sync(m->device.stream, reterr);
        if (rc < 0)
            return rc;
        beat(m);
    }
    return 0;
}

static int backward(struct llama *m, const struct attention_view *a, struct lh_err *reterr)
{
    const struct param *embed = params_role(&m->params, PARAM_EMBED, PARAM_EMBED, -1);
    struct kn_mat dx = work_mat(&m->work, m->work.dx, a->T, m->dims.C);

    for (int64_t l = m->dims.L - 1; l >= 0; l--) {
        struct kn_mat x = work_kept(&m->work, l, a->T);
        int rc;

        work_enter(&m->work, l);
        attention_again(&m->device, &m->layers[l].attention, &m->work, a, x);
        mlp_backward(&m->device, &m->layers[l].mlp, &m->work, dx,
                     work_mat(&m->work, m->work.room.x1, a->T, m->dims.C), a->eps);
        attention_backward(&m->device, &m->layers[l].attention, &m->work, a, x);
        rc = m->device.ops->sync(m->device.stream, reterr);
        if (rc < 0)
            return rc;
        beat(m);
    }
    if (embed->trains)
        m->device.ops->embed_bwd(m->device.stream,
                                 kn_mat(embed->grad, KN_F32, embed->rows, embed->cols), dx,
                                 m->work.ids);
    return m->device.ops->sync(m->device.stream, reterr);
}

/* Fetches the results; tokens without a label count 0, also where their tile was passed over. */
static int fetch_nll(struct llama *m, const struct llama_batch *b, double *ret_sum,
                     struct lh_err *reterr)
{
    int64_t T = b->rows * b->row_tokens;
    double sum = 0;
    int rc;

    m->device.ops->download(m->device.stream, m->nll, m->work.nll, (uint64_t)T * sizeof(*m->nll));
    rc = m->device.ops->sync(m->device.stream, reterr);
    if (rc < 0)
        return rc;
    for (int64_t t = 0; t < T; t++) {
        if (b->labels[t] < 0)
            m->nll[t] = 0;
        sum += m->nll[t];
    }
    *ret_sum = sum;
    return 0;
}

static int run_batch(struct llama *m, const struct llama_batch *b, bool train, float grad_scale,
                     double *ret_nll, struct lh_err *reterr)
{
    struct attention_view a = {.T = b->rows * b->row_tokens,
                               .seg = &m->seg,
                               .eps = (float)m->config.norm_eps,
                               .rows = b->rows,
                               .lead = lead_of(b)};
    int rc = put_batch(m, b, reterr);

    if (rc < 0)
        return rc;
    dropout_set(&m->dropout, &m->device, train ? b->drop_keys : NULL, b->rows, b->row_tokens);
    profile_begin(m->profile, "forward");
    rc = forward(m, &a, reterr);
    profile_end(m->profile);
    if (rc < 0)
        return rc;
    profile_begin(m->profile, "head");
    rc = head_loss(&m->device, &m->head, &m->work, work_kept(&m->work, m->dims.L, a.T), b->labels,
                   train, grad_scale, a.eps, &b->sink, reterr);
    profile_end(m->profile);
    if (rc == 0 && train) {
        profile_begin(m->profile, "backward");
        rc = backward(m, &a, reterr);
        profile_end(m->profile);
    }
    return rc < 0 ? rc : fetch_nll(m, b, ret_nll, reterr);
}

int llama_train(struct llama *m, const struct llama_batch *batch, float grad_scale, double *ret_nll,
                struct lh_err *reterr)
{
    assert(m->dims.backward);
    return run_batch(m, batch, true, grad_scale, ret_nll, reterr);
}

int llama_eval(struct llama *m, const struct llama_batch *batch, struct lh_err *reterr)
{
    double sum;

    return run_batch(m, batch, false, 0, &sum, reterr);
}
