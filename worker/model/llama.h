/* llama.h - the whole model: embedding, layers, head; forward, backward, loss.
 *
 * Life: llama_init makes the table and the plan (no memory but the host's small tables), llama_load
 * takes one block from the back end and fills it, then llama_train and llama_eval run micro-batches
 * without allocating anything but two index arrays when documents change from call to call. The
 * inputs of the layers are kept for the backward pass; of what else a layer computes as much as
 * dims.keep says (keep.h chooses it for a memory limit), and the rest is computed again there, with
 * the same bits. What each piece does: attention.h, mlp.h, head.h.
 */
#pragma once
#include "worker/model/attention.h"
#include "worker/model/dropout.h"
#include "worker/model/head.h"
#include "worker/model/mlp.h"

struct llama_layer {
    struct attention_layer attention;
    struct mlp_layer mlp;
};

struct llama {
    struct device device;
    struct model_config config; /* a copy; config.raw is not owned */
    struct dims dims;
    struct params params;
    struct plan plan;
    struct work work;
    struct dropout dropout;
    struct llama_layer *layers; /* owned, L */
    struct head head;
    uint64_t outside[PLAN_PARTS]; /* bytes outside the block that every plan of m counts */
    void *block;                  /* owned: all device memory */
    struct kn_segments seg;       /* of the micro-batch seen last, reused while nothing differs */
    struct kn_segments_spec seg_spec; /* what it was made of, but for documents; rows 0: nothing */
    int32_t *pos;                     /* owned, T: host's positions */
    int32_t *documents;               /* owned, wrap_T: those of rows that wrap */
    double *nll;                      /* owned, T: host's copy of the results */
    void (*beat)(void *arg);          /* called per layer; may be NULL */
    void *beat_arg;
    struct profile *profile; /* NULL: none; gets the phases of a pass */
};

struct llama_options {
    const struct model_config *config;
    const struct params_spec *params;
    int64_t tokens;      /* the most of a micro-batch */
    int64_t row_tokens;  /* the longest row */
    int64_t wrap_tokens; /* the most where rows wrap: G/2 more a row (wrap.h); 0: none does */
    bool backward;
    int64_t cache;               /* tokens of a key-value cache (cache.h); 0: none */
    int64_t keep[WORK_KEEPS];    /* layers that keep it (llama_keep) */
    int64_t mlp_tile, head_tile; /* 0: chosen */
};

/* A micro-batch: rows of equal length laid end to end; positions begin at 0 in each. */
struct llama_batch {
    int64_t rows, row_tokens;
    const int32_t *ids, *labels; /* rows * row_tokens; labels already shifted, -100: none */
    const int32_t *documents;    /* or NULL: attention is not cut at documents */
    int64_t group;               /* S2 group; 0: dense */
    bool wrap;                   /* rows wrap (wrap.h); they are whole groups */
    const uint64_t *drop_keys; /* rows, of dropout_row_key; NULL: nothing is dropped. llama_train */
    struct head_sink sink;     /* sees logits; {0} */
};

/* Errors: LH_EJOB, LH_EINPUT (sizes that no kernel takes), -ENOMEM. m must not move afterwards. */
LH_MUST_CHECK int llama_init(const struct llama_options *options, struct llama *m,
                             struct lh_err *reterr);
void llama_release(struct llama *m);

/* Another plan, in which so many layers keep for the backward pass what enum work_keep names.
 * Before llama_load. */
LH_MUST_CHECK int llama_keep(struct llama *m, const int64_t keep[WORK_KEEPS],
                             struct lh_err *reterr);

/* Counts bytes outside the block in the plan, and in those that llama_keep makes. */
void llama_add_outside(struct llama *m, enum plan_part part, uint64_t bytes);

/* The block and the host's tables, with nothing in them; llama_load does it by itself. */
LH_MUST_CHECK int llama_bind(struct llama *m, const struct kn_ops *ops, struct kn_stream *stream,
                             struct lh_err *reterr);
void llama_unbind(struct llama *m);

/* Allocates the block and loads the parameters. inv_freq (head_dim/2) and scaling: from
 * rope_frequencies. */
LH_MUST_CHECK int llama_load(struct llama *m, const struct kn_ops *ops, struct kn_stream *stream,
                             const struct model_source *source, const struct peft_adapter *adapter,
                             uint64_t seed, const double *inv_freq, double scaling,
                             struct lh_err *reterr);

/* Other angles for the same weights. Keys that a cache holds keep those that they were made with.
 */
LH_MUST_CHECK int llama_angles(struct llama *m, const double *inv_freq, double scaling,
                               struct lh_err *reterr);

/* Adds the gradient of grad_scale * (sum of nll over labelled tokens) to the gradients of all that
 * trains, and returns that sum. */
LH_MUST_CHECK int llama_train(struct llama *m, const struct llama_batch *batch, float grad_scale,
                              double *ret_nll, struct lh_err *reterr);

/* Forward only: m->nll[t] of every token (0 where there is no label). */
LH_MUST_CHECK int llama_eval(struct llama *m, const struct llama_batch *batch,
                             struct lh_err *reterr);

/* The work of one training micro-batch, what is done again because it was not kept included, or of
 * one forward pass. */
struct llama_work {
    double products, head, attention, attention_bwd; /* floating point operations */
    double bytes; /* moved by what goes over elements: norms, positions, SiLU */
};
void llama_count(const struct llama *m, int64_t rows, int64_t row_tokens, int64_t group,
                 struct llama_work *ret_work);

/* Floating point operations of one training micro-batch, those included that are done again because
 * their results were not kept, or of one forward pass. */
double llama_flops(const struct llama *m, int64_t rows, int64_t row_tokens, int64_t group);

/* Those that a layer is spared by keeping something, a token. */
double llama_flops_kept(const struct llama *m, enum work_keep what, int64_t row_tokens,
                        int64_t group);
