/* profile.c - the back end of profile.h: every slot times the inner back end's.
 *
 * The stream holds the first error of the inner one, because waiting for the inner stream takes the
 * error away; ops after it are passed over, as on every stream.
 */
#include "kernels/profile.h"
#include "proto/base/clock.h"
#include "proto/base/err.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct kn_stream {
    struct kn_ops ops; /* this back end's table, under the inner one's name */
    const struct kn_ops *in;
    struct kn_stream *s; /* the inner one; owned */
    bool device;         /* its work is not the processor's */
    kn_profile_fn *fn;
    void *arg;
    uint64_t begin_ns, begin_busy_ns; /* of the op at hand */
    struct lh_err err;
};

/* False when the op is to be passed over. */
static bool begin(struct kn_stream *s)
{
    if (s->err.code != 0)
        return false;
    s->begin_ns = lh_mono_ns();
    s->begin_busy_ns = lh_cpu_ns();
    return true;
}

static void end(struct kn_stream *s, struct kn_op_call call)
{
    if (s->in->sync(s->s, &s->err) != 0)
        return;
    call.busy_ns = lh_cpu_ns() - s->begin_busy_ns;
    call.begin_ns = s->begin_ns;
    call.wall_ns = lh_mono_ns() - s->begin_ns;
    if (s->device)
        call.busy_ns = call.wall_ns;
    s->fn(s->arg, &call);
}

static double bytes_of(struct kn_mat m)
{
    return (double)m.rows * (double)m.cols * (double)kn_dtype_bytes(m.t);
}

/* An op whose result has the shape of m. */
static struct kn_op_call call_of(const char *op, struct kn_mat m, double bytes)
{
    return (struct kn_op_call){.op = op, .bytes = bytes, .rows = m.rows, .cols = m.cols, .t = m.t};
}

static int profile_stream_new(int threads, struct kn_stream **ret_stream, struct lh_err *reterr)
{
    (void)threads;
    (void)ret_stream;
    return lh_err_set(reterr, LH_EINTERNAL, "a profiled stream is made by kn_profile_new");
}

static void profile_stream_free(struct kn_stream *s)
{
    if (!s)
        return;
    s->in->stream_free(s->s);
    free(s);
}

static int profile_sync(struct kn_stream *s, struct lh_err *reterr)
{
    int code = s->err.code;

    if (code == 0)
        return s->in->sync(s->s, reterr);
    if (reterr)
        *reterr = s->err;
    s->err = (struct lh_err){0};
    return code;
}

static uint64_t profile_scratch_bytes(const struct kn_stream *s)
{
    return s->in->scratch_bytes(s->s);
}

static void profile_rehearse(struct kn_stream *s)
{
    s->in->rehearse(s->s);
}

static void *profile_alloc(struct kn_stream *s, uint64_t bytes)
{
    return s->in->alloc(s->s, bytes);
}

static void profile_free(struct kn_stream *s, void *p)
{
    s->in->free(s->s, p);
}

static void profile_upload(struct kn_stream *s, void *device, const void *host, uint64_t bytes)
{
    if (!begin(s))
        return;
    s->in->upload(s->s, device, host, bytes);
    end(s, (struct kn_op_call){.op = "upload", .bytes = 2 * (double)bytes});
}

static void profile_download(struct kn_stream *s, void *host, const void *device, uint64_t bytes)
{
    if (!begin(s))
        return;
    s->in->download(s->s, host, device, bytes);
    end(s, (struct kn_op_call){.op = "download", .bytes = 2 * (double)bytes});
}

static void profile_matmul(struct kn_stream *s, struct kn_mat c, struct kn_mat a, bool ta,
                           struct kn_mat b, bool tb, float alpha, float beta)
{
    struct kn_op_call call = call_of("matmul", c, bytes_of(a) + bytes_of(b) + bytes_of(c));

