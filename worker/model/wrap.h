/* wrap.h - attention in rows that wrap, as LongLoRA first published S2: its shifted heads roll a
 * row by half a group, so that the last group's first half joins the row's beginning, and the first
 * G/2 tokens see the last G/2, which come after them. For comparisons with models that were trained
 * so; nothing else should leak.
 *
 * Rolling is not done. Each row gets a copy of its last G/2 tokens put before it (`lead`), where
 * causal segments (kn_segments_spec.wrap) say the same; what the copies' queries give is left out,
 * and the gradients of the copies' keys and values are added to the originals'. So back ends know
 * nothing of it.
 */
#pragma once
#include "kernels/segments.h"
#include "worker/model/linear.h"

/* Room for rows * (row + lead) tokens of each; lse (H, as many). d_o and below: of a backward pass
 * only. */
struct wrap_room {
    void *q, *k, *v, *o;
    float *lse;
    void *d_o, *dq, *dk, *dv;
};

struct wrap {
    int64_t rows, row, lead; /* tokens of a row and of what is put before it; lead <= row */
    struct wrap_room room;
};

/* As attention_fwd and attention_bwd of kernels/ops.h, whose operands have rows * row tokens; seg
 * has rows * (row + lead). */
void wrap_attention_fwd(const struct device *d, const struct wrap *w, struct kn_mat o, float *lse,
                        struct kn_mat q, struct kn_mat k, struct kn_mat v,
                        const struct kn_segments *seg, int64_t H, int64_t KV, int64_t D,
                        float scale);
void wrap_attention_bwd(const struct device *d, const struct wrap *w, struct kn_mat dq,
                        struct kn_mat dk, struct kn_mat dv, struct kn_mat d_o, struct kn_mat q,
                        struct kn_mat k, struct kn_mat v, struct kn_mat o, const float *lse,
                        const struct kn_segments *seg, int64_t H, int64_t KV, int64_t D,
                        float scale);
