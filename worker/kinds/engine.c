/* engine.c - opening what training and evaluation share; see engine.h. */
#include "worker/kinds/engine.h"
#include "proto/base/fs.h"
#include "worker/kinds/batches.h"
#include "worker/kinds/passkey.h"
#include "worker/kinds/positions.h"
#include "worker/kinds/ropes.h"
#include "worker/model/rope.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARENA_MAX                                                                                  \
    ((size_t)4 << 20) /* patterns of an adapter: at most one per linear of 1024 layers */

int64_t engine_group(const struct lh_job *job)
{
    if (job->context.attention.type != LH_ATTENTION_S2)
        return 0;
    return job->context.attention.group > 0 ? job->context.attention.group
                                            : job->context.length / 4;
}

int64_t engine_eval_group(const struct lh_job *job)
{
    bool train = job->eval.attention && strcmp(job->eval.attention, "train") == 0;

    return train ? engine_group(job) : 0;
}

/* Known members that the engine has not: refused here, before anything is read. */
static int refuse(const struct lh_job *job, struct lh_err *reterr)
{
    if (job->context.attention.type == LH_ATTENTION_FOT)
        return lh_err_at(reterr, LH_ENOTSUP, "/context/attention/type",
                         "attention of type fot is not supported yet");
    if (job->resources.sequence_parallel > 1)
        return lh_err_at(reterr, LH_ENOTSUP, "/resources/sequence_parallel",
                         "sequence parallelism is not supported yet; leave it out or give 1");
    if (job->context.length < 2)
        return lh_err_at(reterr, LH_EJOB, "/context/length", "a window needs 2 tokens or more");
    return 0;
}

static int open_adapter(const struct lh_job *job, struct engine *e, struct lh_err *reterr)
{
    bool train = job->kind == LH_KIND_TRAIN;
    enum kn_dtype dtype = job->precision == LH_FP32 ? KN_F32 : KN_BF16;
    char path[1024];
    int rc;

    if (train)
        params_spec_job(job, &e->spec);
    else
        e->spec = (struct params_spec){.dtype = dtype};
    if (!job->model.adapter)
        return 0;
    rc = run_path(job->model.adapter, "/model/adapter", path, reterr);
    if (rc == 0)
        rc = peft_open(path, &e->adapter, reterr);
    if (rc < 0)
        return rc;
    e->has_adapter = true;
    if (train)
        return peft_check(&e->adapter, job, reterr);
    return params_spec_adapter(&e->adapter, dtype, &e->arena, &e->spec, reterr);
}

static int open_angles(struct engine *e, struct lh_err *reterr)
{
    e->inv_freq = calloc((size_t)e->config->head_dim, sizeof(*e->inv_freq));
    if (!e->inv_freq)
        return lh_err_set(reterr, -ENOMEM, "the angles of positions");
    return rope_frequencies(&e->rope, e->config, e->length, e->inv_freq, &e->scaling, reterr);
}

static int open_positions(const struct lh_job *job, struct engine *e, struct lh_err *reterr)
{
    int rc = rope_compose(job, e->config, &e->rope, reterr);

    if (rc < 0)
        return rc;
    e->length = job->context.length;
    return open_angles(e, reterr);
}

static int open_base(const struct lh_job *job, struct engine *e, struct lh_err *reterr)
{
    int rc = run_path(job->model.base, "/model/base", e->base_path, reterr);

    lh_arena_init(&e->arena, ARENA_MAX);
    if (rc == 0)
        rc = model_source_open(e->base_path, &e->source, reterr);
    if (rc == 0)
        e->config = model_source_config(e->source);
    return rc;
}

/* What passkeys ask for beside a window: kept keys and values, and as many positions. */
static void eval_room(const struct lh_job *job, struct llama_options *o)
{
    if (job->kind == LH_KIND_EVAL && job->eval.perplexity.n == 0)
        o->tokens = LH_MIN(o->tokens, (int64_t)PASSKEY_CHUNK);
    if (!job->eval.has_passkey)
        return;
    o->cache = passkey_longest(job);
    o->row_tokens = LH_MAX(o->row_tokens, o->cache);
}

