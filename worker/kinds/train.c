/* train.c - kind train: opens data and model, makes steps until they are done or a stop is asked
 * for, saves, evaluates.
 *
 * kind_train reads top to bottom as what happens. Ranks do the same things in the same order; what
 * a rank decides by its own clock (a checkpoint by time, the number of steps by minutes) is agreed
 * on before it is done.
 */
#include "proto/base/clock.h"
#include "proto/base/fault.h"
#include "proto/base/log.h"
#include "proto/base/str.h"
#include "worker/ckpt/ckpt.h"
#include "worker/kinds/job_data.h"
#include "worker/kinds/passkey.h"
#include "worker/kinds/perplexity.h"
#include "worker/kinds/rope_check.h"
#include "worker/kinds/step.h"
#include "worker/optim/share.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MINUTES_STEPS_MIN 4 /* however short the time: fewer teach nothing */
#define STEP_EVENTS_BURST                                                                          \
    256 /* EVENT-8: at most one a second in the long run; short runs show every step */

struct train {
    struct run *run;
    struct engine engine;
    struct dataset *data;
    struct held_out *texts; /* NULL: no perplexity asked for */
    struct passkey passkey;
    struct stepper stepper;
    struct train_state state;
    int64_t begin, steps; /* finished steps when this attempt began; when training ends */
    int64_t half;         /* a timed training saves when it gets there; 0: not timed, or saved */
    bool timed;           /* optim.minutes has been turned into steps */
    int64_t saved_step;   /* of the newest checkpoint; -1: none by this attempt */
    uint64_t saved_ms, events_ms;
    double events;       /* step events that may still be sent */
    double loop_seconds; /* in steps of this attempt */
    int64_t peak_bytes;  /* that a rank held at most in these steps, beyond what it began with */

    struct dump *dump;
    float *losses, *norms, *rates; /* the dump's, one a step */
};

static int train_open(struct train *t, struct lh_err *reterr);
static int train_step(struct train *t, struct lh_err *reterr);
static bool checkpoint_due(struct train *t);
static int train_save(struct train *t, bool must, struct lh_err *reterr);
static int train_eval(struct train *t, bool last, struct lh_err *reterr);
static int train_dump(struct train *t, struct lh_err *reterr);
static void train_result(struct train *t);

static void train_closep(struct train *t)
{
    dump_free(t->dump);
    stepper_release(&t->stepper);
    if (t->data)
        dataset_close(t->data);
    held_out_close(t->texts);
    passkey_close(&t->passkey);
    engine_close(&t->engine);
}

int kind_train(struct run *r, struct lh_err *reterr)
{
    LH_CLEANUP(train_closep) struct train t = {.run = r, .saved_step = -1};
    bool checkpoint, stop = false;
    int rc = train_open(&t, reterr);

    while (rc == 0 && !stop && t.state.step < t.steps) {
        rc = train_step(&t, reterr);
        if (rc < 0)
            break;
        if (checkpoint_due(&t))
            r->checkpoint_wanted = 1;
        rc = run_poll(r, &checkpoint, &stop, reterr);
        if (rc == 0 && checkpoint && !stop && t.state.step < t.steps)
            rc = train_save(&t, false, reterr);
        if (rc == 0 && !stop && t.state.step < t.steps)
            rc = train_eval(&t, false, reterr);
        lh_fault("worker.step");
    }
    if (rc == 0)
        rc = engine_peak(r, &t.peak_bytes, reterr);
    if (rc == 0 && r->job->optim.has_lr)
        rc = train_save(&t, true, reterr);
    if (rc == 0 && stop && t.state.step < t.steps)
        return lh_err_set(reterr, LH_ESTOPPED, "stopped on request after step %lld of %lld",
                          (long long)t.state.step, (long long)t.steps);
    if (rc == 0)
        rc = train_eval(&t, true, reterr);
    if (rc == 0)
        rc = train_dump(&t, reterr);
    if (rc == 0)
        train_result(&t);
    return rc;
}

