/* step.c - one optimizer step; see step.h. Ranks share the update (optim/share.h): what decides
 * about it, loss, norm and rate, is computed alike on every rank from the same bits. */
#include "worker/kinds/step.h"
#include "proto/base/clock.h"
#include "worker/kinds/batches.h"
#include "worker/optim/optim.h"
#include "worker/optim/share.h"
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

int stepper_init(struct stepper *s, struct run *r, struct engine *engine,
                 const struct dataset *data, struct lh_err *reterr)
{
    size_t tokens;

    *s = (struct stepper){.run = r, .engine = engine, .data = data};
    s->most_rows = batches_most_rows(r->job, r->comm->size);
    tokens = (size_t)s->most_rows * (size_t)r->job->context.length;
    s->ids = malloc(tokens * sizeof(*s->ids));
    s->labels = malloc(tokens * sizeof(*s->labels));
    s->documents = malloc(tokens * sizeof(*s->documents));
    s->rows = malloc((size_t)s->most_rows * sizeof(*s->rows));
    s->drop_keys = malloc((size_t)s->most_rows * sizeof(*s->drop_keys));
    if (!s->ids || !s->labels || !s->documents || !s->rows || !s->drop_keys)
        return lh_err_set(reterr, -ENOMEM, "the tokens of a micro-batch");
    return 0;
}

void stepper_release(struct stepper *s)
{
    free(s->ids);
    free(s->labels);
    free(s->documents);
    free(s->rows);
    free(s->drop_keys);
    *s = (struct stepper){0};
}

int stepper_dump(struct stepper *s, struct dump *dump, struct lh_err *reterr)
{
    const struct lh_job *job = s->run->job;
    int64_t shape[3] = {job->optim.batch_sequences, job->context.length, s->engine->config->vocab};
    void *data = NULL;
    int rc = 0;

    s->dump = dump;
    rc = dump_add(dump, "logits", ST_F32, 3, shape, true, &data, reterr);
    s->logits = data;
    if (rc == 0 && !dataset_has_documents(s->data)) {
        rc = dump_add(dump, "eval_logits", ST_F32, 3, shape, true, &data, reterr);
        s->eval_logits = data;
    }
    return rc;
}

/* Reads the rows of a micro-batch that are this rank's into the host's arrays; *ret_labels: how
 * many targets they have. */
static int read_rows(struct stepper *s, int64_t step, int64_t batch, int64_t *ret_rows,
                     int64_t *ret_labels, struct lh_err *reterr)
{
    const struct lh_job *job = s->run->job;
    int64_t first, n, length = job->context.length, labels = 0;

    batches_part(job, batch, s->run->comm->rank, s->run->comm->size, &first, &n);
    assert(n <= s->most_rows);
    for (int64_t i = 0; i < n; i++) {
        struct sequence seq = {.ids = s->ids + i * length,
                               .labels = s->labels + i * length,
                               .documents = s->documents + i * length};
        int rc;

        s->rows[i] = batches_row(job, batch, first + i, s->run->comm->size);
        s->drop_keys[i] = dropout_row_key(job->optim.seed, step, s->rows[i]);
        rc =
            dataset_sequence(s->data, step * job->optim.batch_sequences + s->rows[i], &seq, reterr);
        if (rc < 0)
            return rc;
        labels += seq.n_labels;
    }
    *ret_rows = n;
    *ret_labels = labels;
    return 0;
}

/* Labelled tokens of the whole step: the loss is their mean, so they must be known before the first
 * gradient. */
static int count_labels(struct stepper *s, int64_t step, int64_t *ret_labels, struct lh_err *reterr)
{
    struct run *r = s->run;
    double sum = 0;
    int rc = 0;

    for (int64_t batch = 0; batch < batches_count(r->job, r->comm->size) && rc == 0; batch++) {
        int64_t rows, labels = 0;

        rc = read_rows(s, step, batch, &rows, &labels, reterr);
        sum += (double)labels;
    }
    rc = run_agree(r, rc, reterr);
    if (rc == 0)
        rc = r->comm->ops->sum_f64(r->comm, &sum, 1, reterr);
    if (rc == 0)
        *ret_labels = (int64_t)sum;
    return rc;
}

