/* ops.h - the whole contract between worker/ and a back end.
 *
 * Letters: T tokens, C hidden size, H query heads, KV key-value heads, D head size, V vocabulary, R LoRA rank.
 * A back end is one struct kn_ops with every slot filled. Ops enqueue on a stream and return void; errors
 * (out of scratch, a wrong shape) stick to the stream and surface at sync(). Ops allocate nothing after they
 * have once run with their largest shapes: scratch comes from the stream and is counted by scratch_bytes().
 * Matrices are F32 or BF16 as their .t says; sums are always in fp32 or wider, statistics (lse, rstd) and
 * gradients of trained parameters are fp32. A back end may multiply F32 in parts (cpu/split.h) where that is no
 * less exact than fp32; infinity may become NaN then. Same inputs and same thread count or not: same bits.
 * "+=" ops add to what is there; "=" ops overwrite and may be given poison.
 */
#pragma once
#include "kernels/dropout.h"
#include "kernels/segments.h"
#include "kernels/tensor.h"
#include "proto/base/attr.h"
#include <stdbool.h>
#include <stdint.h>

struct kn_stream; /* one queue of work with its threads and scratch */

struct kn_adamw {
    float lr, beta1, beta2, eps, weight_decay;
    int64_t t;        /* 1 for the first update */
    float grad_scale; /* multiplies every gradient: the clip */
};

struct kn_ops {
    const char *name; /* "reference", "cpu", "cuda", "cuda-emu" */

    /* threads: how many this stream may use (cpu), ignored elsewhere. */
    int (*stream_new)(int threads, struct kn_stream **ret_stream, struct lh_err *reterr);
    void (*stream_free)(struct kn_stream *s);
    int (*sync)(struct kn_stream *s, struct lh_err *reterr); /* 0, or the first error since the last sync */
    uint64_t (*scratch_bytes)(const struct kn_stream *s);
    /* Makes s a stream for rehearsals: from here on ops take their scratch and build what they keep, but need not
     * compute, so that scratch_bytes tells what a run will take. Their operands must be memory as large as said; what
     * is in it afterwards means nothing. */
    void (*rehearse)(struct kn_stream *s);

    /* Memory of the device, and copies between it and the host. On cpu: aligned malloc and memcpy. */
    void *(*alloc)(struct kn_stream *s, uint64_t bytes); /* 64-byte aligned at least; NULL when exhausted */
    void (*free)(struct kn_stream *s, void *p);
    void (*upload)(struct kn_stream *s, void *device, const void *host, uint64_t bytes);
    void (*download)(struct kn_stream *s, void *host, const void *device, uint64_t bytes); /* complete after sync */

    /* c = alpha * op(a) op(b) + beta * c;  op(x) = x, or x^T when its flag is set. beta is 0 or 1.
     * Shapes after op: a (M,K), b (K,N), c (M,N). Types: all F32; or a, b BF16 and c BF16 or F32.
     * "nt" with b a weight [out,in] is the forward product of a linear layer. */
    void (*matmul)(struct kn_stream *s, struct kn_mat c, struct kn_mat a, bool ta, struct kn_mat b, bool tb,
                   float alpha, float beta);

    /* A product with a low-rank update: z = z_scale * a op(p), c = a op(b) + c_scale * z op(q) + beta * c; op(x) = x,
     * or x^T when t is set; beta is 0 or 1. Shapes: a (M,K), op(b) (K,N), op(p) (K,R), op(q) (R,N), z (M,R), c (M,N), all
     * of one type. In c, z counts as it is stored. The forward pass of LoRA is t with p = A, q = B, and the gradient of
     * its input is that without t, of p = B and q = A. */
    void (*matmul_low)(struct kn_stream *s, struct kn_mat c, struct kn_mat z, struct kn_mat a, struct kn_mat b,
                       struct kn_mat p, struct kn_mat q, bool t, float z_scale, float c_scale, float beta);

    /* x[t,:] = table[id[t],:]   x (T,C)  table (V,C) of any type. */
    void (*embed_fwd)(struct kn_stream *s, struct kn_mat x, struct kn_mat table, const int32_t *id);
    /* dtable[id[t],:] += dx[t,:]   dtable F32. Rows of equal id are added in order of t. */
    void (*embed_bwd)(struct kn_stream *s, struct kn_mat dtable, struct kn_mat dx, const int32_t *id);

    /* y[t,c] = x[t,c] * rstd[t] * g[c],  rstd[t] = 1/sqrt(mean_c x^2 + eps).  g F32 (C), rstd F32 (T). */
    void (*rmsnorm_fwd)(struct kn_stream *s, struct kn_mat y, float *rstd, struct kn_mat x, const float *g, float eps);
    /* dx += ..., dg += sum_t dy*x*rstd (dg NULL: not wanted).  With xhat = x*rstd:
     * dx = rstd * (dy*g - xhat * mean_c(dy*g*xhat)). */
    void (*rmsnorm_bwd)(struct kn_stream *s, struct kn_mat dx, float *dg, struct kn_mat dy, struct kn_mat x,
                        const float *g, const float *rstd);

