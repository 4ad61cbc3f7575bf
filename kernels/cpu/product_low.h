/* product_low.h - the low-rank part of the op matmul_low, as the products that make it in one pass
 * take it: z = z_scale * a op(p), c += c_scale * z op(q). */
#pragma once
#include "kernels/tensor.h"
#include <stdbool.h>

struct product_low {
    struct kn_mat z, p, q;
    bool t; /* p and q are stored transposed */
    float z_scale, c_scale;
};
