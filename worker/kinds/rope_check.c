/* rope_check.c - see rope_check.h.
 *
 * What to refuse was measured on SmolLM2-135M (49152 tokens, so guessing costs 10.8), on 2048
 * tokens of a manual where the base has 2.2. Scalings that training repairs: linear 2, 4, 8, 16, 64
 * gave 3.5, 4.7, 5.2, 5.4, 5.6, for a model without any use of positions still knows words; yarn 2
 * to 64 gave 2.3 to 3.0. Scalings that are mistakes: rope_theta 500 in place of 100000 gave 4.4 in
 * the first 128 tokens and up to 9.9 later, cosines and sines multiplied by 4 or by 0.2 gave 7.8
 * to 8.8. The limit lies between, three fifths of the way from the base to guessing: 7.4 there.
 */
#include "worker/kinds/rope_check.h"
#include "proto/base/log.h"
#include "worker/model/rope.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOWARDS_GUESSING 0.6
/* However small the vocabulary, or bad the base: less than this is no sign of anything. */
#define WORSE_MIN 2.0

struct sample {
    int32_t *ids, *labels, *documents; /* owned, of a window */
    int64_t tokens;
};

/* Mean loss and labels of each band. */
struct bands {
    double nll[ROPE_CHECK_BANDS];
    int64_t n[ROPE_CHECK_BANDS];
};

static void sample_release(struct sample *s)
{
    free(s->ids);
    free(s->labels);
    free(s->documents);
}

/* The loss, in nats a token, above which positions are broken where the base has `base`. */
static double loss_limit(double base, int64_t vocab)
{
    return base + fmax(WORSE_MIN, TOWARDS_GUESSING * (log((double)vocab) - base));
}

/* The first tokens of the first window of step 1, each with its next as label: also those of a
 * prompt, which training passes over. */
static int sample_take(const struct dataset *data, const struct model_config *c, int64_t length,
                       struct sample *s, struct lh_err *reterr)
{
    size_t bytes = (size_t)length * sizeof(int32_t);
    struct sequence seq;
    int rc;

    s->ids = malloc(bytes);
    s->labels = malloc(bytes);
    s->documents = malloc(bytes);
    if (!s->ids || !s->labels || !s->documents)
        return lh_err_set(reterr, -ENOMEM, "a short text to check positions with");
    seq = (struct sequence){.ids = s->ids, .labels = s->labels, .documents = s->documents};
    rc = dataset_sequence(data, 0, &seq, reterr);
    if (rc < 0)
        return rc;
    s->tokens = LH_MIN(LH_MIN(seq.length, c->max_positions), (int64_t)ROPE_CHECK_TOKENS);
    for (int64_t t = 0; t < s->tokens; t++) {
        bool next = t + 1 < s->tokens && s->documents[t + 1] == s->documents[t];

        s->labels[t] = next ? s->ids[t + 1] : -100;
    }
    return 0;
}

static int64_t band_begin(const struct sample *s, int i)
{
    return s->tokens * i / ROPE_CHECK_BANDS;
}

static int measure(struct engine *e, const struct sample *s, bool documents, struct bands *ret,
                   struct lh_err *reterr)
{
    struct llama_batch batch = {.rows = 1,
                                .row_tokens = s->tokens,
                                .ids = s->ids,
                                .labels = s->labels,
                                .documents = documents ? s->documents : NULL};
    int rc = llama_eval(&e->model, &batch, reterr);

    *ret = (struct bands){0};
    for (int i = 0; rc == 0 && i < ROPE_CHECK_BANDS; i++) {
        for (int64_t t = band_begin(s, i); t < band_begin(s, i + 1); t++) {
            ret->nll[i] += e->model.nll[t];
            ret->n[i] += s->labels[t] >= 0;
        }
        ret->nll[i] /= (double)LH_MAX(ret->n[i], (int64_t)1);
    }
    return rc;
}

/* Both measurements; the model has the new positions again afterwards. */
static int measure_both(struct engine *e, const struct sample *s, bool documents,
                        struct bands *ret_base, struct bands *ret_scaled, struct lh_err *reterr)
{
    double *own = calloc((size_t)e->config->head_dim, sizeof(*own)), scaling;
    int rc = own ? rope_frequencies(&e->config->rope, e->config, s->tokens, own, &scaling, reterr)
                 : lh_err_set(reterr, -ENOMEM, "the angles of positions");

    if (rc == 0)
        rc = measure(e, s, documents, ret_scaled, reterr);
    if (rc == 0)
        rc = llama_angles(&e->model, own, scaling, reterr);
    if (rc == 0)
        rc = measure(e, s, documents, ret_base, reterr);
    if (rc == 0)
        rc = llama_angles(&e->model, e->inv_freq, e->scaling, reterr);
    free(own);
    return rc;
}

