/* attention.h - the attention half of a layer: x1 = x + o_proj(attention(rope(q), rope(k), v of
 * norm(x))). */
#pragma once
#include "worker/model/work.h"

struct attention_layer {
    const struct param *norm;
    struct linear q, k, v, o;
};

/* What a micro-batch looks like to attention: its tokens, who sees whom, and the norm's epsilon. */
struct attention_view {
    int64_t T;
    const struct kn_segments *seg;
    float eps;
    int64_t rows;
    int64_t lead; /* tokens put before each row where rows wrap (wrap.h); 0: none does */
};

/* x1 = x + ... of the layer at work; leaves all of its room but gate and up. */
void attention_forward(const struct device *d, const struct attention_layer *l, struct work *w,
                       const struct attention_view *a, struct kn_mat x);

/* The same for a backward pass: only what the layer has not kept is made, and n1. */
void attention_again(const struct device *d, const struct attention_layer *l, struct work *w,
                     const struct attention_view *a, struct kn_mat x);

/* The same for the tokens [q0, q0 + T) of one text, which see all tokens before them: k and v hold
 * q0 + T rows, of which the last T are written here. Nothing is left for a backward pass. */
struct attention_past {
    int64_t T, q0;
    struct kn_mat k, v;
    float eps;
};
void attention_forward_cached(const struct device *d, const struct attention_layer *l,
                              struct work *w, const struct attention_past *a, struct kn_mat x);

/* work->dx holds the gradient of x1 and becomes that of x; needs what attention_again left for the
 * same x. */
void attention_backward(const struct device *d, const struct attention_layer *l, struct work *w,
                        const struct attention_view *a, struct kn_mat x);