/* Room in the dump for the figures of every step and the tensors of the first. */
static int open_dump(struct train *t, struct lh_err *reterr)
{
    int64_t steps = t->run->job->optim.steps;
    void *losses = NULL, *norms = NULL, *rates = NULL;
    int rc = dump_open(t->run->dump_dir, &t->dump, reterr);

    if (rc < 0 || !t->dump)
        return rc;
    rc = dump_add(t->dump, "loss", ST_F32, 1, &steps, false, &losses, reterr);
    if (rc == 0)
        rc = dump_add(t->dump, "grad_norm", ST_F32, 1, &steps, false, &norms, reterr);
    if (rc == 0)
        rc = dump_add(t->dump, "learning_rate", ST_F32, 1, &steps, false, &rates, reterr);
    if (rc == 0)
        rc = dump_rope(t->dump, t->engine.inv_freq, t->engine.config->head_dim / 2,
                       t->engine.scaling, reterr);
    if (rc == 0)
        rc = stepper_dump(&t->stepper, t->dump, reterr);
    t->losses = losses;
    t->norms = norms;
    t->rates = rates;
    return rc;
}

/* The data of the whole run, before weights take memory: what is wrong with it shows at once. */
static int open_data(struct train *t, struct lh_err *reterr)
{
    int64_t vocab = t->engine.config->vocab;
    int rc = job_data_train(t->run, vocab, &t->data, reterr);

    if (rc == 0 && t->run->job->eval.perplexity.n > 0)
        rc = job_data_eval(t->run, vocab, &t->texts, reterr);
    if (rc == 0 && t->run->job->eval.has_passkey)
        rc = run_agree(t->run, passkey_open(t->run, &t->engine, &t->passkey, reterr), reterr);
    return rc;
}

static int train_open(struct train *t, struct lh_err *reterr)
{
    struct run *r = t->run;
    struct engine_place place = engine_place_of(r);
    int rc = engine_open(r->job, r->comm->size, &t->engine, reterr);

    if (rc == 0)
        rc = engine_count(&t->engine, r->job, &place, reterr);
    rc = run_agree(r, rc, reterr);
    if (rc == 0)
        rc = engine_keep(&t->engine, r, reterr);
    if (rc == 0)
        rc = run_agree(r, engine_fits(&t->engine, r, reterr), reterr);
    if (rc == 0)
        rc = open_data(t, reterr);
    if (rc < 0)
        return rc;
    run_phase(r, "loading", 0, 1, "tensors");
    rc = engine_load(&t->engine, r, reterr);
    if (rc == 0)
        rc = stepper_init(&t->stepper, r, &t->engine, t->data, reterr);
    if (rc == 0)
        rc = open_dump(t, reterr);
    rc = run_agree(r, rc, reterr);
    if (rc == 0 && r->resume_dir)
        rc = ckpt_load(r, r->resume_dir, &t->engine.model.params, &t->state, reterr);
    if (rc < 0)
        return rc;
    share_split(&t->engine.model.params, r->comm);
    params_refresh(&t->engine.model.params, r->ops, r->stream);
    rc = run_agree(r, r->ops->sync(r->stream, reterr), reterr);
    run_phase(r, "loading", 1, 1, "tensors");
    if (rc == 0)
        rc = rope_check(r, &t->engine, t->data, reterr);
    t->stepper.skipped = t->state.skipped;
    t->begin = r->steps = t->state.step;
    if (r->resume_dir && lh_starts_with(r->resume_dir, r->out_dir))
        t->saved_step = t->begin;
    t->steps = r->job->optim.has_lr ? r->job->optim.steps : t->begin + 1;
    t->saved_ms = t->events_ms = lh_mono_ms();
    t->events = STEP_EVENTS_BURST;
    if (r->comm->rank == 0)
        lh_info("train.start",
                "step=%lld steps=%lld trainable=%lld windows=%lld tokens=%lld rope=%s factor=%g "
                "theta=%g",
                (long long)t->begin, (long long)t->steps,
                (long long)t->engine.model.params.n_trainable, (long long)dataset_windows(t->data),
                (long long)dataset_tokens(t->data), lh_rope_name(t->engine.rope.type),
                t->engine.rope.factor, t->engine.rope.theta);
    return rc;
}

/* optim.minutes becomes a number of steps as soon as this attempt has measured one, and fewer when
 * later ones turn out slower: what is left of the time, by the slowest rank's clock, so every rank
 * computes the same. */