static struct llama_batch batch_of(const struct stepper *s, int64_t rows)
{
    return (struct llama_batch){
        .rows = rows,
        .row_tokens = s->run->job->context.length,
        .ids = s->ids,
        .labels = s->labels,
        .documents = dataset_has_documents(s->data) ? s->documents : NULL,
        .group = engine_group(s->run->job),
        .wrap = s->run->job->context.attention.wrap,
        .drop_keys = s->drop_keys,
    };
}

/* Logits of the step's first pass, and those of full causal attention, go into the dump. */
static int dump_eval(struct stepper *s, int64_t rows, struct lh_err *reterr)
{
    struct dump_logits to = {s->eval_logits, s->run->job->context.length, s->engine->config->vocab,
                             s->rows};
    struct llama_batch b = batch_of(s, rows);

    if (!s->eval_logits)
        return 0;
    b.group = 0;
    b.wrap = false;
    b.documents = NULL;
    b.sink = dump_logits_sink(&to);
    return llama_eval(&s->engine->model, &b, reterr);
}

/* Forward and backward over this rank's rows; *ret_nll: the sum of their nll. */
static int run_batches(struct stepper *s, int64_t step, int64_t steps, double scale,
                       double *ret_nll, double *ret_data_seconds, struct lh_err *reterr)
{
    struct run *r = s->run;
    struct dump_logits to = {s->logits, r->job->context.length, s->engine->config->vocab, s->rows};
    int64_t step_tokens = r->job->optim.batch_sequences * r->job->context.length;
    int64_t batches = batches_count(r->job, r->comm->size);
    int rc = 0;

    for (int64_t batch = 0; batch < batches && rc == 0; batch++) {
        uint64_t began = lh_mono_ns();
        int64_t rows = 0, labels;
        struct llama_batch b;
        double nll;

        profile_begin(r->profile, "data");
        rc = read_rows(s, step, batch, &rows, &labels, reterr);
        profile_end(r->profile);
        *ret_data_seconds += (double)(lh_mono_ns() - began) * 1e-9;
        if (rc < 0 || rows == 0)
            continue;
        b = batch_of(s, rows);
        engine_piece(s->engine, "train", step * step_tokens + step_tokens * batch / batches,
                     step_tokens / batches, steps * step_tokens, 2 * s->engine->config->n_layers);
        if (step == 0 && s->dump) {
            rc = dump_eval(s, rows, reterr);
            b.sink = dump_logits_sink(&to);
        }
        if (rc == 0)
            rc = llama_train(&s->engine->model, &b, (float)scale, &nll, reterr);
        if (rc == 0)
            *ret_nll += nll;
    }
    return rc;
}

/* Names what is wrong: a weight that is not finite first, for it spoils everything after it; else a
 * gradient. */
static int nonfinite(struct stepper *s, int64_t step, const struct step_result *result,
                     const char *hint, struct lh_err *reterr)
{
    const struct llama *m = &s->engine->model;
    const struct param *p = NULL;
    const char *what = "value";
    int64_t index = 0;
    int rc = share_gradients(&m->params, s->run->comm, reterr);

    if (rc == 0)
        rc = params_nonfinite(&m->params, false, m->device.ops, m->device.stream, &p, &index,
                              reterr);
    if (rc == 0 && !p) {
        what = "gradient";
        rc =
            params_nonfinite(&m->params, true, m->device.ops, m->device.stream, &p, &index, reterr);
    }
    if (rc < 0)
        return rc;
    if (!p)
        return lh_err_set(reterr, LH_ENONFINITE,
                          "step %lld: the loss is %g and the norm of the gradients %g; %s",
                          (long long)step + 1, result->loss, result->grad_norm, hint);
    return lh_err_set(reterr, LH_ENONFINITE,
                      "step %lld: the loss is %g; the first tensor that is not finite is the %s of "
                      "'%s' at element %lld; %s",
                      (long long)step + 1, result->loss, what, p->name, (long long)index, hint);
}

