/* step.h - one optimizer step of a training run over all ranks: count, forward and backward, sum,
 * clip, update. */
#pragma once
#include "worker/ckpt/ckpt.h"
#include "worker/data/dataset.h"
#include "worker/kinds/dump.h"
#include "worker/kinds/engine.h"

/* Host's arrays for the micro-batch of this rank, and what step 0 leaves in a dump. */
struct stepper {
    struct run *run;
    struct engine *engine;
    const struct dataset *data;
    int64_t most_rows;
    int32_t *ids, *labels, *documents; /* owned, most_rows * length each */
    int64_t *rows;                     /* owned, most_rows: rows of the step */
    uint64_t *drop_keys;               /* owned, most_rows: what dropout draws for each row */
    int64_t skipped;                   /* steps passed over because something was not finite,
                                          those of earlier attempts too: set it when resuming */

    struct dump *dump;           /* borrowed; NULL: none */
    float *logits, *eval_logits; /* the dump's, [batch, length, V]; NULL: not wanted */
};

/* Results of a step, the same on every rank. */
struct step_result {
    double loss, grad_norm, rate;
    double seconds, data_seconds; /* the slowest rank's; this rank's */
    double cpu_seconds;           /* processor time of all ranks */
    int64_t labels, tokens;
    bool applied;
    struct lh_err bad; /* of a step that was passed over: what was not finite */
};

LH_MUST_CHECK int stepper_init(struct stepper *s, struct run *r, struct engine *engine,
                               const struct dataset *data, struct lh_err *reterr);
void stepper_release(struct stepper *s);

/* Makes room in the dump for what step 0 leaves there. */
LH_MUST_CHECK int stepper_dump(struct stepper *s, struct dump *dump, struct lh_err *reterr);

/* Step `step` (counted from 0) of `steps`. Without a learning rate nothing is updated. Collective.
 * Errors: LH_ENONFINITE names the step and the first bad tensor, nothing was updated. With
 * on_nonfinite skip the step is passed over instead (applied false), as often as the budget allows.
 */
LH_MUST_CHECK int step_run(struct stepper *s, int64_t step, int64_t steps,
                           struct step_result *ret_result, struct lh_err *reterr);
