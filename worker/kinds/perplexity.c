/* perplexity.c - losses of held-out windows, computed; see perplexity.h. How they are shown:
 * perplexity_report.c. */
#include "worker/kinds/perplexity.h"
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Numbers of a length that ranks add up. */
#define SUMS (sizeof(struct perplexity_length) / sizeof(double))

struct work_at_hand {
    struct run *run;
    struct engine *engine;
    struct held_out *texts;
    const struct head_sink *sink; /* may be NULL */
    struct perplexity *p;
    struct held_out_window w;
    int64_t done, of; /* tokens, all ranks together */
};

static void window_release(struct held_out_window *w)
{
    free(w->ids);
    free(w->labels);
    free(w->documents);
}

/* What the mean of a window weighs in the mean over the means of batches. */
static double batch_weight(const struct work_at_hand *a, unsigned l, int64_t i)
{
    const struct lh_job *job = a->texts->job;
    bool chosen = job->eval.windows > 0;
    int64_t B = job->eval.batch_windows, index = chosen ? i : (int64_t)a->w.index;
    int64_t n =
        chosen ? held_out_windows(a->texts)
               : (int64_t)held_out_count(a->texts, a->p->lengths[l], held_out_tokens(a->texts));
    int64_t batches = (n + B - 1) / B;
    int64_t size = index / B + 1 < batches ? B : n - (batches - 1) * B;

    return 1 / ((double)batches * (double)size);
}

static void add_length(struct work_at_hand *a, unsigned l, int64_t i)
{
    struct perplexity_length *to = &a->p->at[l];
    double nll = 0, n = 0;
    int64_t from, end;

    held_out_scored(a->texts, &a->w, l, &from, &end);
    if (end == 0)
        return;
    for (int64_t t = from; t < end; t++) {
        nll += a->engine->model.nll[t];
        n += a->w.labels[t] >= 0 ? 1 : 0;
    }
    to->nll += nll;
    to->n += n;
    to->windows += 1;
    if (a->p->mode == LH_EVAL_COMPATIBLE && n > 0)
        to->batches += nll / n * batch_weight(a, l, i);
}

static void add_positions(struct work_at_hand *a)
{
    if (a->p->mode == LH_EVAL_SLIDING || a->w.tokens < a->p->length)
        return;
    for (int64_t t = 0; t < a->p->length; t++) {
        a->p->nll[t] += a->engine->model.nll[t];
        a->p->n[t] += a->w.labels[t] >= 0 ? 1 : 0;
    }
}

static int add_window(struct work_at_hand *a, int64_t i, struct lh_err *reterr)
{
    struct run *r = a->run;
    struct engine *e = a->engine;
    int rc = held_out_take(a->texts, i, &a->w, reterr);
    struct llama_batch batch = {.rows = 1,
                                .row_tokens = a->w.tokens,
                                .ids = a->w.ids,
                                .labels = a->w.labels,
                                .group = a->p->group};

    if (rc < 0)
        return rc;
    if (run_stopping(r))
        return lh_err_set(reterr, LH_ESTOPPED, "stopped while evaluating");
    if (held_out_has_documents(a->texts))
        batch.documents = a->w.documents;
    if (a->sink)
        batch.sink = *a->sink;
    engine_piece(e, "eval", a->done, a->w.tokens * r->comm->size, a->of, e->config->n_layers);
    profile_begin(r->profile, "window");
    rc = llama_eval(&e->model, &batch, reterr);
    profile_end(r->profile);
    if (rc < 0)
        return rc;
    for (unsigned l = 0; l < a->p->n_lengths; l++)
        add_length(a, l, i);
    add_positions(a);
    return 0;
}

/* Tokens of a round, were all its windows as long as they may be. */
static int64_t round_tokens(const struct held_out *h)
{
    int64_t T = h->job->eval.mode == LH_EVAL_SLIDING ? h->lengths[h->round] : h->longest;

    return held_out_windows(h) * T;
}

