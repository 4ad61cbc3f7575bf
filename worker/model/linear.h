/* linear.h - a linear layer with an optional LoRA update: y = x W^T + scale * (x A^T) B^T.
 *
 * x (T,in), y (T,out), W (out,in), A (R,in), B (out,R). All calls enqueue on the stream; gradients
 * of what trains are added in fp32, so a layer may be called tile by tile over its tokens. With
 * dropout the factors, and they alone, see x with elements set to zero, the others scaled up.
 */
#pragma once
#include "worker/model/params.h"

/* Dropout of the micro-batch at hand; rate 0: none (evaluation). */
struct linear_drop {
    double rate;
    const uint64_t *keys; /* device: of the first token that a call sees, and those after it */
    void *room;           /* device: room_rows rows of the widest input */
    int64_t room_rows;
};

/* The back end and its queue, as every part of the model takes them, and what is dropped. */
struct device {
    const struct kn_ops *ops;
    struct kn_stream *stream;
    struct linear_drop drop;
};

/* The same for calls whose first token is token t0 of the micro-batch. */
static inline struct device device_at(const struct device *d, int64_t t0)
{
    struct device at = *d;

    if (at.drop.rate > 0)
        at.drop.keys += t0;
    return at;
}

struct linear {
    const struct param *w;
    const struct param *a, *b; /* NULL: no LoRA here */
    float scale;
    int64_t rank;   /* 0: no LoRA here */
    uint64_t place; /* tells its dropout from that of other linears */
};

/* y = layer(x), or y += layer(x). z (T,R) receives x A^T for the backward pass; unused without
 * LoRA. */
void linear_forward(const struct device *d, const struct linear *l, struct kn_mat y, bool add,
                    struct kn_mat x, struct kn_mat z);

/* Gradients of the layer's parameters are added; dx (p NULL: not wanted) = or += the gradient of x.
 * z: from the forward pass; dz: scratch of the same shape. dy is not changed and must not be dx. */
void linear_backward(const struct device *d, const struct linear *l, struct kn_mat dx, bool add,
                     struct kn_mat dy, struct kn_mat x, struct kn_mat z, struct kn_mat dz);
