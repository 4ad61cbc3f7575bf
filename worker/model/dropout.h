/* dropout.h - dropout on the inputs of LoRA factors, as PEFT has it: y = x W^T + scale * (drop(x)
 * A^T) B^T.
 *
 * Nothing of it is kept for the backward pass: what is dropped is drawn again from (seed, step, row
 * of the step, token, linear, element) (kernels/dropout.h), so it depends neither on ranks nor on
 * micro-batches or tiles.
 */
#pragma once
#include "worker/model/work.h"

struct dropout {
    double rate;    /* 0: none, and nothing below is used */
    uint64_t *keys; /* device: one for each token of a micro-batch */
    void *room;     /* device: a tile of a linear's input */
    int64_t room_rows;
    uint64_t *host; /* owned while allocated, T: keys on their way */
    int64_t tokens;
};

/* Adds the device's memory to the plan; zero-initialise *p. */
void dropout_plan(struct dropout *p, const struct dims *dims, double rate, struct plan *plan);
/* Memory of the host, for as long as the model is bound to a back end; release leaves the plan as
 * it is. */
LH_MUST_CHECK int dropout_alloc(struct dropout *p, struct lh_err *reterr);
void dropout_release(struct dropout *p);

/* What a row's draws begin with. */
uint64_t dropout_row_key(uint64_t seed, int64_t step, int64_t row);

/* From here on the linears of *d drop, for a micro-batch of rows with these keys; NULL: none do. */
void dropout_set(struct dropout *p, struct device *d, const uint64_t *row_keys, int64_t rows,
                 int64_t row_tokens);
