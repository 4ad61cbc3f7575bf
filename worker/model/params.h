/* params.h - one table of every parameter: name, shape, role, where its value and gradient live.
 *
 * Made from a model config and a job; it decides what trains (LoRA factors, embeddings, norms, or
 * everything), what is saved and under which name. Everything that trains has an fp32 master,
 * gradient and Adam moments; what the ops read is `w`, in the precision of the job (a low copy of
 * the master, or the frozen base weight). Norms are always fp32.
 */
#pragma once
#include "kernels/ops.h"
#include "proto/job.h"
#include "worker/formats/peft.h"
#include "worker/formats/source.h"
#include "worker/plan/plan.h"

enum param_role {
    PARAM_EMBED,
    PARAM_HEAD,
    PARAM_NORM_IN,
    PARAM_NORM_POST,
    PARAM_NORM_FINAL,
    PARAM_Q,
    PARAM_K,
    PARAM_V,
    PARAM_O,
    PARAM_GATE,
    PARAM_UP,
    PARAM_DOWN, /* linears, in the order of enum lh_target */
    PARAM_LORA_A,
    PARAM_LORA_B,
};

#define PARAMS_LINEARS 7 /* PARAM_Q .. PARAM_DOWN */

struct param {
    /* Hugging Face name of a base tensor; for LoRA the module path + ".lora_A.weight". */
    char name[160];
    char key[192]; /* key in the files of a checkpoint: PEFT's for an adapter, else the name */
    enum param_role role;
    enum param_role of;  /* LoRA: the linear it belongs to; else role */
    int layer;           /* -1 when in none */
    int64_t rows, cols;  /* a vector has cols 0 */
    int64_t n;           /* elements */
    bool trains, decays; /* decays: weight decay applies (LoRA factors, embeddings, head, linears;
                            not norms) */
    struct kn_mat w;     /* device: what ops read */
    /* Device, n each; NULL when it does not train. w.p == master in fp32. */
    float *master, *grad, *m, *v;
    int64_t place; /* of what trains: its first element in the regions of struct params */
};

struct params_range {
    int64_t first, n;
};

/* The two stretches of a region: tensors that ops read in fp32 (as all do in fp32), and those that
 * they read as bf16. */
enum params_stretch { PARAMS_EXACT, PARAMS_LOW, PARAMS_STRETCHES };

struct params {
    struct param *at;
    unsigned n;
    int64_t n_trainable, n_total; /* elements */
    /* All that trains lies in regions of one order: the stretch PARAMS_EXACT, then PARAMS_LOW,
     * tensors in the order of the table within each, each from a multiple of 32 elements on. Gaps
     * hold zeros. So ranks add gradients and exchange what they updated with few calls. n_region
     * floats each, and of `low`, the bf16 that ops read, as many values as the second stretch has.
     */
    float *grad, *master, *m, *v;
    uint16_t *low;
    int64_t n_region;
    struct params_range stretch[PARAMS_STRETCHES];
    /* What this process updates of each stretch: all, unless ranks share the work
     * (worker/optim/share.h). Multiples of 16 elements. */
    struct params_range own[PARAMS_STRETCHES];
};

/* What is put on top of the base, and what trains. */
struct params_spec {
    bool full;              /* every parameter of the base */
    bool lora;              /* LoRA factors at `targets` */
    bool trains;            /* false: for evaluation, nothing has a gradient */
    bool embeddings, norms; /* are part of the adapter */
    bool use_rslora;
    int64_t rank;
    double alpha, dropout; /* dropout: share of the inputs of LoRA factors, while training */
    unsigned targets;      /* enum lh_target bits */
    const struct lh_pattern *rank_pattern, *alpha_pattern; /* borrowed */
    unsigned n_rank_pattern, n_alpha_pattern;
    enum kn_dtype dtype; /* of w, norms aside */
};

/* The elements of a tensor that trains, counted from its first, that this process updates; n may be
 * 0. */
struct params_range params_own(const struct params *p, const struct param *at);

const struct param *params_find(const struct params *p,
                                const char *key); /* by key, NULL when absent */

/* The entry with this role in a layer (-1: in none), LoRA factors by role and the linear they
 * belong to; NULL. */
const struct param *params_role(const struct params *p, enum param_role role, enum param_role of,
                                int layer);

/* What a training job asks for. */
void params_spec_job(const struct lh_job *job, struct params_spec *ret_spec);

/* What an adapter directory holds, for evaluation (nothing trains). Patterns live in arena.
 * LH_EINPUT at /model/adapter. */
LH_MUST_CHECK int params_spec_adapter(const struct peft_adapter *adapter, enum kn_dtype dtype,
                                      struct lh_arena *arena, struct params_spec *ret_spec,
                                      struct lh_err *reterr);

/* LoRA rank of a module path such as "model.layers.0.self_attn.q_proj", and the scale of its update
 * (alpha / rank, or alpha / sqrt(rank)). A pattern matches the path itself or what follows one of
 * its dots; the longest match counts (JOB-17). */
int64_t params_rank(const struct params_spec *spec, const char *module);
double params_scale(const struct params_spec *spec, const char *module);

/* The table, without memory: enough for a plan. Errors: LH_EJOB (a rank above its layer's sizes),
 * -ENOMEM. */
LH_MUST_CHECK int params_init(const struct model_config *config, const struct params_spec *spec,
                              struct params *ret_params, struct lh_err *reterr);
void params_release(struct params *p); /* the table, not the device memory */

/* Adds the memory of every parameter to the plan. p must not move until plan_bind, after which
 * params_bind gives every tensor its place in the regions. */
void params_plan(struct params *p, struct plan *plan);
void params_bind(struct params *p);

/* Fills masters and weights after plan_bind: the base from source; LoRA factors, embeddings and
 * norms from adapter, or (adapter NULL) A uniform in +-1/sqrt(in) from a counter-based generator
 * keyed by (seed, place in the table, element), B zero. Checks names and shapes: LH_EINPUT.
 * Gradients and moments are zeroed. */
LH_MUST_CHECK int params_load(struct params *p, const struct model_source *source,
                              const struct peft_adapter *adapter, uint64_t seed,
                              const struct kn_ops *ops, struct kn_stream *stream,
                              struct lh_err *reterr);

/* Recomputes w from every master (after masters were set from a checkpoint). */
void params_refresh(struct params *p, const struct kn_ops *ops, struct kn_stream *stream);

/* The first parameter whose value (grads false) or gradient (true) holds NaN or infinity, or NULL;
 * *ret_index is where. First as they are computed with: values from the embedding on, gradients
 * from the head back, so the one that is named lies nearest to the cause. */
LH_MUST_CHECK int params_nonfinite(const struct params *p, bool grads, const struct kn_ops *ops,
                                   struct kn_stream *stream, const struct param **ret_param,
                                   int64_t *ret_index, struct lh_err *reterr);
