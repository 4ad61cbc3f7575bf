/* eval.c - kind eval: perplexity of a model, with or without an adapter, by length of context, over
 * held-out windows. */
#include "worker/kinds/dump.h"
#include "worker/kinds/engine.h"
#include "worker/kinds/job_data.h"
#include "worker/kinds/perplexity.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TOP 5 /* logits kept of a position, for dumps */
#define TOP_EVERY 16

struct eval {
    struct run *run;
    struct engine engine;
    struct lh_job tokens_job; /* of job_data_eval */
    struct dataset *data;
    struct dump *dump;
    float *top_values; /* the dump's; NULL: not wanted */
    int64_t *top_ids;
    float *row; /* owned, V: one position's logits */
};

static int eval_open(struct eval *e, struct lh_err *reterr);
static int eval_dump(struct eval *e, const struct perplexity *p, struct lh_err *reterr);
static struct head_sink top_sink(struct eval *e);

static void eval_closep(struct eval *e)
{
    dump_free(e->dump);
    if (e->data)
        dataset_close(e->data);
    engine_close(&e->engine);
    free(e->row);
}

int kind_eval(struct run *r, struct lh_err *reterr)
{
    LH_CLEANUP(eval_closep) struct eval e = {.run = r};
    struct perplexity p = {0};
    struct head_sink sink;
    int rc = eval_open(&e, reterr);

    if (rc < 0)
        return rc;
    sink = top_sink(&e);
    rc = perplexity_run(r, &e.engine, e.data, &sink, &p, reterr);
    if (rc < 0)
        return rc;
    perplexity_report(r, &p, 0);
    (void)json_object_set_new(r->result, "eval", perplexity_json(&p, r->job));
    rc = eval_dump(&e, &p, reterr);
    perplexity_release(&p);
    return rc;
}

/* Room for the dump's top logits: only with one window, as the goldens have it. */
static int open_dump(struct eval *e, struct lh_err *reterr)
{
    int64_t shape[2] = {(e->run->job->context.length + TOP_EVERY - 1) / TOP_EVERY, TOP};
    void *values = NULL, *ids = NULL;
    int rc = dump_open(e->run->dump_dir, &e->dump, reterr);

    if (rc < 0 || !e->dump)
        return rc;
    if (e->run->comm->size > 1 || e->run->job->eval.windows > 1 || dataset_windows(e->data) > 1)
        return lh_err_set(reterr, LH_EJOB, "--dump of an eval job takes one window and one rank");
    rc = dump_add(e->dump, "top_values", ST_F32, 2, shape, false, &values, reterr);
    if (rc == 0)
        rc = dump_add(e->dump, "top_ids", ST_I64, 2, shape, false, &ids, reterr);
    e->top_values = values;
    e->top_ids = ids;
    e->row = malloc((size_t)e->engine.config->vocab * sizeof(*e->row));
    if (rc == 0 && !e->row)
        rc = lh_err_set(reterr, -ENOMEM, "a row of logits");
    return rc;
}

static int eval_open(struct eval *e, struct lh_err *reterr)
{
    struct run *r = e->run;
    struct engine_place place = engine_place_of(r);
    int rc = engine_open(r->job, r->comm->size, &e->engine, reterr);

    if (rc == 0)
        rc = engine_count(&e->engine, r->job, &place, reterr);
    if (rc == 0)
        rc = engine_fits(&e->engine, r, reterr);
    rc = run_agree(r, rc, reterr);
    if (rc == 0)
        rc = job_data_eval(r, e->engine.config->vocab, &e->tokens_job, &e->data, reterr);
    if (rc < 0)
        return rc;
    run_phase(r, "loading", 0, 1, "tensors");
    rc = engine_load(&e->engine, r, reterr);
    if (rc == 0)
        rc = open_dump(e, reterr);
    run_phase(r, "loading", 1, 1, "tensors");
    return run_agree(r, rc, reterr);
}

/* The TOP largest of a row, the lower id first where two are equal. */
static void top_of(const float *row, int64_t V, float *values, int64_t *ids)
{
    for (int k = 0; k < TOP; k++) {
        int64_t best = -1;

        for (int64_t i = 0; i < V; i++) {
            bool taken = false;

            for (int j = 0; j < k; j++)
                taken = taken || ids[j] == i;
            if (!taken && (best < 0 || row[i] > row[best]))
                best = i;
        }
        ids[k] = best;
        values[k] = best >= 0 ? row[best] : 0;
        if (best < 0)
            return;
    }
}

static int take_top(void *arg, const struct device *d, int64_t t0, struct kn_mat logits,
                    struct lh_err *reterr)
{
    struct eval *e = arg;

    for (int64_t t = 0; t < logits.rows; t++) {
        int64_t at = (t0 + t) / TOP_EVERY * TOP;
        int rc;

        if ((t0 + t) % TOP_EVERY != 0)
            continue;
        d->ops->download(d->stream, e->row, kn_rows(logits, t, 1).p,
                         (uint64_t)logits.cols * sizeof(float));
        rc = d->ops->sync(d->stream, reterr);
        if (rc < 0)
            return rc;
        top_of(e->row, logits.cols, e->top_values + at, e->top_ids + at);
    }
    return 0;
}

static struct head_sink top_sink(struct eval *e)
{
    return e->dump ? (struct head_sink){take_top, e} : (struct head_sink){0};
}

static int eval_dump(struct eval *e, const struct perplexity *p, struct lh_err *reterr)
{
    int64_t n = p->length - 1, one = 1;
    void *nll = NULL, *loss = NULL;
    int rc;

    if (!e->dump)
        return 0;
    rc = dump_add(e->dump, "nll", ST_F32, 1, &n, false, &nll, reterr);
    if (rc == 0)
        rc = dump_add(e->dump, "loss", ST_F32, 1, &one, false, &loss, reterr);
    if (rc == 0)
        rc = dump_rope(e->dump, e->engine.inv_freq, e->engine.config->head_dim / 2,
                       e->engine.scaling, reterr);
    if (rc < 0)
        return rc;
    for (int64_t t = 0; t < n; t++)
        ((float *)nll)[t] = (float)p->nll[t];
    ((float *)loss)[0] = (float)perplexity_loss(p, p->length);
    return dump_write(e->dump, e->run, reterr);
}