    if (!begin(s))
        return;
    s->in->matmul(s->s, c, a, ta, b, tb, alpha, beta);
    call.inner = ta ? a.rows : a.cols;
    call.flop = 2 * (double)c.rows * (double)c.cols * (double)call.inner;
    call.bytes += beta != 0.0f ? bytes_of(c) : 0;
    call.ta = ta;
    call.tb = tb;
    call.t = a.t;
    end(s, call);
}

static void profile_matmul_low(struct kn_stream *s, struct kn_mat c, struct kn_mat z,
                               struct kn_mat a, struct kn_mat b, struct kn_mat p, struct kn_mat q,
                               bool t, float z_scale, float c_scale, float beta)
{
    double bytes = bytes_of(a) + bytes_of(b) + bytes_of(c) + bytes_of(z);
    struct kn_op_call call = call_of("matmul_low", c, bytes);

    call.inner = a.cols, call.tb = t, call.t = a.t;
    if (!begin(s))
        return;
    s->in->matmul_low(s->s, c, z, a, b, p, q, t, z_scale, c_scale, beta);
    call.flop = 2 * (double)c.rows *
                ((double)c.cols * (double)a.cols + (double)z.cols * (double)(c.cols + a.cols));
    end(s, call);
}

static void profile_embed_fwd(struct kn_stream *s, struct kn_mat x, struct kn_mat table,
                              const int32_t *id)
{
    if (!begin(s))
        return;
    s->in->embed_fwd(s->s, x, table, id);
    end(s, call_of("embed_fwd", x, 2 * bytes_of(x)));
}

static void profile_embed_bwd(struct kn_stream *s, struct kn_mat dtable, struct kn_mat dx,
                              const int32_t *id)
{
    if (!begin(s))
        return;
    s->in->embed_bwd(s->s, dtable, dx, id);
    end(s, call_of("embed_bwd", dx, bytes_of(dx) + 8 * (double)dx.rows * (double)dx.cols));
}

static void profile_rmsnorm_fwd(struct kn_stream *s, struct kn_mat y, float *rstd, struct kn_mat x,
                                const float *g, float eps)
{
    if (!begin(s))
        return;
    s->in->rmsnorm_fwd(s->s, y, rstd, x, g, eps);
    end(s, call_of("rmsnorm_fwd", y, bytes_of(x) + bytes_of(y)));
}

static void profile_rmsnorm_bwd(struct kn_stream *s, struct kn_mat dx, float *dg, struct kn_mat dy,
                                struct kn_mat x, const float *g, const float *rstd)
{
    if (!begin(s))
        return;
    s->in->rmsnorm_bwd(s->s, dx, dg, dy, x, g, rstd);
    end(s, call_of("rmsnorm_bwd", dx, 2 * bytes_of(dx) + bytes_of(dy) + bytes_of(x)));
}

static void profile_rope(struct kn_stream *s, struct kn_mat x, int64_t D, const float *cos_sin,
                         const int32_t *pos, bool inverse)
{
    if (!begin(s))
        return;
    s->in->rope(s->s, x, D, cos_sin, pos, inverse);
    end(s, call_of("rope", x, 2 * bytes_of(x)));
}

/* Query-key pairs of all heads. */
static double pairs_of(const struct kn_segments *seg, int64_t H)
{
    int64_t plain = LH_MIN(seg->shift_from, H);
    double n = (double)plain * (double)kn_segments_pairs(seg, 0);

    return H > plain ? n + (double)(H - plain) * (double)kn_segments_pairs(seg, 1) : n;
}

static void profile_attention_fwd(struct kn_stream *s, struct kn_mat o, float *lse, struct kn_mat q,
                                  struct kn_mat k, struct kn_mat v, const struct kn_segments *seg,
                                  int64_t H, int64_t KV, int64_t D, float scale)
{
    struct kn_op_call call =
        call_of("attention_fwd", o, bytes_of(q) + bytes_of(k) + bytes_of(v) + bytes_of(o));

    if (!begin(s))
        return;
    s->in->attention_fwd(s->s, o, lse, q, k, v, seg, H, KV, D, scale);
    call.flop = 4 * (double)D * pairs_of(seg, H);
    end(s, call);
}

