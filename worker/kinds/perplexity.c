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

/* Windows go through the model together while they have no more tokens than this, and no more than
 * its micro-batch. In calls of fewer rows products pay more for packing their weights: together,
 * windows of 128 and 256 tokens took two thirds of the processor time on a processor with tiles;
 * of 512 or more nothing was won. */
#define BATCH_TOKENS 1024

/* Windows of equal length, laid end to end. */
struct batch {
    struct held_out_window *w;         /* owned, rows_max; their arrays are pieces of: */
    int32_t *ids, *labels, *documents; /* owned, room for one window more than may be full */
    int64_t *number;                   /* owned, rows_max: of each window in its round */
    int64_t rows, rows_max, most;      /* most: tokens together */
};

struct work_at_hand {
    struct run *run;
    struct engine *engine;
    struct held_out *texts;
    const struct head_sink *sink; /* may be NULL */
    struct perplexity *p;
    struct batch batch;
    int64_t done, of; /* tokens, all ranks together */
};

static void batch_release(struct batch *b)
{
    free(b->w);
    free(b->ids);
    free(b->labels);
    free(b->documents);
    free(b->number);
}

static int batch_init(const struct work_at_hand *a, struct batch *b, struct lh_err *reterr)
{
    bool seen = a->sink && a->sink->fn; /* tells tokens apart by their place in one window */
    int64_t longest = a->texts->longest;
    size_t bytes;

    b->most = seen ? 1 : LH_MIN(a->engine->model.dims.T, (int64_t)BATCH_TOKENS);
    b->rows_max = LH_MAX(b->most / 2, (int64_t)1); /* a window has two tokens or more */
    bytes = (size_t)(LH_MAX(b->most, longest) + longest) * sizeof(int32_t);
    b->w = calloc((size_t)b->rows_max, sizeof(*b->w));
    b->number = calloc((size_t)b->rows_max, sizeof(*b->number));
    b->ids = malloc(bytes);
    b->labels = malloc(bytes);
    b->documents = malloc(bytes);
    return b->w && b->number && b->ids && b->labels && b->documents
               ? 0
               : lh_err_set(reterr, -ENOMEM, "windows for evaluation");
}

/* What the mean of a window weighs in the mean over the means of batches. */
static double batch_weight(const struct work_at_hand *a, unsigned l,
                           const struct held_out_window *w, int64_t i)
{
    const struct lh_job *job = a->texts->job;
    bool chosen = job->eval.windows > 0;
    int64_t B = job->eval.batch_windows, index = chosen ? i : (int64_t)w->index;
    int64_t n =
        chosen ? held_out_windows(a->texts)
               : (int64_t)held_out_count(a->texts, a->p->lengths[l], held_out_tokens(a->texts));
    int64_t batches = (n + B - 1) / B;
    int64_t size = index / B + 1 < batches ? B : n - (batches - 1) * B;

    return 1 / ((double)batches * (double)size);
}

/* Window number i, whose losses are nll. */
static void add_length(struct work_at_hand *a, unsigned l, const struct held_out_window *w,
                       const double *nll, int64_t i)
{
    struct perplexity_length *to = &a->p->at[l];
    double sum = 0, n = 0;
    int64_t from, end;

    held_out_scored(a->texts, w, l, &from, &end);
    if (end == 0)
        return;
    for (int64_t t = from; t < end; t++) {
        sum += nll[t];
        n += w->labels[t] >= 0 ? 1 : 0;
    }
    to->nll += sum;
    to->n += n;
    to->windows += 1;
    if (a->p->mode == LH_EVAL_COMPATIBLE && n > 0)
        to->batches += sum / n * batch_weight(a, l, w, i);
}

static void add_positions(struct work_at_hand *a, const struct held_out_window *w,
                          const double *nll)
{
    if (a->p->mode == LH_EVAL_SLIDING || w->tokens < a->p->length)
        return;
    for (int64_t t = 0; t < a->p->length; t++) {
        a->p->nll[t] += nll[t];
        a->p->n[t] += w->labels[t] >= 0 ? 1 : 0;
    }
}

