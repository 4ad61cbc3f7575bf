/* perplexity.h - loss by position over held-out windows: from one forward pass a window come all
 * prefix lengths. */
#pragma once
#include "worker/data/dataset.h"
#include "worker/kinds/engine.h"
#include "worker/run.h"

struct perplexity {
    int64_t length, windows;
    int64_t group;   /* attention: 0 full causal */
    double *nll, *n; /* owned, `length` each: sum of nll and number of labels of each position, over
                        all ranks */
};

/* Evaluates the windows of the data set (job.eval.windows of them, evenly spread, when it has more),
 * dealt over the ranks in turn. sink (may be NULL) sees the logits of this rank's windows.
 * Collective; release the result. */
LH_MUST_CHECK int perplexity_run(struct run *r, struct engine *e, const struct dataset *d,
                                 const struct head_sink *sink, struct perplexity *ret_perplexity,
                                 struct lh_err *reterr);
void perplexity_release(struct perplexity *p);

/* Mean nll over the first `tokens` tokens of every window (targets 1 .. tokens-1); 0 without
 * labels. */
double perplexity_loss(const struct perplexity *p, int64_t tokens);

/* `eval` events from rank 0: one for each length (EVENT-12). step: finished ones, 0 for a job of
 * kind eval. */
void perplexity_report(struct run *r, const struct perplexity *p, int64_t step);

/* {"windows", "length", "attention", "lengths": [{"length", "nll", "perplexity"}], "bands":
 * [{"begin", "end", "nll"}]}: new reference. Lengths are job.eval.lengths, or powers of two from
 * 2048 and the window. */
json_t *perplexity_json(const struct perplexity *p, const struct lh_job *job);
