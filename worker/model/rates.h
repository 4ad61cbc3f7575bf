/* rates.h - how fast this machine does what a model is made of, measured in a fraction of a second.
 *
 * For the plan's time of a step: products and attention of the model's own sizes and precision, and
 * a copy that no cache holds, each run for RATES_MS of processor time on the threads that a rank
 * will have. Time that other programs had the processor does not count, so the rates are those of a
 * machine that runs nothing else.
 */
#pragma once
#include "worker/model/llama.h"

#define RATES_MS 40

/* Operations and bytes a second, of all threads together. */
struct rates {
    double product, attention, attention_bwd, bytes;
};

LH_MUST_CHECK int rates_measure(const struct llama *m, const struct kn_ops *ops, int threads,
                                int64_t group, struct rates *ret_rates, struct lh_err *reterr);

/* Seconds that the work takes at these rates. */
double rates_seconds(const struct rates *r, const struct llama_work *work);
