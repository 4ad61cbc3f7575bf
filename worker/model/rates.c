/* rates.c - short measurements of a model's ops on a model of one layer; see rates.h. */
#include "worker/model/rates.h"
#include "kernels/profile.h"
#include "proto/base/clock.h"
#include "worker/model/counter.h"
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Elements of the head that is measured: its fp32 gradient takes 16 MiB. */
#define HEAD_ELEMENTS ((int64_t)4 << 20)
/* A first, short pass tells how many tokens the time allows: operations, tokens. */
#define FIRST_FLOPS 4e9
#define FIRST_TOKENS_MIN 16
#define FIRST_TOKENS_MAX 128
#define PASSES_MAX 5
#define PATTERN 65536
#define COPY_BYTES ((uint64_t)32 << 20)

/* What ops are told apart by. */
enum op_class {
    CLASS_PRODUCT,
    CLASS_HEAD,
    CLASS_ATTENTION,
    CLASS_ATTENTION_BWD,
    CLASS_ROWS,
    CLASS_UPDATE,
    CLASSES,
};

struct probe {
    const struct kn_ops *ops; /* those of a profile */
    struct kn_stream *stream;
    int threads;
    bool in_head, in_update;
    double busy[CLASSES]; /* processor seconds of the pass at hand */
    double best[CLASSES]; /* of the fastest pass */
    double last;          /* of the last op */
};

/* The model of one layer, and its micro-batch. */
struct sample {
    struct model_config config;
    struct llama model;
    struct llama_batch batch;
    int32_t *ids, *labels; /* owned */
    uint64_t *drop_keys;   /* owned */
};

/* What follows a loss up to the next norm is the head's. */
static enum op_class class_of(struct probe *p, const char *op)
{
    bool product = strcmp(op, "matmul") == 0 || strcmp(op, "matmul_low") == 0;

    if (p->in_update)
        return CLASS_UPDATE;
    if (strcmp(op, "cross_entropy") == 0)
        p->in_head = true;
    else if (strcmp(op, "rmsnorm_fwd") == 0)
        p->in_head = false;
    if (strcmp(op, "cross_entropy") == 0 || (product && p->in_head))
        return CLASS_HEAD;
    if (product)
        return CLASS_PRODUCT;
    if (strcmp(op, "attention_fwd") == 0)
        return CLASS_ATTENTION;
    return strcmp(op, "attention_bwd") == 0 ? CLASS_ATTENTION_BWD : CLASS_ROWS;
}

static void on_op(void *arg, const struct kn_op_call *call)
{
    struct probe *p = arg;
    double busy = (double)call->busy_ns * 1e-9;

    p->busy[class_of(p, call->op)] += busy;
    p->last = busy;
}

static void sample_release(struct sample *s)
{
    llama_release(&s->model);
    free(s->ids);
    free(s->labels);
    free(s->drop_keys);
    *s = (struct sample){0};
}

/* Whole rows of the micro-batch, or a part of one that is made of whole groups, or of one group. */
static void cut(const struct dims *d, int64_t tokens, int64_t group, struct llama_batch *b)
{
    int64_t row = LH_MIN(d->T, d->positions);

    tokens = LH_MAX(LH_MIN(tokens, d->T), (int64_t)2);
    *b = (struct llama_batch){.rows = tokens / row, .row_tokens = row, .group = group};
    if (b->rows > 0)
        return;
    b->rows = 1;
    b->row_tokens = group > 0 && group <= tokens ? tokens / group * group : tokens;
}

static int sample_tokens(struct sample *s, bool dropout, struct lh_err *reterr)
{
    struct llama_batch *b = &s->batch;
    size_t tokens = (size_t)(b->rows * b->row_tokens);

    s->ids = malloc(tokens * sizeof(*s->ids));
    s->labels = malloc(tokens * sizeof(*s->labels));
    s->drop_keys = calloc((size_t)b->rows, sizeof(*s->drop_keys));
    if (!s->ids || !s->labels || !s->drop_keys)
        return lh_err_set(reterr, -ENOMEM, "tokens for a measurement");
    for (size_t i = 0; i < tokens; i++) {
        s->ids[i] = (int32_t)(counter_bits(1, 0, i) % (uint64_t)s->config.vocab);
        s->labels[i] = (int32_t)(counter_bits(1, 1, i) % (uint64_t)s->config.vocab);
    }
    b->ids = s->ids;
    b->labels = s->labels;
    b->drop_keys = dropout ? s->drop_keys : NULL;
    return 0;
}

