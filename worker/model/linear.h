/* linear.h - a linear layer with an optional LoRA update: y = x W^T + scale * (x A^T) B^T.
 *
 * x (T,in), y (T,out), W (out,in), A (R,in), B (out,R). All calls enqueue on the stream; gradients
 * of what trains are added in fp32, so a layer may be called tile by tile over its tokens.
 */
#pragma once
#include "worker/model/params.h"

/* The back end and its queue, as every part of the model takes them. */
struct device {
    const struct kn_ops *ops;
    struct kn_stream *stream;
};

struct linear {
    const struct param *w;
    const struct param *a, *b; /* NULL: no LoRA here */
    float scale;
    int64_t rank; /* 0: no LoRA here */
};

/* y = layer(x), or y += layer(x). z (T,R) receives x A^T for the backward pass; unused without
 * LoRA. */
void linear_forward(const struct device *d, const struct linear *l, struct kn_mat y, bool add,
                    struct kn_mat x, struct kn_mat z);

/* Gradients of the layer's parameters are added; dx (p NULL: not wanted) = or += the gradient of x.
 * z: from the forward pass; dz: scratch of the same shape. dy is not changed and must not be dx. */
void linear_backward(const struct device *d, const struct linear *l, struct kn_mat dx, bool add,
                     struct kn_mat dy, struct kn_mat x, struct kn_mat z, struct kn_mat dz);
