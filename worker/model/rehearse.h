/* rehearse.h - what the back end itself takes for a model, found out before anything is loaded. */
#pragma once
#include "worker/model/llama.h"

/* Runs the largest pass of m on a stream of its own that does not compute: *ret_bytes is the back
 * end's scratch. Takes address space as large as the plan while it lasts, but no memory worth
 * mentioning. Before llama_load. */
LH_MUST_CHECK int rehearse_scratch(struct llama *m, const struct kn_ops *ops, int threads,
                                   uint64_t *ret_bytes, struct lh_err *reterr);