static void plan_steps(struct train *t)
{
    const struct lh_job *job = t->run->job;
    double left = (double)job->optim.minutes * 60 - t->state.train_seconds;
    double step_s = t->loop_seconds / (double)(t->state.step - t->begin);
    int64_t more;

    if (job->optim.minutes == 0 || !job->optim.has_lr)
        return;
    more = left > 0 && step_s > 0 ? (int64_t)fmin(left / step_s, 1e9) : 0;
    t->steps = LH_MIN(t->steps, LH_MAX(t->state.step + more, (int64_t)MINUTES_STEPS_MIN));
    if (!t->timed && t->steps / 2 > t->begin)
        t->half = t->steps / 2;
    t->timed = true;
}

static void report_step(struct train *t, const struct step_result *result)
{
    struct run *r = t->run;
    uint64_t now = lh_mono_ms();
    bool finite = isfinite(result->loss) && isfinite(result->grad_norm);

    if (r->comm->rank != 0)
        return;
    t->events = fmin(STEP_EVENTS_BURST, t->events + (double)(now - t->events_ms) * 1e-3);
    t->events_ms = now;
    if (t->events < 1 && t->state.step < t->steps)
        return;
    t->events -= 1;
    lh_report(r->reporter, "step",
              json_pack("{s:I, s:I, s:o, s:o, s:f, s:I, s:f, s:f, s:f, s:f}", "step",
                        (json_int_t)t->state.step, "of", (json_int_t)t->steps, "loss",
                        finite ? json_real(result->loss) : json_null(), "grad_norm",
                        finite ? json_real(result->grad_norm) : json_null(), "learning_rate",
                        result->rate, "tokens", (json_int_t)result->tokens, "step_s",
                        result->seconds, "tokens_per_s",
                        (double)result->tokens / fmax(result->seconds, 1e-9), "data_s",
                        result->data_seconds, "cpu_s", result->cpu_seconds));
}

static int train_step(struct train *t, struct lh_err *reterr)
{
    struct run *r = t->run;
    int64_t step = t->state.step;
    struct step_result result;
    int rc;

    profile_begin(r->profile, "step");
    rc = step_run(&t->stepper, step, t->steps, &result, reterr);
    profile_end(r->profile);
    if (rc < 0)
        return rc;
    if (t->dump && step < r->job->optim.steps) {
        t->losses[step] = (float)result.loss;
        t->norms[step] = (float)result.grad_norm;
        t->rates[step] = (float)result.rate;
    }
    t->run->steps = ++t->state.step;
    t->state.tokens += result.tokens;
    t->state.skipped = t->stepper.skipped;
    t->state.train_seconds += result.seconds;
    t->loop_seconds += result.seconds;
    if (isfinite(result.loss))
        t->state.last_loss = result.loss;
    if (r->job->optim.has_lr && !result.applied && r->comm->rank == 0)
        lh_report(r->reporter, "warning",
                  json_pack("{s:s, s:s}", "code", "nonfinite_skipped", "text", result.bad.text));
    plan_steps(t);
    report_step(t, &result);
    return 0;
}

/* By this rank's clock and count; run_poll makes it everyone's. */
static bool checkpoint_due(struct train *t)
{
    const struct lh_job *job = t->run->job;
    int64_t every = job->checkpoint.every_steps;

    if (!job->optim.has_lr)
        return false;
    if (every > 0 && t->state.step % every == 0)
        return true;
    if (job->checkpoint.every_s > 0 &&
        lh_mono_ms() - t->saved_ms >= (uint64_t)job->checkpoint.every_s * 1000)
        return true;
    return every == 0 && t->half > 0 && t->state.step >= t->half;
}

/* Saves; must: the last one of an attempt, whose failure is the attempt's. Another one that fails
 * is a warning, and training goes on with the older checkpoints (CKPT-11). */