/* Runs the windows of the batch, and leaves it empty. */
static int run_batch(struct work_at_hand *a, struct lh_err *reterr)
{
    struct run *r = a->run;
    struct engine *e = a->engine;
    struct batch *b = &a->batch;
    int64_t tokens = b->w[0].tokens, rows = b->rows;
    struct llama_batch batch = {.rows = rows,
                                .row_tokens = tokens,
                                .ids = b->ids,
                                .labels = b->labels,
                                .group = a->p->group};
    int rc;

    assert(rows > 0);
    b->rows = 0;
    if (run_stopping(r))
        return lh_err_set(reterr, LH_ESTOPPED, "stopped while evaluating");
    if (held_out_has_documents(a->texts))
        batch.documents = b->documents;
    if (a->sink)
        batch.sink = *a->sink;
    engine_piece(e, "eval", a->done, rows * tokens * r->comm->size, a->of, e->config->n_layers);
    profile_begin(r->profile, "window");
    rc = llama_eval(&e->model, &batch, reterr);
    profile_end(r->profile);
    for (int64_t row = 0; row < rows && rc == 0; row++) {
        const double *nll = e->model.nll + row * tokens;

        for (unsigned l = 0; l < a->p->n_lengths; l++)
            add_length(a, l, &b->w[row], nll, b->number[row]);
        add_positions(a, &b->w[row], nll);
    }
    return rc;
}

/* A window whose arrays lie in the batch, from token `at` on. */
static struct held_out_window window_at(const struct batch *b, int64_t at)
{
    return (struct held_out_window){
        .ids = b->ids + at, .labels = b->labels + at, .documents = b->documents + at};
}

/* Takes window number i into the batch, which is run when it is full, or first, when it holds
 * windows of another length. */
static int add_window(struct work_at_hand *a, int64_t i, int64_t done, struct lh_err *reterr)
{
    struct batch *b = &a->batch;
    int64_t tokens = b->rows > 0 ? b->w[0].tokens : 0;
    struct held_out_window w = window_at(b, b->rows * tokens), first = window_at(b, 0);
    int rc = held_out_take(a->texts, i, &w, reterr);

    if (rc == 0 && b->rows > 0 && w.tokens != tokens) {
        rc = run_batch(a, reterr);
        memmove(first.ids, w.ids, (size_t)w.tokens * sizeof(*w.ids));
        memmove(first.labels, w.labels, (size_t)w.tokens * sizeof(*w.labels));
        memmove(first.documents, w.documents, (size_t)w.tokens * sizeof(*w.documents));
        first.tokens = w.tokens;
        first.index = w.index;
        w = first;
    }
    if (rc < 0)
        return rc;
    if (b->rows == 0)
        a->done = done;
    b->number[b->rows] = i;
    b->w[b->rows++] = w;
    return (b->rows + 1) * w.tokens > b->most ? run_batch(a, reterr) : 0;
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
    int64_t before = 0;
    int rc = batch_init(a, &a->batch, reterr);

    for (unsigned k = 0; k < held_out_rounds(h); k++) {
        held_out_begin(h, k);
        a->of += round_tokens(h);
    }
    run_phase(r, "eval", 0, a->of, "tokens");
    for (unsigned k = 0; k < held_out_rounds(h) && rc == 0; k++) {
        int64_t n, each;

        held_out_begin(h, k);
        n = held_out_windows(h);
        each = round_tokens(h) / n;
        for (int64_t i = r->comm->rank; i < n && rc == 0; i += r->comm->size)
            rc = add_window(a, i, before + each * (i - r->comm->rank), reterr);
        if (rc == 0 && a->batch.rows > 0)
            rc = run_batch(a, reterr);
        before += round_tokens(h);
    }
    engine_piece(a->engine, NULL, 0, 0, 0, 1);
    run_phase(r, "eval", a->of, a->of, "tokens");
    batch_release(&a->batch);
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
    struct perplexity p = {.mode = r->job->eval.mode,
                           .length = h->longest,
                           .stride = r->job->eval.stride,
                           .n_bands = r->job->eval.bands,
                           .n_lengths = h->n_lengths,
                           .group = engine_eval_group(r->job)};
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