static void profile_attention_cached(struct kn_stream *s, struct kn_mat o, struct kn_mat q,
                                     struct kn_mat k, struct kn_mat v, int64_t q0, int64_t H,
                                     int64_t KV, int64_t D, float scale)
{
    double n = (double)q.rows, pairs = n * (double)q0 + n * (n + 1) / 2;
    struct kn_op_call call =
        call_of("attention_cached", o, bytes_of(q) + bytes_of(k) + bytes_of(v) + bytes_of(o));

    if (!begin(s))
        return;
    s->in->attention_cached(s->s, o, q, k, v, q0, H, KV, D, scale);
    call.flop = 4 * (double)(D * H) * pairs;
    end(s, call);
}

static void profile_attention_bwd(struct kn_stream *s, struct kn_mat dq, struct kn_mat dk,
                                  struct kn_mat dv, struct kn_mat d_o, struct kn_mat q,
                                  struct kn_mat k, struct kn_mat v, struct kn_mat o,
                                  const float *lse, const struct kn_segments *seg, int64_t H,
                                  int64_t KV, int64_t D, float scale)
{
    struct kn_op_call call =
        call_of("attention_bwd", dq, 4 * bytes_of(q) + 2 * bytes_of(k) + 2 * bytes_of(v));

    if (!begin(s))
        return;
    s->in->attention_bwd(s->s, dq, dk, dv, d_o, q, k, v, o, lse, seg, H, KV, D, scale);
    call.flop = 10 * (double)D * pairs_of(seg, H);
    end(s, call);
}

static void profile_swiglu_fwd(struct kn_stream *s, struct kn_mat h, struct kn_mat gate,
                               struct kn_mat up)
{
    if (!begin(s))
        return;
    s->in->swiglu_fwd(s->s, h, gate, up);
    end(s, call_of("swiglu_fwd", h, 3 * bytes_of(h)));
}

static void profile_swiglu_bwd(struct kn_stream *s, struct kn_mat dgate, struct kn_mat dup,
                               struct kn_mat dh, struct kn_mat gate, struct kn_mat up)
{
    if (!begin(s))
        return;
    s->in->swiglu_bwd(s->s, dgate, dup, dh, gate, up);
    end(s, call_of("swiglu_bwd", dh, 5 * bytes_of(dh)));
}

static void profile_add(struct kn_stream *s, struct kn_mat y, struct kn_mat a, struct kn_mat b)
{
    if (!begin(s))
        return;
    s->in->add(s->s, y, a, b);
    end(s, call_of("add", y, bytes_of(y) + bytes_of(a) + bytes_of(b)));
}

static void profile_copy(struct kn_stream *s, struct kn_mat y, struct kn_mat x)
{
    if (!begin(s))
        return;
    s->in->copy(s->s, y, x);
    end(s, call_of("copy", y, bytes_of(y) + bytes_of(x)));
}

static void profile_fill(struct kn_stream *s, struct kn_mat y, float value)
{
    if (!begin(s))
        return;
    s->in->fill(s->s, y, value);
    end(s, call_of("fill", y, bytes_of(y)));
}

static void profile_dropout(struct kn_stream *s, struct kn_mat y, struct kn_mat x, bool add,
                            const struct kn_dropout *h)
{
    if (!begin(s))
        return;
    s->in->dropout(s->s, y, x, add, h);
    end(s, call_of("dropout", y, bytes_of(x) + (add ? 2 : 1) * bytes_of(y)));
}