static int train_save(struct train *t, bool must, struct lh_err *reterr)
{
    struct run *r = t->run;
    struct lh_manifest manifest;
    struct lh_err err = {0};
    uint64_t began = lh_mono_ms();
    char path[1024];
    int rc;

    if (t->saved_step == t->state.step)
        return 0;
    if (t->state.step >= t->half)
        t->half = 0;
    run_phase(r, "checkpoint", 0, 1, "tensors");
    rc = ckpt_save(r, &t->engine.model.params, t->engine.config, &t->engine.rope, &t->state, path,
                   &manifest, &err);
    if (rc < 0 && (must || rc != r->agreed_code)) {
        if (reterr)
            *reterr = err;
        return rc;
    }
    t->saved_ms = lh_mono_ms();
    if (rc < 0 && r->comm->rank == 0) {
        lh_warn("checkpoint.failed", "step=%lld error=\"%s\"", (long long)t->state.step, err.text);
        lh_report(r->reporter, "warning",
                  json_pack("{s:s, s:s}", "code", "checkpoint_failed", "text", err.text));
    }
    if (rc < 0)
        return 0;
    t->saved_step = t->state.step;
    if (r->comm->rank == 0)
        lh_report(r->reporter, "checkpoint",
                  json_pack("{s:I, s:s, s:I, s:s, s:f}", "step", (json_int_t)t->state.step, "path",
                            path, "bytes", (json_int_t)manifest.bytes, "manifest_sha256",
                            manifest.sha256, "stall_s", (double)(t->saved_ms - began) * 1e-3));
    lh_manifest_release(&manifest);
    run_phase(r, "checkpoint", 1, 1, "tensors");
    return 0;
}

static int train_perplexity(struct train *t, bool last, struct lh_err *reterr)
{
    struct run *r = t->run;
    struct perplexity p;
    int rc = perplexity_run(r, &t->engine, t->texts, NULL, &p, reterr);

    if (rc < 0)
        return rc;
    perplexity_report(r, &p, t->state.step, NULL);
    if (last)
        (void)json_object_set_new(r->result, "eval", perplexity_json(&p));
    perplexity_release(&p);
    return 0;
}

static int train_passkey(struct train *t, bool last, struct lh_err *reterr)
{
    int rc = passkey_run(&t->passkey, &t->engine, reterr);

    if (rc < 0)
        return rc;
    passkey_report(&t->passkey, t->state.step, NULL);
    if (last)
        (void)json_object_set_new(t->run->result, "passkey", passkey_json(&t->passkey));
    return 0;
}

static int train_eval(struct train *t, bool last, struct lh_err *reterr)
{
    int64_t every = t->run->job->eval.every_steps;
    int rc = 0;

    if (!last && (every == 0 || t->state.step % every != 0))
        return 0;
    if (t->texts)
        rc = train_perplexity(t, last, reterr);
    if (rc == 0 && t->run->job->eval.has_passkey)
        rc = train_passkey(t, last, reterr);
    /* A stop ends the evaluation; training then saves and ends as at any other time. */
    return rc == LH_ESTOPPED && !last ? 0 : rc;
}

static int train_dump(struct train *t, struct lh_err *reterr)
{
    const struct llama *m = &t->engine.model;
    int rc;

    if (!t->dump)
        return 0;
    dump_shorten(t->dump, "loss", t->state.step);
    dump_shorten(t->dump, "grad_norm", t->state.step);
    dump_shorten(t->dump, "learning_rate", t->state.step);
    rc = share_state(&m->params, t->run->comm, reterr);
    if (rc == 0)
        rc = run_agree(t->run, dump_finals(t->dump, &m->device, &m->params, reterr), reterr);
    return rc < 0 ? rc : dump_write(t->dump, t->run, reterr);
}

static void train_result(struct train *t)
{
    json_t *result = t->run->result;
    double tokens = (double)(t->state.step - t->begin) *
                    (double)t->run->job->optim.batch_sequences *
                    (double)t->run->job->context.length;

    (void)json_object_set_new(result, "steps", json_integer((json_int_t)t->state.step));
    (void)json_object_set_new(result, "tokens", json_integer((json_int_t)t->state.tokens));
    (void)json_object_set_new(result, "loss", json_real(t->state.last_loss));
    (void)json_object_set_new(result, "train_s", json_real(t->state.train_seconds));
    (void)json_object_set_new(result, "tokens_per_s",
                              json_real(t->loop_seconds > 0 ? tokens / t->loop_seconds : 0));
    engine_report_bytes(t->run, plan_total(&t->engine.model.plan), t->peak_bytes);
    (void)json_object_set_new(result, "kept", engine_kept_json(&t->engine));
}
