/* rates.h - how fast this machine does what a model is made of, measured in about a second.
 *
 * For the plan's time of a step. One layer of the model, with a head over a part of the vocabulary,
 * makes passes over as many of a micro-batch's tokens as the time allows (all of them where that is
 * fast enough), and every op's processor time is taken. So the shapes are those of the job: its
 * products, its LoRA, its attention at its segments, its tiles. Processor time is of all threads;
 * time that other programs had the processor does not count, so the rates are those of a machine
 * that runs nothing else.
 */
#pragma once
#include "worker/model/llama.h"

/* The most that one pass is to take, and all of them together: seconds of a quiet machine. */
#define RATES_PASS_SECONDS 0.2
#define RATES_SECONDS 0.7

/* Of all threads together, a second; 0 for what the model does not do. */
struct rates {
    double product, head, attention, attention_bwd; /* operations, as llama_work counts them */
    double rows;                                    /* bytes that llama_work counts */
    double update;                                  /* elements that train */
    double copy; /* bytes read and written, of blocks that no cache of one core holds */
};

/* m: as the job will run it, with what it keeps; spec: what it was made of. Where the machine has
 * not the memory to spare *ret_rates is all zeros. */
LH_MUST_CHECK int rates_measure(const struct llama *m, const struct params_spec *spec,
                                const struct kn_ops *ops, int threads, int64_t group,
                                struct rates *ret_rates, struct lh_err *reterr);

/* Seconds that a micro-batch takes at these rates. */
double rates_seconds(const struct rates *r, const struct llama_work *work);
