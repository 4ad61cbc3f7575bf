/* eval.c - kind eval: perplexity by length of context over held-out texts, and retrieval of
 * passkeys, of a model with or without an adapter: once, or for each scaling of positions that is
 * to be compared. */
#include "worker/kinds/dump.h"
#include "worker/kinds/engine.h"
#include "worker/kinds/job_data.h"
#include "worker/kinds/passkey.h"
#include "worker/kinds/perplexity.h"
#include "worker/kinds/ropes.h"
#include "worker/model/rope.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TOP 5 /* logits kept of a position, for dumps */
#define TOP_EVERY 16

/* What is found with one scaling of positions. */
struct setting {
    struct perplexity p; /* without texts: zeros */
    char label[ROPES_LABEL];
};

struct eval {
    struct run *run;
    struct engine engine;
    struct held_out *texts; /* NULL: passkeys alone */
    struct passkey passkey;
    struct setting *settings; /* owned, ropes_count */
    struct dump *dump;
    float *top_values; /* the dump's; NULL: not wanted */
    int64_t *top_ids;
    float *row; /* owned, V: one position's logits */
};

static int eval_open(struct eval *e, struct lh_err *reterr);
static int eval_setting(struct eval *e, unsigned i, struct lh_err *reterr);
static void eval_print(const struct eval *e);
static int eval_dump(struct eval *e, struct lh_err *reterr);
static struct head_sink top_sink(struct eval *e);

static void eval_closep(struct eval *e)
{
    for (unsigned i = 0; e->settings && i < ropes_count(e->run->job); i++)
        perplexity_release(&e->settings[i].p);
    free(e->settings);
    dump_free(e->dump);
    held_out_close(e->texts);
    passkey_close(&e->passkey);
    engine_close(&e->engine);
    free(e->row);
}

int kind_eval(struct run *r, struct lh_err *reterr)
{
    LH_CLEANUP(eval_closep) struct eval e = {.run = r};
    int rc = eval_open(&e, reterr);

    for (unsigned i = 0; i < ropes_count(r->job) && rc == 0; i++)
        rc = eval_setting(&e, i, reterr);
    if (rc < 0)
        return rc;
    if (r->comm->rank == 0 && e.texts)
        eval_print(&e);
    return eval_dump(&e, reterr);
}

/* Into the result: as members of it, or of an entry of its list of settings. */
static void put_result(struct eval *e, unsigned i)
{
    const struct lh_job *job = e->run->job;
    json_t *to = json_object();

    if (e->texts)
        (void)json_object_set_new(to, "eval", perplexity_json(&e->settings[i].p));
    if (job->eval.has_passkey)
        (void)json_object_set_new(to, "passkey", passkey_json(&e->passkey));
    if (job->eval.n_ropes == 0) {
        (void)json_object_update(e->run->result, to);
        json_decref(to);
        return;
    }
    (void)json_object_set_new(to, "rope", json_string(e->settings[i].label));
    (void)json_object_set_new(to, "rope_parameters", rope_json(&e->engine.rope));
    if (!json_object_get(e->run->result, "ropes"))
        (void)json_object_set_new(e->run->result, "ropes", json_array());
    (void)json_array_append_new(json_object_get(e->run->result, "ropes"), to);
}

static int eval_setting(struct eval *e, unsigned i, struct lh_err *reterr)
{
    struct run *r = e->run;
    struct setting *s = &e->settings[i];
    const char *rope = r->job->eval.n_ropes > 0 ? s->label : NULL;
    struct head_sink sink = top_sink(e);
    int rc = run_agree(r, ropes_turn(r->job, &e->engine, i, reterr), reterr);

    ropes_label(r->job, &e->engine, i, s->label);
    if (rc == 0 && e->texts) {
        rc = perplexity_run(r, &e->engine, e->texts, &sink, &s->p, reterr);
        if (rc == 0)
            perplexity_report(r, &s->p, 0, rope);
    }
    if (rc == 0 && r->job->eval.has_passkey) {
        rc = passkey_run(&e->passkey, &e->engine, reterr);
        if (rc == 0)
            passkey_report(&e->passkey, 0, rope);
        if (rc == 0 && r->comm->rank == 0)
            passkey_print(&e->passkey, s->label);
    }
    if (rc == 0)
        put_result(e, i);
    return rc;
}

static void eval_print(const struct eval *e)
{
    struct perplexity p[LH_EVAL_ROPES_MAX];
    const char *labels[LH_ARRAY_LEN(p)];
    unsigned n = ropes_count(e->run->job);

    assert(n <= LH_ARRAY_LEN(p));
    for (unsigned i = 0; i < n; i++) {
        p[i] = e->settings[i].p;
        labels[i] = e->settings[i].label;
    }
    perplexity_print(p, labels, n);
}

/* Room for the dump's top logits: only with one window, as the goldens have it. */
static int open_dump(struct eval *e, struct lh_err *reterr)
{
    int64_t shape[2] = {(e->run->job->context.length + TOP_EVERY - 1) / TOP_EVERY, TOP};
    void *values = NULL, *ids = NULL;
    int rc = dump_open(e->run->dump_dir, &e->dump, reterr);

    if (rc < 0 || !e->dump)
        return rc;
    if (e->run->comm->size > 1 || !e->texts || held_out_windows(e->texts) > 1 ||
        e->run->job->eval.mode != LH_EVAL_PREFIXES || e->run->job->eval.n_ropes > 1)
        return lh_err_set(reterr, LH_EJOB,
                          "--dump of an eval job takes one window of mode prefixes and one rank");
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

/* Before weights take memory: what is wrong with it shows at once. */
static int open_data(struct eval *e, struct lh_err *reterr)
{
    struct run *r = e->run;
    int rc = 0;

    if (r->job->eval.perplexity.n > 0)
        rc = job_data_eval(r, e->engine.config->vocab, &e->texts, reterr);
    if (rc < 0)
        return rc;
    e->settings = calloc(ropes_count(r->job), sizeof(*e->settings));
    if (!e->settings)
        rc = lh_err_set(reterr, -ENOMEM, "settings to compare");
    if (rc == 0 && r->job->eval.has_passkey)
        rc = passkey_open(r, &e->engine, &e->passkey, reterr);
    return run_agree(r, rc, reterr);
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
        rc = open_data(e, reterr);
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

static int eval_dump(struct eval *e, struct lh_err *reterr)
{
    const struct perplexity *p = &e->settings[0].p;
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
    ((float *)loss)[0] = (float)perplexity_band(p, 0, n);
    return dump_write(e->dump, e->run, reterr);
}
