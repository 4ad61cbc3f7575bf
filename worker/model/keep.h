/* keep.h - what each layer keeps for its backward pass, chosen for a memory limit.
 *
 * Keeping more spares products and attention that the backward pass would do again; the bits of
 * loss and gradients are the same whatever is kept. What spares most time a byte is kept first, by
 * as many layers as fit, then the next. The choice follows from the model, the sizes, the limit
 * and the processor's level alone, never from a clock.
 */
#pragma once
#include "worker/model/llama.h"

/* Gives m the plan that keeps most within limit_bytes (of plan_total); when not even keeping
 * nothing fits, that plan. A model without backward pass stays as it is. row_tokens, group: what
 * attention costs. Before llama_load. */
LH_MUST_CHECK int keep_choose(struct llama *m, int64_t row_tokens, int64_t group,
                              uint64_t limit_bytes, struct lh_err *reterr);

/* "scores", "qkv", "x1", "gates". */
const char *keep_name(enum work_keep what);