static int update(struct stepper *s, int64_t step, int64_t steps, struct step_result *result,
                  struct lh_err *reterr)
{
    const struct lh_job *job = s->run->job;
    const struct llama *m = &s->engine->model;
    bool skip =
        job->on_nonfinite.action == LH_NONFINITE_SKIP && s->skipped < job->on_nonfinite.budget;
    int rc;

    if (!isfinite(result->loss) || !isfinite(result->grad_norm)) {
        rc = nonfinite(s, step, result,
                       skip ? "the step was passed over"
                            : "nothing was updated: look at the data of this step, lower optim.lr, "
                              "or skip with on_nonfinite",
                       skip ? &result->bad : reterr);
        s->skipped += skip;
        return run_agree(s->run, skip && rc == LH_ENONFINITE ? 0 : rc, reterr);
    }
    if (!job->optim.has_lr)
        return 0;
    result->rate = optim_rate(job, step, steps);
    rc =
        optim_update(&m->device, &m->params, job, result->rate,
                     optim_clip(job->optim.clip, result->grad_norm), step + 1 - s->skipped, reterr);
    result->applied = rc == 0;
    return run_agree(s->run, rc, reterr);
}

/* Loss and norm over the ranks, and the gradients of this rank's part. */
static int reduce(struct stepper *s, double *nll, struct step_result *result, struct lh_err *reterr)
{
    struct run *r = s->run;
    const struct llama *m = &s->engine->model;
    double squares;
    int rc;

    profile_begin(r->profile, "sum");
    rc = r->comm->ops->sum_f64(r->comm, nll, 1, reterr);
    if (rc == 0)
        rc = share_sum(&m->params, r->comm, reterr);
    profile_end(r->profile);
    profile_begin(r->profile, "norm");
    if (rc == 0)
        rc = optim_squares(&m->device, &m->params, &squares, reterr);
    if (rc == 0)
        rc = r->comm->ops->sum_f64(r->comm, &squares, 1, reterr);
    if (rc == 0)
        result->grad_norm = sqrt(squares);
    profile_end(r->profile);
    result->loss = result->labels > 0 ? *nll / (double)result->labels : 0;
    return rc;
}

int step_run(struct stepper *s, int64_t step, int64_t steps, struct step_result *ret_result,
             struct lh_err *reterr)
{
    struct run *r = s->run;
    const struct llama *m = &s->engine->model;
    struct step_result result = {.tokens = r->job->optim.batch_sequences * r->job->context.length};
    uint64_t began = lh_mono_ns(), cpu_began = lh_cpu_ns();
    double nll = 0;
    int64_t ns;
    int rc;

    profile_begin(r->profile, "data");
    rc = count_labels(s, step, &result.labels, reterr);
    profile_end(r->profile);
    if (rc < 0)
        return rc;
    m->device.ops->fill(m->device.stream, kn_mat(m->params.grad, KN_F32, 1, m->params.n_region), 0);
    rc = run_batches(s, step, steps, result.labels > 0 ? 1.0 / (double)result.labels : 0, &nll,
                     &result.data_seconds, reterr);
    rc = run_agree(r, rc, reterr);
    if (rc == 0)
        rc = reduce(s, &nll, &result, reterr);
    if (rc == 0 && step == 0 && s->dump)
        rc = share_gradients(&m->params, r->comm, reterr);
    if (rc == 0 && step == 0 && s->dump)
        rc = run_agree(r, dump_grads(s->dump, &m->device, &m->params, reterr), reterr);
    profile_begin(r->profile, "optimizer");
    if (rc == 0)
        rc = update(s, step, steps, &result, reterr);
    profile_end(r->profile);
    profile_begin(r->profile, "gather");
    if (rc == 0 && result.applied)
        rc = share_weights(&m->params, r->comm, reterr);
    profile_end(r->profile);
    ns = (int64_t)(lh_mono_ns() - began);
    if (rc == 0)
        rc = r->comm->ops->max_i64(r->comm, &ns, 1, reterr);
    result.seconds = (double)ns * 1e-9;
    result.cpu_seconds = (double)(lh_cpu_ns() - cpu_began) * 1e-9;
    if (rc == 0)
        rc = r->comm->ops->sum_f64(r->comm, &result.cpu_seconds, 1, reterr);
    if (rc == 0)
        *ret_result = result;
    return rc;
}