    /* Rotates the heads of x (T, n_heads*D) in place, half-split: (x_i, x_{i+D/2}) by cos, sin of the token's
     * position. cos_sin: F32 (P, D) with D/2 cosines then D/2 sines a position, already multiplied by the
     * attention scaling; pos (T) picks rows. inverse: the transposed rotation, for gradients. */
    void (*rope)(struct kn_stream *s, struct kn_mat x, int64_t D, const float *cos_sin, const int32_t *pos,
                 bool inverse);

    /* o = softmax(q k^T * scale, masked by seg) v.  q, o (T,H*D)  k, v (T,KV*D)  lse F32 (H,T): log of the sum of
     * exp of the scaled scores. Query head h reads kv head h*KV/H. Row i attends to [begin[class(h)][i], i]. */
    void (*attention_fwd)(struct kn_stream *s, struct kn_mat o, float *lse, struct kn_mat q, struct kn_mat k,
                          struct kn_mat v, const struct kn_segments *seg, int64_t H, int64_t KV, int64_t D, float scale);
    /* Queries [q0, q0+Tq) of a longer sequence against keys [0, q0+Tq) (evaluation and generation); q, o (Tq,H*D). */
    void (*attention_cached)(struct kn_stream *s, struct kn_mat o, struct kn_mat q, struct kn_mat k, struct kn_mat v,
                             int64_t q0, int64_t H, int64_t KV, int64_t D, float scale);
    /* dq, dk, dv = gradients (overwritten); o, lse from the forward pass. */
    void (*attention_bwd)(struct kn_stream *s, struct kn_mat dq, struct kn_mat dk, struct kn_mat dv, struct kn_mat d_o,
                          struct kn_mat q, struct kn_mat k, struct kn_mat v, struct kn_mat o, const float *lse,
                          const struct kn_segments *seg, int64_t H, int64_t KV, int64_t D, float scale);

    /* h = silu(gate) * up;   all (T,F). */
    void (*swiglu_fwd)(struct kn_stream *s, struct kn_mat h, struct kn_mat gate, struct kn_mat up);
    /* dgate, dup = gradients; they may be gate and up themselves (in place). */
    void (*swiglu_bwd)(struct kn_stream *s, struct kn_mat dgate, struct kn_mat dup, struct kn_mat dh, struct kn_mat gate,
                       struct kn_mat up);

    void (*add)(struct kn_stream *s, struct kn_mat y, struct kn_mat a, struct kn_mat b); /* y = a + b; may be in place */
    void (*copy)(struct kn_stream *s, struct kn_mat y, struct kn_mat x);                 /* y = x, converting types */
    void (*fill)(struct kn_stream *s, struct kn_mat y, float value);

    /* Dropout: y = x / (1 - rate), or y += that, with zeros in place of the elements that dropout.h says; y may be x
     * itself unless it adds. */
    void (*dropout)(struct kn_stream *s, struct kn_mat y, struct kn_mat x, bool add, const struct kn_dropout *h);

    /* The loss of logits = x w^T without the logits: x (T,C), w (V,C) of one type, target label[t] in [0,V):
     * nll[t] = log sum exp(logits[t,:]) - logits[t,label[t]]; label -100: nll 0. When d.p is not NULL, d (V,T) of x's
     * type = (softmax - onehot)^T * grad_scale, 0 in the columns of tokens without label: its rows are those of w, so
     * the gradients are the products d x and d^T w. */
    void (*cross_entropy)(struct kn_stream *s, double *nll, struct kn_mat d, struct kn_mat x, struct kn_mat w,
                          const int32_t *label, float grad_scale);

    /* *ret = sum of squares over n fp32 values, in double, fixed order. */
    void (*sum_squares)(struct kn_stream *s, double *ret, const float *x, int64_t n);
    /* Decoupled weight decay, then Adam, all fp32; g is scaled by h->grad_scale first:
     * m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; p *= 1 - lr wd; p -= lr (m/(1-b1^t)) / (sqrt(v/(1-b2^t)) + eps).
     * low (may be NULL): a BF16 copy of p, refreshed. */
    void (*adamw)(struct kn_stream *s, float *p, float *m, float *v, const float *g, uint16_t *low, int64_t n,
                  const struct kn_adamw *h);

    /* Index of the first element that is NaN or infinite, or -1 (row-major over rows*cols). */
    void (*first_nonfinite)(struct kn_stream *s, int64_t *ret_index, struct kn_mat x);
};

extern const struct kn_ops kn_reference_ops; /* fp64 inside, plain loops: the oracle */
extern const struct kn_ops kn_cpu_ops;       /* own products, some by oneDNN, own attention; width chosen at run time */

/* The back end of a device name ("cpu", "reference"; "cuda", "cuda-emu" through the plug-in).
 * Errors: LH_ENOTSUP with the reason it is not usable here. */
LH_MUST_CHECK int kn_ops_for(const char *device, const struct kn_ops **ret_ops, struct lh_err *reterr);
