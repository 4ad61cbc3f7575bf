/* ref.h - what the reference back end's files share: its stream, and elements as doubles.
 *
 * Everything here is computed in double by plain loops, one thread, at once: this back end is read
 * and trusted, not fast. Only stores round, to the type of the output.
 */
#pragma once
#include "kernels/check.h"
#include "kernels/ops.h"

struct kn_stream {
    struct lh_err err; /* the first error since the last sync */
    double *scratch;
    int64_t scratch_n;
};

/* n doubles that stay until the next call; NULL, with the stream's error set, when memory is out.
 */
double *ref_scratch(struct kn_stream *s, int64_t n);

static inline struct kn_check ref_check(struct kn_stream *s, const char *op)
{
    return (struct kn_check){.err = &s->err, .op = op, .f64 = true};
}

static inline double ref_get(struct kn_mat m, int64_t row, int64_t col)
{
    int64_t i = row * m.ld + col;

    if (m.t == KN_F64)
        return ((const double *)m.p)[i];
    if (m.t == KN_F32)
        return (double)((const float *)m.p)[i];
    return (double)kn_bf16_to_f32(((const uint16_t *)m.p)[i]);
}

static inline void ref_set(struct kn_mat m, int64_t row, int64_t col, double x)
{
    int64_t i = row * m.ld + col;

    if (m.t == KN_F64)
        ((double *)m.p)[i] = x;
    else if (m.t == KN_F32)
        ((float *)m.p)[i] = (float)x;
    else
        ((uint16_t *)m.p)[i] = kn_f32_to_bf16((float)x);
}

static inline void ref_add(struct kn_mat m, int64_t row, int64_t col, double x)
{
    ref_set(m, row, col, ref_get(m, row, col) + x);
}

/* The slots of the table; each file fills those of its name. Their contracts stand in ops.h. */
void ref_matmul(struct kn_stream *s, struct kn_mat c, struct kn_mat a, bool ta, struct kn_mat b,
                bool tb, float alpha, float beta);
void ref_matmul_low(struct kn_stream *s, struct kn_mat c, struct kn_mat z, struct kn_mat a,
                    struct kn_mat b, struct kn_mat p, struct kn_mat q, bool t, float z_scale,
                    float c_scale, float beta);
void ref_embed_fwd(struct kn_stream *s, struct kn_mat x, struct kn_mat table, const int32_t *id);
void ref_embed_bwd(struct kn_stream *s, struct kn_mat dtable, struct kn_mat dx, const int32_t *id);
void ref_rmsnorm_fwd(struct kn_stream *s, struct kn_mat y, float *rstd, struct kn_mat x,
                     const float *g, float eps);
void ref_rmsnorm_bwd(struct kn_stream *s, struct kn_mat dx, float *dg, struct kn_mat dy,
                     struct kn_mat x, const float *g, const float *rstd);
void ref_rope(struct kn_stream *s, struct kn_mat x, int64_t D, const float *cos_sin,
              const int32_t *pos, bool inverse);
void ref_attention_fwd(struct kn_stream *s, struct kn_mat o, float *lse, struct kn_mat q,
                       struct kn_mat k, struct kn_mat v, const struct kn_segments *seg, int64_t H,
                       int64_t KV, int64_t D, float scale);
void ref_attention_cached(struct kn_stream *s, struct kn_mat o, struct kn_mat q, struct kn_mat k,
                          struct kn_mat v, int64_t q0, int64_t H, int64_t KV, int64_t D,
                          float scale);
void ref_attention_bwd(struct kn_stream *s, struct kn_mat dq, struct kn_mat dk, struct kn_mat dv,
                       struct kn_mat d_o, struct kn_mat q, struct kn_mat k, struct kn_mat v,
                       struct kn_mat o, const float *lse, const struct kn_segments *seg, int64_t H,
                       int64_t KV, int64_t D, float scale);
void ref_swiglu_fwd(struct kn_stream *s, struct kn_mat h, struct kn_mat gate, struct kn_mat up);
void ref_swiglu_bwd(struct kn_stream *s, struct kn_mat dgate, struct kn_mat dup, struct kn_mat dh,
                    struct kn_mat gate, struct kn_mat up);
void ref_add_op(struct kn_stream *s, struct kn_mat y, struct kn_mat a, struct kn_mat b);
void ref_copy(struct kn_stream *s, struct kn_mat y, struct kn_mat x);
void ref_fill(struct kn_stream *s, struct kn_mat y, float value);
void ref_dropout(struct kn_stream *s, struct kn_mat y, struct kn_mat x, bool add,
                 const struct kn_dropout *h);
void ref_first_nonfinite(struct kn_stream *s, int64_t *ret_index, struct kn_mat x);
void ref_cross_entropy(struct kn_stream *s, double *nll, struct kn_mat d, struct kn_mat x,
                       struct kn_mat w, const int32_t *label, float grad_scale);
void ref_sum_squares(struct kn_stream *s, double *ret, const float *x, int64_t n);
void ref_adamw(struct kn_stream *s, float *p, float *m, float *v, const float *g, uint16_t *low,
               int64_t n, const struct kn_adamw *h);
