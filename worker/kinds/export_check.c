/* export_check.c - an export is read again before it is called done (JOB-35).
 *
 * It is opened as any base is, so what is compared is what the next job, or another program, gets:
 * the angles of its positions, each tensor against the merged value, ids of its tokenizer, and the
 * logits of a short sequence against base and adapter held apart, which no part of the merging or
 * writing has touched.
 */
#include "proto/base/fs.h"
#include "worker/kinds/export.h"
#include "worker/model/rope.h"
#include "worker/text/tokenizer_export.h"
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Angles pass through 32-bit floats in GGUF: a few parts in ten million. */
#define ANGLE_LIMIT 1e-6

/* ---- logits ---- */

struct taker {
    float *out;
    int64_t V;
};

static int take_logits(void *arg, const struct device *d, int64_t t0, struct kn_mat logits,
                       struct lh_err *reterr)
{
    struct taker *t = arg;

    assert(logits.ld == t->V);
    d->ops->download(d->stream, t->out + t0 * t->V, logits.p,
                     (uint64_t)(logits.rows * t->V) * sizeof(float));
    return d->ops->sync(d->stream, reterr);
}

int export_logits(struct export *x, struct engine *e, float *out, struct lh_err *reterr)
{
    struct taker taker = {out, e->config->vocab};
    int32_t labels[EXPORT_CHECK_TOKENS];
    const struct llama_batch batch = {.rows = 1,
                                      .row_tokens = x->n_ids,
                                      .ids = x->ids,
                                      .labels = labels,
                                      .sink = {take_logits, &taker}};
    int rc = engine_load(e, x->run, reterr);

    for (int64_t t = 0; t < x->n_ids; t++)
        labels[t] = -100;
    if (rc == 0)
        rc = llama_eval(&e->model, &batch, reterr);
    engine_model_release(e);
    return rc;
}

/* How far rounding the weights may move logits, over the largest of them: several times what was
 * seen on a model of 30 layers. Each tensor by itself is held to its rounding; this is to catch
 * what no single tensor shows (a wrong scale, order, position or head). */
static double logit_limit(const struct export *x)
{
    double limit = x->compute == KN_F32 ? 0 : 0.1;

    switch (x->type) {
    case QUANT_F32:
        return limit + 2e-4;
    case QUANT_F16:
        return limit + 2e-2;
    default:
        return limit + 0.1;
    }
}

static int compare_logits(struct export *x, struct engine *made, struct export_check *c,
                          struct lh_err *reterr)
{
    const struct engine_need need = {
        .dtype = x->compute, .tokens = x->n_ids, .positions = x->n_ids};
    int64_t n = x->n_ids * x->engine.config->vocab;
    float *logits = malloc((size_t)n * sizeof(*logits));
    double most = 0, worst = 0;
    int rc = logits ? engine_model(made, &need, reterr)
                    : lh_err_set(reterr, -ENOMEM, "logits of the export");

    if (rc == 0)
        rc = export_logits(x, made, logits, reterr);
    for (int64_t i = 0; rc == 0 && i < n; i++) {
        double difference = fabs((double)logits[i] - (double)x->logits[i]);

        most = fmax(most, fabs((double)x->logits[i]));
        worst = difference > worst || isnan(difference) ? difference : worst;
    }
    free(logits);
    if (rc < 0)
        return rc;
    c->logit_limit = logit_limit(x);
    c->logit_error = worst / fmax(most, 1e-30);
    if (c->logit_error <= c->logit_limit)
        return 0;
    return lh_err_set(reterr, LH_EINTERNAL,
                      "the logits of the export differ from those of base and adapter by %.3g of "
                      "the largest, and at most %.3g may come from rounding; nothing was exported",
                      c->logit_error, c->logit_limit);
}

/* ---- angles ---- */

static int compare_angles(const struct export *x, const struct engine *made, struct export_check *c,
                          struct lh_err *reterr)
{
    int64_t half = x->engine.config->head_dim / 2;
    double *angles = malloc((size_t)LH_MAX(half, (int64_t)1) * sizeof(*angles)), scaling = 1;
    int64_t want = rope_max_positions(&x->engine.rope, x->engine.config, x->engine.length);
    double worst;
    int rc = angles ? rope_frequencies(&made->rope, made->config, x->engine.length, angles,
                                       &scaling, reterr)
                    : lh_err_set(reterr, -ENOMEM, "the angles of positions");

    worst = fabs(scaling / x->engine.scaling - 1);
    for (int64_t i = 0; rc == 0 && i < half; i++)
        worst = fmax(worst, fabs(angles[i] / x->engine.inv_freq[i] - 1));
    free(angles);
    if (rc < 0)
        return rc;
    c->angle_error = worst;
    if (made->config->max_positions < want)
        return lh_err_set(reterr, LH_EINTERNAL, "the export says a window of %lld, not %lld",
                          (long long)made->config->max_positions, (long long)want);
    if (worst <= ANGLE_LIMIT)
        return 0;
    return lh_err_set(reterr, LH_EINTERNAL,
                      "the positions that the export says differ from those in force by %.3g; "
                      "nothing was exported",
                      worst);
}

/* ---- tensors ---- */