static void profile_cross_entropy(struct kn_stream *s, double *nll, struct kn_mat d,
                                  struct kn_mat x, struct kn_mat w, const int32_t *label,
                                  float grad_scale)
{
    struct kn_op_call call = call_of("cross_entropy", kn_mat(NULL, x.t, x.rows, w.rows),
                                     bytes_of(x) + bytes_of(w) + (d.p ? bytes_of(d) : 0));

    if (!begin(s))
        return;
    s->in->cross_entropy(s->s, nll, d, x, w, label, grad_scale);
    call.flop = 2 * (double)x.rows * (double)w.rows * (double)x.cols;
    end(s, call);
}

static void profile_sum_squares(struct kn_stream *s, double *ret, const float *x, int64_t n)
{
    if (!begin(s))
        return;
    s->in->sum_squares(s->s, ret, x, n);
    end(s, (struct kn_op_call){.op = "sum_squares", .bytes = 4 * (double)n, .rows = 1, .cols = n});
}

/* Reads four arrays and writes three. */
static void profile_adamw(struct kn_stream *s, float *p, float *m, float *v, const float *g,
                          uint16_t *low, int64_t n, const struct kn_adamw *h)
{
    if (!begin(s))
        return;
    s->in->adamw(s->s, p, m, v, g, low, n, h);
    end(s, (struct kn_op_call){
               .op = "adamw", .bytes = (low ? 30 : 28) * (double)n, .rows = 1, .cols = n});
}

static void profile_first_nonfinite(struct kn_stream *s, int64_t *ret_index, struct kn_mat x)
{
    if (!begin(s))
        return;
    s->in->first_nonfinite(s->s, ret_index, x);
    end(s, call_of("first_nonfinite", x, bytes_of(x)));
}

static const struct kn_ops profile_ops = {
    .stream_new = profile_stream_new,
    .stream_free = profile_stream_free,
    .sync = profile_sync,
    .scratch_bytes = profile_scratch_bytes,
    .rehearse = profile_rehearse,
    .alloc = profile_alloc,
    .free = profile_free,
    .upload = profile_upload,
    .download = profile_download,
    .matmul = profile_matmul,
    .matmul_low = profile_matmul_low,
    .embed_fwd = profile_embed_fwd,
    .embed_bwd = profile_embed_bwd,
    .rmsnorm_fwd = profile_rmsnorm_fwd,
    .rmsnorm_bwd = profile_rmsnorm_bwd,
    .rope = profile_rope,
    .attention_fwd = profile_attention_fwd,
    .attention_cached = profile_attention_cached,
    .attention_bwd = profile_attention_bwd,
    .swiglu_fwd = profile_swiglu_fwd,
    .swiglu_bwd = profile_swiglu_bwd,
    .add = profile_add,
    .copy = profile_copy,
    .fill = profile_fill,
    .dropout = profile_dropout,
    .cross_entropy = profile_cross_entropy,
    .sum_squares = profile_sum_squares,
    .adamw = profile_adamw,
    .first_nonfinite = profile_first_nonfinite,
};

/* A slot that is new in ops.h needs its function here: without one it would be NULL. */
_Static_assert(sizeof(struct kn_ops) == 30 * sizeof(void *), "a slot for each of the ops");

int kn_profile_new(const struct kn_ops *inner, int threads, kn_profile_fn *fn, void *arg,
                   const struct kn_ops **ret_ops, struct kn_stream **ret_stream,
                   struct lh_err *reterr)
{
    struct kn_stream *s = calloc(1, sizeof(*s));
    int rc;

    if (!s)
        return lh_err_set(reterr, -ENOMEM, "a stream that is profiled");
    *s = (struct kn_stream){.ops = profile_ops, .in = inner, .fn = fn, .arg = arg};
    s->ops.name = inner->name;
    s->device = strncmp(inner->name, "cuda", 4) == 0;
    rc = inner->stream_new(threads, &s->s, reterr);
    if (rc < 0) {
        free(s);
        return rc;
    }
    *ret_ops = &s->ops;
    *ret_stream = s;
    return 0;
}
