/* zeros.h - every op of ops.h as one that computes nothing: outputs are zero, what is added to
 * stays as it is. tests/mutation/run puts them into the tables of the back ends, one at a time, and
 * expects the op's tests to fail; it also refuses an op of ops.h that has none here.
 */
#pragma once
#include "kernels/ops.h"
#include <string.h>

#define ZERO static __attribute__((unused)) void

ZERO zero_mat(struct kn_mat m)
{
    for (int64_t r = 0; m.p && r < m.rows; r++)
        memset(kn_rows(m, r, 1).p, 0, (size_t)m.cols * kn_dtype_bytes(m.t));
}

ZERO zero_matmul(struct kn_stream *s, struct kn_mat c, struct kn_mat a, bool ta, struct kn_mat b,
                 bool tb, float alpha, float beta)
{
    (void)s, (void)a, (void)ta, (void)b, (void)tb, (void)alpha;
    if (beta == 0.0f)
        zero_mat(c);
}

ZERO zero_matmul_low(struct kn_stream *s, struct kn_mat c, struct kn_mat z, struct kn_mat a,
                     struct kn_mat b, struct kn_mat p, struct kn_mat q, bool t, float z_scale,
                     float c_scale, float beta)
{
    (void)s, (void)a, (void)b, (void)p, (void)q, (void)t, (void)z_scale, (void)c_scale;
    zero_mat(z);
    if (beta == 0.0f)
        zero_mat(c);
}

ZERO zero_embed_fwd(struct kn_stream *s, struct kn_mat x, struct kn_mat table, const int32_t *id)
{
    (void)s, (void)table, (void)id;
    zero_mat(x);
}

ZERO zero_embed_bwd(struct kn_stream *s, struct kn_mat dtable, struct kn_mat dx, const int32_t *id)
{
    (void)s, (void)dtable, (void)dx, (void)id;
}

ZERO zero_rmsnorm_fwd(struct kn_stream *s, struct kn_mat y, float *rstd, struct kn_mat x,
                      const float *g, float eps)
{
    (void)s, (void)g, (void)eps;
    zero_mat(y);
    memset(rstd, 0, (size_t)x.rows * sizeof(*rstd));
}

ZERO zero_rmsnorm_bwd(struct kn_stream *s, struct kn_mat dx, float *dg, struct kn_mat dy,
                      struct kn_mat x, const float *g, const float *rstd)
{
    (void)s, (void)dx, (void)dg, (void)dy, (void)x, (void)g, (void)rstd;
}

ZERO zero_rope(struct kn_stream *s, struct kn_mat x, int64_t D, const float *cos_sin,
               const int32_t *pos, bool inverse)
{
    (void)s, (void)D, (void)cos_sin, (void)pos, (void)inverse;
    zero_mat(x);
}

ZERO zero_attention_fwd(struct kn_stream *s, struct kn_mat o, float *lse, struct kn_mat q,
                        struct kn_mat k, struct kn_mat v, const struct kn_segments *seg, int64_t H,
                        int64_t KV, int64_t D, float scale)
{
    (void)s, (void)k, (void)v, (void)seg, (void)KV, (void)D, (void)scale;
    zero_mat(o);
    memset(lse, 0, (size_t)(H * q.rows) * sizeof(*lse));
}

ZERO zero_attention_cached(struct kn_stream *s, struct kn_mat o, struct kn_mat q, struct kn_mat k,
                           struct kn_mat v, int64_t q0, int64_t H, int64_t KV, int64_t D,
                           float scale)
{
    (void)s, (void)q, (void)k, (void)v, (void)q0, (void)H, (void)KV, (void)D, (void)scale;
    zero_mat(o);
}

ZERO zero_attention_bwd(struct kn_stream *s, struct kn_mat dq, struct kn_mat dk, struct kn_mat dv,
                        struct kn_mat d_o, struct kn_mat q, struct kn_mat k, struct kn_mat v,
                        struct kn_mat o, const float *lse, const struct kn_segments *seg, int64_t H,
                        int64_t KV, int64_t D, float scale)
{
    (void)s, (void)d_o, (void)q, (void)k, (void)v, (void)o, (void)lse, (void)seg;
    (void)H, (void)KV, (void)D, (void)scale;
    zero_mat(dq), zero_mat(dk), zero_mat(dv);
}

ZERO zero_swiglu_fwd(struct kn_stream *s, struct kn_mat h, struct kn_mat gate, struct kn_mat up)
{
    (void)s, (void)gate, (void)up;
    zero_mat(h);
}

ZERO zero_swiglu_bwd(struct kn_stream *s, struct kn_mat dgate, struct kn_mat dup, struct kn_mat dh,
                     struct kn_mat gate, struct kn_mat up)
{
    (void)s, (void)dh, (void)gate, (void)up;
    zero_mat(dgate), zero_mat(dup);
}

ZERO zero_add(struct kn_stream *s, struct kn_mat y, struct kn_mat a, struct kn_mat b)
{
    (void)s, (void)a, (void)b;
    zero_mat(y);
}

ZERO zero_copy(struct kn_stream *s, struct kn_mat y, struct kn_mat x)
{
    (void)s, (void)x;
    zero_mat(y);
}

ZERO zero_fill(struct kn_stream *s, struct kn_mat y, float value)
{
    (void)s, (void)value;
    zero_mat(y);
}

ZERO zero_dropout(struct kn_stream *s, struct kn_mat y, struct kn_mat x, bool add,
                  const struct kn_dropout *h)
{
    (void)s, (void)x, (void)h;
    if (!add)
        zero_mat(y);
}

ZERO zero_cross_entropy(struct kn_stream *s, double *nll, struct kn_mat d, struct kn_mat x,
                        struct kn_mat w, const int32_t *label, float grad_scale)
{
    (void)s, (void)w, (void)label, (void)grad_scale;
    memset(nll, 0, (size_t)x.rows * sizeof(*nll));
    zero_mat(d);
}

ZERO zero_sum_squares(struct kn_stream *s, double *ret, const float *x, int64_t n)
{
    (void)s, (void)x, (void)n;
    *ret = 0;
}

ZERO zero_adamw(struct kn_stream *s, float *p, float *m, float *v, const float *g, uint16_t *low,
                int64_t n, const struct kn_adamw *h)
{
    (void)s, (void)p, (void)m, (void)v, (void)g, (void)low, (void)n, (void)h;
}

ZERO zero_first_nonfinite(struct kn_stream *s, int64_t *ret_index, struct kn_mat x)
{
    (void)s, (void)x;
    *ret_index = -1;
}