static int sample_init(const struct llama *m, const struct params_spec *spec, int64_t tokens,
                       int64_t group, struct sample *s, struct lh_err *reterr)
{
    struct llama_options o = {.config = &s->config, .params = spec, .backward = m->dims.backward};
    int rc;

    *s = (struct sample){.config = m->config};
    cut(&m->dims, tokens, group, &s->batch);
    s->config.n_layers = 1;
    s->config.vocab = LH_MIN(m->dims.V, LH_MAX(HEAD_ELEMENTS / m->dims.C, (int64_t)64));
    o.tokens = s->batch.rows * s->batch.row_tokens;
    o.row_tokens = s->batch.row_tokens;
    o.head_tile = LH_MIN(m->dims.head_tile, o.tokens);
    for (int i = 0; i < WORK_KEEPS; i++)
        o.keep[i] = 2 * m->dims.keep[i] > m->dims.L;
    rc = llama_init(&o, &s->model, reterr);
    return rc < 0 ? rc : sample_tokens(s, m->dims.backward && spec->dropout > 0, reterr);
}

/* Values of both signs about as large as weights are: processors draw less power, and clock higher,
 * on equal ones. */
struct pattern {
    uint32_t f32[PATTERN]; /* floats between 1/64 and 1/32 */
    uint16_t bf16[PATTERN];
};

static struct pattern *pattern_new(void)
{
    struct pattern *pattern = malloc(sizeof(*pattern));

    for (uint64_t i = 0; pattern && i < PATTERN; i++) {
        pattern->f32[i] = 0x3c800000u | (uint32_t)(counter_bits(2, 0, i) & 0x807fffffu);
        pattern->bf16[i] = (uint16_t)(pattern->f32[i] >> 16);
    }
    return pattern;
}

static void put_pattern(const struct device *d, const struct pattern *pattern, struct kn_mat to)
{
    const void *from = to.t == KN_F32 ? (const void *)pattern->f32 : (const void *)pattern->bf16;
    uint64_t bytes = (uint64_t)(to.rows * to.cols) * kn_dtype_bytes(to.t);
    uint64_t piece = PATTERN * kn_dtype_bytes(to.t);

    for (uint64_t at = 0; at < bytes; at += piece)
        d->ops->upload(d->stream, (char *)to.p + at, from, LH_MIN(piece, bytes - at));
}

/* Gives every parameter a value, and all that trains moments and gradients of 0. */
static int fill(struct llama *m, struct lh_err *reterr)
{
    const struct device *d = &m->device;
    struct pattern *pattern = pattern_new();

    if (!pattern)
        return lh_err_set(reterr, -ENOMEM, "numbers for a measurement");
    for (unsigned i = 0; i < m->params.n; i++) {
        const struct param *p = &m->params.at[i];
        float *const zeros[] = {p->grad, p->m, p->v};

        put_pattern(d, pattern, p->w);
        if (!p->trains)
            continue;
        put_pattern(d, pattern, kn_mat(p->master, KN_F32, 1, p->n));
        for (size_t k = 0; k < LH_ARRAY_LEN(zeros); k++)
            d->ops->fill(d->stream, kn_mat(zeros[k], KN_F32, 1, p->n), 0);
    }
    d->ops->fill(d->stream, kn_mat(m->work.cos_sin, KN_F32, m->dims.positions, m->dims.D), 0.7f);
    free(pattern);
    return d->ops->sync(d->stream, reterr);
}

/* As optim_squares and optim_update, with a rate of 0. */
static int update(struct llama *m, struct lh_err *reterr)
{
    const struct device *d = &m->device;
    const struct kn_adamw h = {
        .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .t = 1, .grad_scale = 1};
    double sum;

    for (unsigned i = 0; i < m->params.n; i++) {
        const struct param *p = &m->params.at[i];

        if (!p->trains)
            continue;
        d->ops->sum_squares(d->stream, &sum, p->grad, p->n);
        d->ops->adamw(d->stream, p->master, p->m, p->v, p->grad, p->w.t == KN_BF16 ? p->w.p : NULL,
                      p->n, &h);
        d->ops->fill(d->stream, kn_mat(p->grad, KN_F32, 1, p->n), 0);
    }
    return d->ops->sync(d->stream, reterr);
}

static int pass(struct probe *p, struct sample *s, struct lh_err *reterr)
{
    double nll;
    int rc;

    memset(p->busy, 0, sizeof(p->busy));
    rc = s->model.dims.backward ? llama_train(&s->model, &s->batch, 1e-3f, &nll, reterr)
                                : llama_eval(&s->model, &s->batch, reterr);
    p->in_update = true;
    if (rc == 0 && s->model.dims.backward)
        rc = update(&s->model, reterr);
    p->in_update = false;
    return rc;
}

/* Passes after one that warms up, as many as there is time for; *ret_seconds: of the fastest. */
static int measure(struct probe *p, struct sample *s, double *ret_seconds, struct lh_err *reterr)
{
    double spent = 0, took = 0, fastest = HUGE_VAL;
    int rc = llama_bind(&s->model, p->ops, p->stream, reterr);

    if (rc == 0)
        rc = fill(&s->model, reterr);
    for (int i = 0; rc == 0 && i < PASSES_MAX && (i < 2 || spent + took < RATES_SECONDS); i++) {
        rc = pass(p, s, reterr);
        took = 0;
        for (int k = 0; k < CLASSES; k++)
            took += p->busy[k] / p->threads;
        spent += took;
        if (i == 0 || took >= fastest)
            continue;
        fastest = took;
        memcpy(p->best, p->busy, sizeof(p->best));
    }
    *ret_seconds = fastest;
    return rc;
}

