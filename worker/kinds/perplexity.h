/* perplexity.h - losses of held-out windows, by length of context and by position. */
#pragma once
#include "worker/kinds/engine.h"
#include "worker/kinds/held_out.h"
#include "worker/run.h"

/* Of one length, over all ranks. */
struct perplexity_length {
    double nll, n;  /* sums over what is scored */
    double batches; /* mode compatible: mean of the means of batches */
    double windows;
};

struct perplexity {
    enum lh_eval_mode mode;
    int64_t length;  /* of the longest window */
    int64_t windows; /* of that length */
    int64_t group;   /* attention: 0 full causal */
    int64_t stride, n_bands;
    unsigned n_lengths;
    int64_t lengths[LH_EVAL_LENGTHS_MAX];
    struct perplexity_length *at; /* owned, n_lengths */
    double *nll, *n;              /* owned, `length` each: sum of nll and number of labels of each
                                     position of the longest windows; zeros in mode sliding */
};

/* Evaluates the windows of the held-out texts, dealt over the ranks in turn. sink (may be NULL)
 * sees the logits of this rank's windows. Collective; release the result. LH_ESTOPPED when a stop
 * is asked for. */
LH_MUST_CHECK int perplexity_run(struct run *r, struct engine *e, struct held_out *h,
                                 const struct head_sink *sink, struct perplexity *ret_perplexity,
                                 struct lh_err *reterr);
void perplexity_release(struct perplexity *p);

/* Mean nll of length number l, and its perplexity (of mode compatible 2.71828 to the power of it).
 */
double perplexity_loss(const struct perplexity *p, unsigned l);
double perplexity_of(const struct perplexity *p, unsigned l);
/* Mean nll over the positions [from, to); 0 without labels. */
double perplexity_band(const struct perplexity *p, int64_t from, int64_t to);

/* `eval` events from rank 0: one for each length (EVENT-12). step: finished ones, 0 for a job of
 * kind eval. rope: of eval.ropes, or NULL. */
void perplexity_report(struct run *r, const struct perplexity *p, int64_t step, const char *rope);

/* {"mode", "windows", "length", "attention", "lengths": [{"length", "nll", "perplexity", "windows",
 * "tokens"}], "bands": [{"begin", "end", "nll"}]}: new reference. */
json_t *perplexity_json(const struct perplexity *p);

/* For people who read the log: tables of n evaluations of the same windows, by length and by band.
 */
void perplexity_print(const struct perplexity *p, const char *const *labels, unsigned n);
