/* rehearse.h - what the back end itself takes for a model, found out before anything is loaded. */
#pragma once
#include "worker/model/llama.h"

/* The passes that a run will make. */
enum rehearse_pass {
    REHEARSE_TRAIN = 1,  /* llama_train, of a model with backward pass */
    REHEARSE_LOSS = 2,   /* llama_eval */
    REHEARSE_LOGITS = 4, /* llama_eval with a sink */
    REHEARSE_CACHE = 8,  /* cache_append */
};
struct rehearsal {
    unsigned passes;
    int64_t train_group, eval_group; /* of S2 in llama_train and llama_eval; 0: full attention */
};

/* Runs the largest of these passes of m on a stream of its own that does not compute: *ret_bytes is
 * the back end's scratch. Takes address space as large as the plan while it lasts, but no memory
 * worth mentioning. Before llama_load. */
LH_MUST_CHECK int rehearse_scratch(struct llama *m, const struct rehearsal *r,
                                   const struct kn_ops *ops, int threads, uint64_t *ret_bytes,
                                   struct lh_err *reterr);