static int compare_values(const struct export *x, const struct weights_entry *e, int64_t r0,
                          const float *want, const float *got, int64_t n, struct lh_err *reterr)
{
    /* A vector is F32 in a GGUF, and rows that no block fits are F16. */
    enum quant_type type = x->format == EXPORT_GGUF && e->cols == 0 ? QUANT_F32 : x->type;
    int64_t block;

    if (e->cols % quant_info(type)->block != 0)
        type = QUANT_F16;
    block = quant_info(type)->block;
    for (int64_t at = 0; at < n; at += block) {
        double largest = 0;

        for (int64_t i = at; i < at + block; i++)
            largest = fmax(largest, fabs((double)want[i]));
        for (int64_t i = at; i < at + block; i++) {
            double error = fabs((double)got[i] - (double)want[i]);

            if (!(error <= quant_error(type, largest)) && !(isnan(want[i]) && isnan(got[i])))
                return lh_err_set(reterr, LH_EINTERNAL,
                                  "%s[%" PRId64 ",%" PRId64 "] is %g in the export and must be %g; "
                                  "nothing was exported",
                                  e->name, r0 + i / weights_cols(e), i % weights_cols(e),
                                  (double)got[i], (double)want[i]);
        }
    }
    return 0;
}

/* Rows of tensor i as the export has them. */
static int read_made(const struct export *x, const struct engine *made, unsigned i, int64_t r0,
                     int64_t rows, float *out, struct lh_err *reterr)
{
    const struct weights_entry *e = &x->entries[i];
    const struct st_tensor *t;
    int rc;

    if (x->format != EXPORT_ADAPTER)
        return model_source_read(made->source, e->name, r0, rows, KN_F32, out, reterr);
    rc = peft_find(&made->adapter, e->name, e->rows, e->cols, &t, reterr);
    if (rc == 0)
        peft_values(t, r0 * weights_cols(e), rows * weights_cols(e), KN_F32, out);
    return rc;
}

static int compare_tensor(struct export *x, const struct engine *made, unsigned i, float *want,
                          float *got, struct lh_err *reterr)
{
    const struct weights_entry *e = &x->entries[i];
    int64_t cols = weights_cols(e), rows;
    int rc = 0;

    for (int64_t r0 = 0; rc == 0 && r0 < e->rows; r0 += rows) {
        rows = LH_MIN(e->rows - r0, LH_MAX(WEIGHTS_PIECE / cols, (int64_t)1));
        rc = x->weights.read(x->weights.arg, i, r0, rows, want, reterr);
        if (rc == 0)
            rc = read_made(x, made, i, r0, rows, got, reterr);
        if (rc == 0)
            rc = compare_values(x, e, r0, want, got, rows * cols, reterr);
    }
    model_source_forget(x->engine.source, e->name); /* makes room for the next, and for a model */
    model_source_forget(made->source, e->name);
    return rc;
}

static int compare_tensors(struct export *x, const struct engine *made, struct lh_err *reterr)
{
    int64_t most = WEIGHTS_PIECE;
    float *want, *got;
    int rc = 0;

    for (unsigned i = 0; i < x->weights.n; i++)
        most = LH_MAX(most, weights_cols(&x->entries[i]));
    want = malloc((size_t)most * sizeof(*want));
    got = malloc((size_t)most * sizeof(*got));
    if (!want || !got)
        rc = lh_err_set(reterr, -ENOMEM, "buffers to compare weights");
    x->phase = "checking";
    for (unsigned i = 0; rc == 0 && i < x->weights.n; i++)
        rc = compare_tensor(x, made, i, want, got, reterr);
    model_source_forget(x->engine.source, NULL); /* reading ahead brought back some */
    run_phase(x->run, x->phase, x->weights.n, x->weights.n, "tensors");
    free(want);
    free(got);
    return rc;
}

/* ---- all ---- */

static int compare_all(struct export *x, struct engine *made, struct export_check *c,
                       struct lh_err *reterr)
{
    int rc = 0;

    if (x->format == EXPORT_ADAPTER) {
        /* The base says its own positions; an adapter is loaded with those of config.json. */
        memcpy(made->inv_freq, x->engine.inv_freq,
               (size_t)(x->engine.config->head_dim / 2) * sizeof(*made->inv_freq));
        made->scaling = x->engine.scaling;
    } else {
        rc = compare_angles(x, made, c, reterr);
    }
    if (rc == 0)
        rc = compare_tensors(x, made, reterr);
    if (rc == 0)
        rc = compare_logits(x, made, c, reterr);
    return rc;
}

/* Tokenizers that this build cannot read, for want of a library, were carried over all the same. */
static int check_tokenizer(const struct export *x, struct lh_err *reterr)
{
    struct tokenizer *t = NULL;
    int rc;

    if (!x->tokenizer || tokenizer_open(x->engine.base_path, &t, NULL) < 0)
        return 0;
    rc = tokenizer_compare(x->engine.base_path, x->tmp, reterr);
    tokenizer_free(t);
    return rc == LH_ENOTSUP ? 0 : rc;
}

int export_check(struct export *x, struct export_check *ret_check, struct lh_err *reterr)
{
    struct lh_job again = *x->run->job; /* owns nothing */
    struct engine *made = calloc(1, sizeof(*made));
    struct export_check c = {0};
    int rc;

    if (!made)
        return lh_err_set(reterr, -ENOMEM, "reading the export");
    if (x->format != EXPORT_ADAPTER)
        again.model.base = x->tmp;
    again.model.adapter = x->format == EXPORT_ADAPTER ? x->tmp : NULL;
    /* Dynamic angles depend on the window, which an export does not name. */
    again.context.length = x->format == EXPORT_ADAPTER ? 0 : x->engine.length;
    again.context.rope.has_type = false;
    again.context.rope.factor = 0;
    rc = engine_open_finished(&again, made, reterr);
    if (rc == 0)
        rc = compare_all(x, made, &c, reterr);
    engine_close(made);
    free(made);
    if (rc == 0)
        rc = check_tokenizer(x, reterr);
    if (rc == LH_EINPUT || rc == LH_EJOB) { /* our own file was refused: no fault of the inputs */
        (void)lh_err_prefix(reterr, rc, "the export cannot be read again");
        rc = LH_EINTERNAL;
    }
    if (rc == 0)
        *ret_check = c;
    return rc;
}
