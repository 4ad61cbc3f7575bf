/* tensor.h - a matrix as every op takes it: a view, never an owner. */
#pragma once
#include "kernels/dtype.h"
#include <stdint.h>

/* rows x cols, row-major, ld elements from one row to the next (ld >= cols). Passed by value. */
struct kn_mat {
    void *p;
    enum kn_dtype t;
    int64_t rows, cols, ld;
};

static inline struct kn_mat kn_mat(void *p, enum kn_dtype t, int64_t rows, int64_t cols)
{
    return (struct kn_mat){p, t, rows, cols, cols};
}

/* Rows [r0, r0+rows) and columns [c0, c0+cols) of m. */
static inline struct kn_mat kn_sub(struct kn_mat m, int64_t r0, int64_t rows, int64_t c0, int64_t cols)
{
    return (struct kn_mat){(char *)m.p + (size_t)(r0 * m.ld + c0) * kn_dtype_bytes(m.t), m.t, rows, cols, m.ld};
}

static inline struct kn_mat kn_rows(struct kn_mat m, int64_t r0, int64_t rows)
{
    return kn_sub(m, r0, rows, 0, m.cols);
}
