/* perplexity.c - loss by position over held-out windows; see perplexity.h. */
#include "worker/kinds/perplexity.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_LENGTH 2048
#define BANDS 8

/* A window on its way through the model. */
struct window {
    int32_t *ids, *labels, *documents; /* owned, `length` each */
};

static void window_freep(struct window *w)
{
    free(w->ids);
    free(w->labels);
    free(w->documents);
}

static int64_t count_windows(const struct lh_job *job, const struct dataset *d)
{
    int64_t n = dataset_windows(d);

    return job->eval.windows > 0 ? LH_MIN(n, job->eval.windows) : n;
}

static int add_window(struct run *r, struct engine *e, const struct dataset *d, int64_t index,
                      struct window *w, const struct head_sink *sink, struct perplexity *p,
                      struct lh_err *reterr)
{
    struct sequence seq = {.ids = w->ids, .labels = w->labels, .documents = w->documents};
    struct llama_batch batch = {
        .rows = 1, .row_tokens = p->length, .ids = w->ids, .labels = w->labels, .group = p->group};
    /* Fewer windows than there are: spread over all texts, not the first of the first one. */
    int64_t window = index * dataset_windows(d) / p->windows;
    int rc = dataset_sequence(d, window, &seq, reterr);

    if (rc < 0)
        return rc;
    if (dataset_has_documents(d))
        batch.documents = w->documents;
    if (sink)
        batch.sink = *sink;
    engine_piece(e, "eval", (index - r->comm->rank) * p->length, p->length * r->comm->size,
                 p->windows * p->length, e->config->n_layers);
    profile_begin(r->profile, "window");
    rc = llama_eval(&e->model, &batch, reterr);
    profile_end(r->profile);
    if (rc < 0)
        return rc;
    for (int64_t t = 0; t < p->length; t++) {
        p->nll[t] += e->model.nll[t];
        p->n[t] += w->labels[t] >= 0 ? 1 : 0;
    }
    return 0;
}

static int run_windows(struct run *r, struct engine *e, const struct dataset *d,
                       const struct head_sink *sink, struct perplexity *p, struct lh_err *reterr)
{
    size_t bytes = (size_t)p->length * sizeof(int32_t);
    LH_CLEANUP(window_freep) struct window w = {malloc(bytes), malloc(bytes), malloc(bytes)};
    int rc = 0;

    if (!w.ids || !w.labels || !w.documents)
        return lh_err_set(reterr, -ENOMEM, "a window for evaluation");
    run_phase(r, "eval", 0, p->windows * p->length, "tokens");
    for (int64_t i = r->comm->rank; i < p->windows && rc == 0; i += r->comm->size)
        rc = add_window(r, e, d, i, &w, sink, p, reterr);
    run_phase(r, "eval", p->windows * p->length, p->windows * p->length, "tokens");
    return rc;
}

int perplexity_run(struct run *r, struct engine *e, const struct dataset *d,
                   const struct head_sink *sink, struct perplexity *ret_perplexity,
                   struct lh_err *reterr)
{
    bool train = r->job->eval.attention && strcmp(r->job->eval.attention, "train") == 0;
    struct perplexity p = {.length = r->job->context.length,
                           .windows = count_windows(r->job, d),
                           .group = train ? engine_group(r->job) : 0};
    int rc = 0;

    p.nll = calloc((size_t)p.length * 2, sizeof(*p.nll));
    p.n = p.nll ? p.nll + p.length : NULL;
    if (!p.nll)
        rc = lh_err_set(reterr, -ENOMEM, "losses by position");
    if (rc == 0 && p.windows == 0)
        rc = lh_err_at(reterr, LH_EINPUT, "/eval/perplexity",
                       "no text holds one window of %lld tokens; give longer texts or a shorter "
                       "context.length",
                       (long long)p.length);
    if (rc == 0)
        rc = run_windows(r, e, d, sink, &p, reterr);
    rc = run_agree(r, rc, reterr);
    if (rc == 0)
        rc = r->comm->ops->sum_f64(r->comm, p.nll, p.length * 2, reterr);
    if (rc < 0) {
        perplexity_release(&p);
        return rc;
    }
    *ret_perplexity = p;
    return 0;
}

void perplexity_release(struct perplexity *p)
{
    free(p->nll);
    *p = (struct perplexity){0};
}

/* Mean over the positions [from, to), whose targets are the tokens one further. */
static double band(const struct perplexity *p, int64_t from, int64_t to)
{
    double nll = 0, n = 0;

    for (int64_t t = from; t < to; t++) {
        nll += p->nll[t];
        n += p->n[t];
    }
    return n > 0 ? nll / n : 0;
}

double perplexity_loss(const struct perplexity *p, int64_t tokens)
{
    return band(p, 0, LH_MIN(tokens, p->length) - 1);
}

/* Number i of the lengths to report, or 0 when there are no more. */
static int64_t length_at(const struct perplexity *p, const struct lh_job *job, unsigned i)
{
    int64_t length = FIRST_LENGTH;

    if (job->eval.lengths.n > 0)
        return i < job->eval.lengths.n ? LH_MIN(job->eval.lengths.at[i], p->length) : 0;
    for (; i > 0 && length < p->length; i--)
        length *= 2;
    return i > 0 ? 0 : LH_MIN(length, p->length);
}

static json_t *bands_json(const struct perplexity *p)
{
    json_t *bands = json_array();

    for (int64_t i = 0; i < BANDS; i++) {
        int64_t begin = p->length * i / BANDS, end = p->length * (i + 1) / BANDS;

        (void)json_array_append_new(bands,
                                    json_pack("{s:I, s:I, s:f}", "begin", (json_int_t)begin, "end",
                                              (json_int_t)end, "nll", band(p, begin, end)));
    }
    return bands;
}

void perplexity_report(struct run *r, const struct perplexity *p, int64_t step)
{
    int64_t length;

    if (r->comm->rank != 0)
        return;
    for (unsigned i = 0; (length = length_at(p, r->job, i)) > 0; i++) {
        double nll = perplexity_loss(p, length);
        json_t *event = json_pack("{s:I, s:s, s:I, s:f, s:f, s:I}", "step", (json_int_t)step,
                                  "file", "", "length", (json_int_t)length, "perplexity", exp(nll),
                                  "nll", nll, "tokens", (json_int_t)(p->windows * length));

        if (length == p->length)
            (void)json_object_set_new(event, "bands", bands_json(p));
        lh_report(r->reporter, "eval", event);
    }
}

json_t *perplexity_json(const struct perplexity *p, const struct lh_job *job)
{
    json_t *lengths = json_array();
    int64_t length;

    for (unsigned i = 0; (length = length_at(p, job, i)) > 0; i++) {
        double nll = perplexity_loss(p, length);

        (void)json_array_append_new(lengths,
                                    json_pack("{s:I, s:f, s:f}", "length", (json_int_t)length,
                                              "nll", nll, "perplexity", exp(nll)));
    }
    return json_pack("{s:I, s:I, s:s, s:o, s:o}", "windows", (json_int_t)p->windows, "length",
                     (json_int_t)p->length, "attention", p->group > 0 ? "s2" : "full", "lengths",
                     lengths, "bands", bands_json(p));
}