static int measure_copy(struct probe *p, struct rates *r, struct lh_err *reterr)
{
    char *block = p->ops->alloc(p->stream, 2 * COPY_BYTES);
    int64_t rows = (int64_t)(COPY_BYTES / 1024 / sizeof(float));
    struct kn_mat from = kn_mat(block, KN_F32, rows, 1024);
    struct kn_mat to = kn_mat(block ? block + COPY_BYTES : NULL, KN_F32, rows, 1024);
    double best = HUGE_VAL;
    int rc;

    if (!block)
        return lh_err_set(reterr, -ENOMEM, "memory for a measurement");
    p->ops->fill(p->stream, from, 1);
    for (int i = 0; i < 3; i++) {
        p->ops->copy(p->stream, to, from);
        best = fmin(best, fmax(p->last, 1e-9));
    }
    rc = p->ops->sync(p->stream, reterr);
    p->ops->free(p->stream, block);
    r->copy = 2.0 * (double)COPY_BYTES * p->threads / best;
    return rc;
}

static double per_second(const struct probe *p, enum op_class kind, double work)
{
    return p->best[kind] > 0 ? work * p->threads / p->best[kind] : 0;
}

static void tell(const struct probe *p, const struct sample *s, struct rates *r)
{
    struct llama_work work;

    llama_count(&s->model, s->batch.rows, s->batch.row_tokens, s->batch.group, &work);
    r->product = per_second(p, CLASS_PRODUCT, work.products);
    r->head = per_second(p, CLASS_HEAD, work.head);
    r->attention = per_second(p, CLASS_ATTENTION, work.attention);
    r->attention_bwd = per_second(p, CLASS_ATTENTION_BWD, work.attention_bwd);
    r->rows = per_second(p, CLASS_ROWS, work.bytes);
    r->update = per_second(p, CLASS_UPDATE, (double)s->model.params.n_trainable);
}

/* A sample of so many tokens; *ret_fits: the machine has room for it. */
static int measure_tokens(struct probe *p, const struct llama *m, const struct params_spec *spec,
                          int64_t tokens, int64_t group, double *ret_seconds, struct rates *r,
                          bool *ret_fits, struct lh_err *reterr)
{
    struct sample s;
    int rc = sample_init(m, spec, tokens, group, &s, reterr);

    *ret_fits = rc == 0 && plan_total(&s.model.plan) <= plan_machine_free() / 2;
    if (*ret_fits)
        rc = measure(p, &s, ret_seconds, reterr);
    if (rc == 0 && *ret_fits) {
        *ret_seconds /= (double)(s.batch.rows * s.batch.row_tokens);
        tell(p, &s, r);
    }
    sample_release(&s);
    return rc;
}

static int64_t first_tokens(const struct llama *m, int64_t group)
{
    int64_t row = LH_MIN(m->dims.T, m->dims.positions);
    double layer = llama_flops(m, 1, row, group) / (double)row / (double)m->dims.L;
    int64_t tokens = (int64_t)fmin(FIRST_FLOPS / layer, FIRST_TOKENS_MAX);

    return LH_MAX(tokens, (int64_t)FIRST_TOKENS_MIN);
}

int rates_measure(const struct llama *m, const struct params_spec *spec, const struct kn_ops *ops,
                  int threads, int64_t group, struct rates *ret_rates, struct lh_err *reterr)
{
    struct probe p = {.threads = threads};
    struct rates r = {0};
    double token_seconds = 0;
    int64_t tokens = first_tokens(m, group);
    bool fits = false;
    int rc = kn_profile_new(ops, threads, on_op, &p, &p.ops, &p.stream, reterr);

    if (rc < 0)
        return rc;
    rc = measure_tokens(&p, m, spec, tokens, group, &token_seconds, &r, &fits, reterr);
    if (rc == 0 && fits && token_seconds > 0) {
        tokens = LH_MAX(tokens, (int64_t)fmin(RATES_PASS_SECONDS / token_seconds, 1e9));
        rc = measure_tokens(&p, m, spec, tokens, group, &token_seconds, &r, &fits, reterr);
    }
    if (rc == 0 && r.product > 0)
        rc = measure_copy(&p, &r, reterr);
    p.ops->stream_free(p.stream);
    if (rc == 0)
        *ret_rates = r;
    return rc;
}

static double seconds_of(double work, double rate)
{
    return work > 0 && rate > 0 ? work / rate : 0;
}

double rates_seconds(const struct rates *r, const struct llama_work *work)
{
    return seconds_of(work->products, r->product) + seconds_of(work->head, r->head) +
           seconds_of(work->attention, r->attention) +
           seconds_of(work->attention_bwd, r->attention_bwd) + seconds_of(work->bytes, r->rows);
}
