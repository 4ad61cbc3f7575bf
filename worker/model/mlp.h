/* mlp.h - the other half of a layer, in tiles of tokens: y = x1 + down(silu(gate(n)) * up(n)), n =
 * norm(x1). */
#pragma once
#include "worker/model/work.h"

struct mlp_layer {
    const struct param *norm;
    struct linear gate, up, down;
};

/* y = x1 + ...; y may be any (T,C) block but x1. Leaves gate and up where the layer at work keeps
 * them. */
void mlp_forward(const struct device *d, const struct mlp_layer *l, struct work *w, struct kn_mat y,
                 struct kn_mat x1, float eps);

/* dx holds the gradient of y and becomes that of x1; what the layer at work has not kept is
 * computed again from x1, tile by tile. gate and up are spoiled. */
void mlp_backward(const struct device *d, const struct mlp_layer *l, struct work *w,
                  struct kn_mat dx, struct kn_mat x1, float eps);