/* Else the base itself is broken, which is training's to find and to name. */
static bool is_finite(const struct bands *b)
{
    for (int i = 0; i < ROPE_CHECK_BANDS; i++)
        if (!isfinite(b->nll[i]))
            return false;
    return true;
}

static json_t *bands_json(const struct sample *s, const struct bands *base,
                          const struct bands *scaled, int64_t vocab)
{
    json_t *list = json_array();

    for (int i = 0; i < ROPE_CHECK_BANDS; i++)
        if (base->n[i] > 0)
            (void)json_array_append_new(
                list,
                json_pack("{s:I, s:I, s:f, s:o, s:f}", "begin", (json_int_t)band_begin(s, i), "end",
                          (json_int_t)band_begin(s, i + 1), "base", base->nll[i], "scaled",
                          isfinite(scaled->nll[i]) ? json_real(scaled->nll[i]) : json_null(),
                          "limit", loss_limit(base->nll[i], vocab)));
    return json_pack("{s:I, s:o}", "tokens", (json_int_t)s->tokens, "bands", list);
}

static int judge(const struct engine *e, const struct sample *s, const struct bands *base,
                 const struct bands *scaled, struct lh_err *reterr)
{
    char figures[ROPE_CHECK_BANDS * 80] = "";
    size_t at = 0;
    bool broken = false;

    for (int i = 0; i < ROPE_CHECK_BANDS; i++) {
        double limit = loss_limit(base->nll[i], e->config->vocab);

        if (base->n[i] == 0)
            continue;
        broken |= !(scaled->nll[i] <= limit); /* also when it is no number */
        at += (size_t)snprintf(figures + at, sizeof(figures) - at,
                               "%s%lld to %lld: %.2f, base %.2f, limit %.2f", at ? "; " : "",
                               (long long)band_begin(s, i), (long long)band_begin(s, i + 1) - 1,
                               scaled->nll[i], base->nll[i], limit);
    }
    lh_info("rope.check", "type=%s factor=%g theta=%g nats=\"%s\"", lh_rope_name(e->rope.type),
            e->rope.factor, e->rope.theta, figures);
    if (!broken)
        return 0;
    return lh_err_at(reterr, LH_EJOB, "/context/rope",
                     "positions of type %s, factor %g, break the model on short text before "
                     "training: loss by position %s (guessing: %.2f); choose another scaling, see "
                     "to the base's config, or set context.rope.skip_check",
                     lh_rope_name(e->rope.type), e->rope.factor, figures,
                     log((double)e->config->vocab));
}

/* Whether the positions at hand are other ones than the base's own within its length. */
static int scales(const struct engine *e, bool *ret_scales, struct lh_err *reterr)
{
    int64_t half = e->config->head_dim / 2;
    double *own = calloc((size_t)e->config->head_dim, sizeof(*own)), scaling;
    int rc =
        own ? rope_frequencies(&e->config->rope, e->config,
                               LH_MIN(e->length, e->config->max_positions), own, &scaling, reterr)
            : lh_err_set(reterr, -ENOMEM, "the angles of positions");

    if (rc == 0)
        *ret_scales =
            scaling != e->scaling || memcmp(own, e->inv_freq, (size_t)half * sizeof(*own)) != 0;
    free(own);
    return rc;
}

static int check_here(struct run *r, struct engine *e, const struct dataset *data,
                      struct lh_err *reterr)
{
    LH_CLEANUP(sample_release) struct sample s = {0};
    struct bands base, scaled;
    int rc = sample_take(data, e->config, r->job->context.length, &s, reterr);

    if (rc == 0)
        rc = measure_both(e, &s, dataset_has_documents(data), &base, &scaled, reterr);
    if (rc < 0 || !is_finite(&base))
        return rc;
    (void)json_object_set_new(r->result, "rope_check",
                              bands_json(&s, &base, &scaled, e->config->vocab));
    return judge(e, &s, &base, &scaled, reterr);
}

int rope_check(struct run *r, struct engine *e, const struct dataset *data, struct lh_err *reterr)
{
    bool wanted = false;
    int rc = 0;

    if (r->job->context.rope.skip_check || r->resume_dir)
        return 0;
    if (r->comm->rank == 0) {
        rc = scales(e, &wanted, reterr);
        if (rc == 0 && wanted)
            rc = check_here(r, e, data, reterr);
    }
    return run_agree(r, rc, reterr);
}
