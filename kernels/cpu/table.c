/* table.c - the CPU back end: which function fills which slot of ops.h. Slots with vector code go
 * to the level that the stream has found for this processor.
 */
#include "kernels/cpu/loss.h"

static void table_embed_fwd(struct kn_stream *s, struct kn_mat x, struct kn_mat table,
                            const int32_t *id)
{
    s->level->ops.embed_fwd(s, x, table, id);
}

static void table_embed_bwd(struct kn_stream *s, struct kn_mat dtable, struct kn_mat dx,
                            const int32_t *id)
{
    s->level->ops.embed_bwd(s, dtable, dx, id);
}

static void table_rmsnorm_fwd(struct kn_stream *s, struct kn_mat y, float *rstd, struct kn_mat x,
                              const float *g, float eps)
{
    s->level->ops.rmsnorm_fwd(s, y, rstd, x, g, eps);
}

static void table_rmsnorm_bwd(struct kn_stream *s, struct kn_mat dx, float *dg, struct kn_mat dy,
                              struct kn_mat x, const float *g, const float *rstd)
{
    s->level->ops.rmsnorm_bwd(s, dx, dg, dy, x, g, rstd);
}

static void table_rope(struct kn_stream *s, struct kn_mat x, int64_t D, const float *cos_sin,
                       const int32_t *pos, bool inverse)
{
    s->level->ops.rope(s, x, D, cos_sin, pos, inverse);
}

static void table_attention_fwd(struct kn_stream *s, struct kn_mat o, float *lse, struct kn_mat q,
                                struct kn_mat k, struct kn_mat v, const struct kn_segments *seg,
                                int64_t H, int64_t KV, int64_t D, float scale)
{
    s->level->ops.attention_fwd(s, o, lse, q, k, v, seg, H, KV, D, scale);
}

static void table_attention_cached(struct kn_stream *s, struct kn_mat o, struct kn_mat q,
                                   struct kn_mat k, struct kn_mat v, int64_t q0, int64_t H,
                                   int64_t KV, int64_t D, float scale)
{
    s->level->ops.attention_cached(s, o, q, k, v, q0, H, KV, D, scale);
}

static void table_attention_bwd(struct kn_stream *s, struct kn_mat dq, struct kn_mat dk,
                                struct kn_mat dv, struct kn_mat d_o, struct kn_mat q,
                                struct kn_mat k, struct kn_mat v, struct kn_mat o, const float *lse,
                                const struct kn_segments *seg, int64_t H, int64_t KV, int64_t D,
                                float scale)
{
    s->level->ops.attention_bwd(s, dq, dk, dv, d_o, q, k, v, o, lse, seg, H, KV, D, scale);
}

static void table_swiglu_fwd(struct kn_stream *s, struct kn_mat h, struct kn_mat gate,
                             struct kn_mat up)
{
    s->level->ops.swiglu_fwd(s, h, gate, up);
}

static void table_swiglu_bwd(struct kn_stream *s, struct kn_mat dgate, struct kn_mat dup,
                             struct kn_mat dh, struct kn_mat gate, struct kn_mat up)
{
    s->level->ops.swiglu_bwd(s, dgate, dup, dh, gate, up);
}

static void table_add(struct kn_stream *s, struct kn_mat y, struct kn_mat a, struct kn_mat b)
{
    s->level->ops.add(s, y, a, b);
}

static void table_copy(struct kn_stream *s, struct kn_mat y, struct kn_mat x)
{
    s->level->ops.copy(s, y, x);
}

static void table_fill(struct kn_stream *s, struct kn_mat y, float value)
{
    s->level->ops.fill(s, y, value);
}

static void table_dropout(struct kn_stream *s, struct kn_mat y, struct kn_mat x, bool add,
                          const struct kn_dropout *h)
{
    s->level->ops.dropout(s, y, x, add, h);
}

static void table_sum_squares(struct kn_stream *s, double *ret, const float *x, int64_t n)
{
    s->level->ops.sum_squares(s, ret, x, n);
}

static void table_adamw(struct kn_stream *s, float *p, float *m, float *v, const float *g,
                        uint16_t *low, int64_t n, const struct kn_adamw *h)
{
    s->level->ops.adamw(s, p, m, v, g, low, n, h);
}

static void table_first_nonfinite(struct kn_stream *s, int64_t *ret_index, struct kn_mat x)
{
    s->level->ops.first_nonfinite(s, ret_index, x);
}

const struct kn_ops kn_cpu_ops = {
    .name = "cpu",
    .stream_new = stream_new,
    .stream_free = stream_free,
    .sync = stream_sync,
    .scratch_bytes = stream_scratch_bytes,
    .rehearse = stream_rehearse,
    .alloc = stream_alloc,
    .free = stream_release,
    .upload = stream_copy,
    .download = stream_copy,
    .matmul = cpu_matmul,
    .matmul_low = cpu_matmul_low,
    .embed_fwd = table_embed_fwd,
    .embed_bwd = table_embed_bwd,
    .rmsnorm_fwd = table_rmsnorm_fwd,
    .rmsnorm_bwd = table_rmsnorm_bwd,
    .rope = table_rope,
    .attention_fwd = table_attention_fwd,
    .attention_cached = table_attention_cached,
    .attention_bwd = table_attention_bwd,
    .swiglu_fwd = table_swiglu_fwd,
    .swiglu_bwd = table_swiglu_bwd,
    .add = table_add,
    .copy = table_copy,
    .fill = table_fill,
    .dropout = table_dropout,
    .cross_entropy = cpu_cross_entropy,
    .sum_squares = table_sum_squares,
    .adamw = table_adamw,
    .first_nonfinite = table_first_nonfinite,
};
