/* engine.h - what training and evaluation open alike: model files, positions, adapter, the model
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
LH_MUST_CHECK int engine_fits(const struct engine *e, const struct run *r,
                              struct lh_err *reterr); /* LH_ENOFIT */
LH_MUST_CHECK int engine_load(struct engine *e, struct run *r, struct lh_err *reterr);
void engine_close(struct engine *e);

/* The next piece of work: `span` tokens of `of`, after `done`, in `layers` passes through a layer.
 */
void engine_piece(struct engine *e, const char *phase, int64_t done, int64_t span, int64_t of,
                  int64_t layers);

/* The group that attention takes: S2's for training, 0 (full causal) otherwise. */
int64_t engine_group(const struct lh_job *job);

/* The answer of `--plan`: {"bytes_per_rank", "parts", "flops_per_step", "parameters", "trainable"}:
 * new reference. Opens the model, no data. Errors as of engine_open, and LH_ENOFIT. */
LH_MUST_CHECK int engine_plan(const struct lh_job *job, json_t **ret_plan, struct lh_err *reterr);
