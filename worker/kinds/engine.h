/* engine.h - what all kinds with a model open alike: model files, positions, adapter, the model
 * itself.
 *
 * engine_open reads files and makes the plan; it takes no memory for weights, so `--plan` stops
 * there. engine_fits checks the plan against the memory that there is, and engine_load fills the
 * model. None is collective, but all ranks should have passed engine_fits before one calls
 * engine_load: what a machine has left shrinks as its ranks load.
 */
#pragma once
#include "worker/formats/peft.h"
#include "worker/model/llama.h"
#include "worker/run.h"

/* How far the work at hand is, in tokens: the model beats once a layer, and each beat moves it on.
 */
struct engine_progress {
    struct run *run;
    const char *phase;           /* NULL: nothing is reported */
    int64_t done, span, of;      /* tokens before this piece of work, in it, in all */
    int64_t layers, layers_done; /* passes through a layer that the piece takes */
};

struct engine {
    struct model_source *source;
    const struct model_config *config;
    struct rope_config rope; /* the scaling that results */
    double *inv_freq;        /* owned, head_dim/2 */
    double scaling;
    int64_t length;       /* the window that the positions are for */
    char base_path[1024]; /* model.base: where the tokenizer is */
    struct peft_adapter adapter;
    bool has_adapter;
    struct lh_arena arena; /* of spec */
    struct params_spec spec;
    struct llama model;
    struct engine_progress progress;
};

/* Zero-initialise *e; it must not move. Close it also after a failure. ranks: over which
 * micro-batches are cut. */
LH_MUST_CHECK int engine_open(const struct lh_job *job, int ranks, struct engine *e,
                              struct lh_err *reterr);
/* Between engine_open and engine_fits: adds to the plan what the back end, the communicator and the
 * program take. */
struct engine_place {
    int ranks, local_ranks; /* of the job; those of them that share this machine */
    int threads;            /* of a rank */
    bool measure;           /* rates, to tell the time of a step */
};
static inline struct engine_place engine_place_of(const struct run *r)
{
    return (struct engine_place){r->comm->size, r->comm->local_size, r->threads, false};
}
LH_MUST_CHECK int engine_count(struct engine *e, const struct lh_job *job,
                               const struct engine_place *place, struct lh_err *reterr);
/* Collective, for training, then: chooses what the layers keep for the backward pass (keep.h), on
 * every rank for the least memory that any of them may plan with (PLAN-2). */
LH_MUST_CHECK int engine_keep(struct engine *e, struct run *r, struct lh_err *reterr);
/* LH_ENOFIT: this machine could not hold local_ranks of it, or one not within the job's limit. */
LH_MUST_CHECK int engine_check(const struct engine *e, const struct lh_job *job, int local_ranks,
                               struct lh_err *reterr);
/* The same, and LH_ETRYAGAIN for what others hold now. */
LH_MUST_CHECK int engine_fits(const struct engine *e, const struct run *r, struct lh_err *reterr);
/* Collective: the most memory that a rank has held so far beyond what it began with; what
 * `bytes_per_rank` of the plan foretold. */
LH_MUST_CHECK int engine_peak(struct run *r, int64_t *ret_bytes, struct lh_err *reterr);
/* Puts both into the result (PLAN-4, PLAN-8). */
void engine_report_bytes(struct run *r, uint64_t planned, int64_t peak);
LH_MUST_CHECK int engine_load(struct engine *e, struct run *r, struct lh_err *reterr);
void engine_close(struct engine *e);

/* For kinds that use a finished model (export, generate): base and adapter, or the checkpoint of
 * full fine-tuning that model.adapter names in place of the base's weights, with the positions of
 * JOB-31. */
LH_MUST_CHECK int engine_open_finished(const struct lh_job *job, struct engine *e,
                                       struct lh_err *reterr);

/* What such a kind will ask of the model. */
struct engine_need {
    enum kn_dtype dtype;
    int64_t tokens;    /* the most of a pass */
    int64_t positions; /* of the longest text */
    int64_t cache;     /* tokens whose keys and values are kept; 0: none */
};
/* The model's table and plan, once; engine_fits and engine_load follow. */
LH_MUST_CHECK int engine_model(struct engine *e, const struct engine_need *need,
                               struct lh_err *reterr);
/* Frees the model alone, so that another one can be made of the same files. */
void engine_model_release(struct engine *e);

/* The next piece of work: `span` tokens of `of`, after `done`, in `layers` passes through a layer.
 */
void engine_piece(struct engine *e, const char *phase, int64_t done, int64_t span, int64_t of,
                  int64_t layers);

/* The group that attention takes in training, S2's or 0 (full causal); and in evaluation. */
int64_t engine_group(const struct lh_job *job);
int64_t engine_eval_group(const struct lh_job *job);

/* How many layers keep what: new reference. */
json_t *engine_kept_json(const struct engine *e);

/* The answer of `--plan`: {"bytes_per_rank", "parts", "flops_per_step", "parameters", "trainable",
 * "kept"}, and with place->measure "step_s" and "rates": new reference. Opens the model, no data.
 * Errors as of engine_open, and LH_ENOFIT for what this machine could not hold if it ran nothing
 * else. */
LH_MUST_CHECK int engine_plan(const struct lh_job *job, const struct engine_place *place,
                              json_t **ret_plan, struct lh_err *reterr);
/* The same of an engine that has a model; local_ranks share this machine's memory. */
LH_MUST_CHECK int engine_plan_json(const struct engine *e, const struct lh_job *job,
                                   int local_ranks, json_t **ret_plan, struct lh_err *reterr);