static int run_windows(struct work_at_hand *a, struct lh_err *reterr)
{
    struct run *r = a->run;
    struct held_out *h = a->texts;
    size_t bytes = (size_t)h->longest * sizeof(int32_t);
    int64_t before = 0;
    int rc = 0;

    a->w = (struct held_out_window){
        .ids = malloc(bytes), .labels = malloc(bytes), .documents = malloc(bytes)};
    if (!a->w.ids || !a->w.labels || !a->w.documents)
        rc = lh_err_set(reterr, -ENOMEM, "a window for evaluation");
    for (unsigned k = 0; k < held_out_rounds(h); k++) {
        held_out_begin(h, k);
        a->of += round_tokens(h);
    }
    run_phase(r, "eval", 0, a->of, "tokens");
    for (unsigned k = 0; k < held_out_rounds(h) && rc == 0; k++) {
        held_out_begin(h, k);
        for (int64_t i = r->comm->rank; i < held_out_windows(h) && rc == 0; i += r->comm->size) {
            a->done = before + round_tokens(h) / held_out_windows(h) * (i - r->comm->rank);
            rc = add_window(a, i, reterr);
        }
        before += round_tokens(h);
    }
    engine_piece(a->engine, NULL, 0, 0, 0, 1);
    run_phase(r, "eval", a->of, a->of, "tokens");
    window_release(&a->w);
    return rc;
}

static int make_room(struct perplexity *p, struct lh_err *reterr)
{
    p->at = calloc(p->n_lengths, sizeof(*p->at));
    p->nll = calloc((size_t)p->length * 2, sizeof(*p->nll));
    p->n = p->nll ? p->nll + p->length : NULL;
    return p->at && p->nll ? 0 : lh_err_set(reterr, -ENOMEM, "losses by position");
}

int perplexity_run(struct run *r, struct engine *e, struct held_out *h,
                   const struct head_sink *sink, struct perplexity *ret_perplexity,
                   struct lh_err *reterr)
{
    bool train = r->job->eval.attention && strcmp(r->job->eval.attention, "train") == 0;
    struct perplexity p = {.mode = r->job->eval.mode,
                           .length = h->longest,
                           .stride = r->job->eval.stride,
                           .n_bands = r->job->eval.bands,
                           .n_lengths = h->n_lengths,
                           .group = train ? engine_group(r->job) : 0};
    struct work_at_hand a = {.run = r, .engine = e, .texts = h, .sink = sink, .p = &p};
    int rc = make_room(&p, reterr);

    static_assert(SUMS * sizeof(double) == sizeof(struct perplexity_length), "summed as doubles");
    memcpy(p.lengths, h->lengths, sizeof(p.lengths));
    rc = run_agree(r, rc == 0 ? run_windows(&a, reterr) : rc, reterr);
    if (rc == 0)
        rc = r->comm->ops->sum_f64(r->comm, p.nll, p.length * 2, reterr);
    if (rc == 0)
        rc = r->comm->ops->sum_f64(r->comm, &p.at->nll, (int64_t)(p.n_lengths * SUMS), reterr);
    if (rc < 0) {
        perplexity_release(&p);
        return rc;
    }
    for (unsigned l = 0; l < p.n_lengths; l++)
        if (p.mode == LH_EVAL_PREFIXES || p.lengths[l] == p.length)
            p.windows = (int64_t)p.at[l].windows;
    *ret_perplexity = p;
    return 0;
}

void perplexity_release(struct perplexity *p)
{
    free(p->at);
    free(p->nll);
    *p = (struct perplexity){0};
}

double perplexity_loss(const struct perplexity *p, unsigned l)
{
    const struct perplexity_length *at = &p->at[l];

    if (p->mode == LH_EVAL_COMPATIBLE)
        return at->batches;
    return at->n > 0 ? at->nll / at->n : 0;
}

double perplexity_of(const struct perplexity *p, unsigned l)
{
    double loss = perplexity_loss(p, l);

    return p->mode == LH_EVAL_COMPATIBLE ? pow(2.71828, loss) : exp(loss);
}

/* The targets of positions are the tokens one further. */
double perplexity_band(const struct perplexity *p, int64_t from, int64_t to)
{
    double nll = 0, n = 0;

    for (int64_t t = from; t < to; t++) {
        nll += p->nll[t];
        n += p->n[t];
    }
    return n > 0 ? nll / n : 0;
}