int engine_open(const struct lh_job *job, int ranks, struct engine *e, struct lh_err *reterr)
{
    bool train = job->kind == LH_KIND_TRAIN;
    int64_t rows = train ? batches_most_rows(job, ranks) : 1;
    struct llama_options options = {
        .params = &e->spec, .row_tokens = job->context.length, .backward = train};
    int rc = refuse(job, reterr);

    if (rc == 0)
        rc = open_base(job, e, reterr);
    if (rc < 0)
        return rc;
    rc = open_positions(job, e, reterr);
    if (rc == 0)
        rc = open_adapter(job, e, reterr);
    if (rc < 0)
        return rc;
    if (rows > INT64_MAX / job->context.length)
        return lh_err_at(reterr, LH_EJOB, "/context/length", "%lld rows of %lld tokens",
                         (long long)rows, (long long)job->context.length);
    options.config = e->config;
    options.tokens = rows * job->context.length;
    if (train && job->context.attention.wrap)
        options.wrap_tokens = options.tokens + rows * (engine_group(job) / 2);
    eval_room(job, &options);
    rc = ropes_check(job, e, reterr);
    return rc < 0 ? rc : llama_init(&options, &e->model, reterr);
}

/* A checkpoint of full fine-tuning is a model by itself. */
static bool is_whole_model(const char *dir)
{
    char adapter[1100], config[1100], state[1100];

    (void)snprintf(adapter, sizeof(adapter), "%s/adapter_config.json", dir);
    (void)snprintf(config, sizeof(config), "%s/config.json", dir);
    (void)snprintf(state, sizeof(state), "%s/state.json", dir);
    return !lh_path_exists(adapter) && lh_path_exists(config) && lh_path_exists(state);
}

static int open_whole_model(struct engine *e, const char *dir, struct lh_err *reterr)
{
    struct model_source *own = NULL;
    int rc = model_source_open(dir, &own, reterr);

    if (rc < 0)
        return rc;
    if (model_source_config(own)->vocab != e->config->vocab ||
        model_source_config(own)->hidden != e->config->hidden ||
        model_source_config(own)->n_layers != e->config->n_layers) {
        model_source_close(own);
        return lh_err_at(reterr, LH_EINPUT, "/model/adapter",
                         "'%s' is a model of another size than model.base; a checkpoint goes with "
                         "the base that it was trained from",
                         dir);
    }
    model_source_close(e->source);
    e->source = own;
    e->config = model_source_config(own);
    return 0;
}

int engine_open_finished(const struct lh_job *job, struct engine *e, struct lh_err *reterr)
{
    char path[1024] = "";
    int rc = open_base(job, e, reterr);

    if (rc == 0 && job->model.adapter)
        rc = run_path(job->model.adapter, "/model/adapter", path, reterr);
    if (rc == 0)
        rc = positions_finished(job, e->config, path, &e->rope, &e->length, reterr);
    if (rc == 0 && *path && is_whole_model(path))
        rc = open_whole_model(e, path, reterr);
    else if (rc == 0)
        rc = open_adapter(job, e, reterr);
    return rc < 0 ? rc : open_angles(e, reterr);
}

int engine_model(struct engine *e, const struct engine_need *need, struct lh_err *reterr)
{
    struct llama_options options = {.config = e->config,
                                    .params = &e->spec,
                                    .tokens = need->tokens,
                                    .row_tokens = need->positions,
                                    .cache = need->cache};

    e->spec.dtype = need->dtype; /* an adapter's factors too */
    return llama_init(&options, &e->model, reterr);
}

void engine_model_release(struct engine *e)
{
    llama_release(&e->model);
}

static void beat(void *arg)
{
    struct engine_progress *p = arg;

    if (!p->phase) {
        lh_report_beat(p->run->reporter);
        return;
    }
    p->layers_done = LH_MIN(p->layers_done + 1, p->layers);
    run_phase(p->run, p->phase,
              p->done + (int64_t)((double)p->span * (double)p->layers_done / (double)p->layers),
              p->of, "tokens");
}

void engine_piece(struct engine *e, const char *phase, int64_t done, int64_t span, int64_t of,
                  int64_t layers)
{
    struct run *r = e->progress.run;

    e->progress = (struct engine_progress){r, phase, done, span, of, LH_MAX(layers, (int64_t)1), 0};
}

int engine_load(struct engine *e, struct run *r, struct lh_err *reterr)
{
    e->model.beat = beat;
    e->model.beat_arg = &e->progress;
    e->model.profile = r->profile;
    e->progress = (struct engine_progress){.run = r};
    return llama_load(&e->model, r->ops, r->stream, e->source, e->has_adapter ? &e->adapter : NULL,
                      r->job->optim.seed, e->inv_freq, e->scaling, reterr);
}

void engine_close(struct engine *e)
{
    llama_release(&e->model);
    if (e->has_adapter)
        peft_close(&e->adapter);
    lh_arena_release(&e->arena);
    free(e->inv_freq);
    if (e->source)
        model_source_close(e->source);
    *e = (struct engine){0};
}
