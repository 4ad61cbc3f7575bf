/* profile.h - a back end around another one that tells what each op took and how much work it was.
 *
 * The ops of the table that kn_profile_new returns call those of the inner back end and then the
 * caller's function with times and with FLOPs and bytes that follow from the shapes. So no op knows
 * of it, and nobody pays who does not ask for it. After each op it waits for the inner stream: on a
 * device that works asynchronously ops are timed one by one and do not overlap.
 */
#pragma once
#include "kernels/ops.h"

/* One finished op. */
struct kn_op_call {
    const char *op;    /* the slot's name, a constant */
    uint64_t begin_ns; /* CLOCK_MONOTONIC */
    uint64_t wall_ns;  /* until its results were there */
    uint64_t busy_ns;  /* processor time of all threads; on a device the same as wall_ns */
    double flop; /* multiply-adds count 2, masked pairs of attention nothing; 0: none to speak of */
    double bytes;       /* the traffic that no implementation can avoid */
    int64_t rows, cols; /* of the result; M and N of a product */
    int64_t inner;      /* K of a product, else 0 */
    bool ta, tb;        /* of a product */
    enum kn_dtype t;    /* of the first operand */
};

typedef void kn_profile_fn(void *arg, const struct kn_op_call *call);

/* A stream of `inner` with so many threads, and the table to use it with; fn is called on the
 * caller's thread after each op, not after ops that are passed over because of an earlier error.
 * The table belongs to the stream: its stream_free frees both. */
LH_MUST_CHECK int kn_profile_new(const struct kn_ops *inner, int threads, kn_profile_fn *fn,
                                 void *arg, const struct kn_ops **ret_ops,
                                 struct kn_stream **ret_stream, struct lh_err *reterr);

/* FLOPs a busy second that the registers of one core allow for products of t, measured here in some
 * 100 ms, at the level that LONGHAUL_CPU_ISA leaves; 0 where there is no probe for the processor. */
double kn_cpu_peak(enum kn_dtype t);

/* How many times as long an operation of attention's forward pass takes as one of a layer's
 * products, in t: a constant of the level that LONGHAUL_CPU_ISA leaves, so that what is chosen by
 * it never depends on a clock. */
double kn_cpu_attention_weight(enum kn_dtype t);
