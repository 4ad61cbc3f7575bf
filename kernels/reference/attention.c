/* attention.c - softmax attention over segments, its gradients, and the form for cached keys.
 *
 * One query row at a time: p_j = exp(scale q.k_j - lse) for the keys j in [begin, i], o = sum p_j
 * v_j. Backward, with delta = dO.o: dS_j = p_j (dO.v_j - delta); dq += scale dS_j k_j, dk_j +=
 * scale dS_j q, dv_j += p_j dO. dk and dv collect in double scratch, since several rows and query
 * heads add to the same one.
 */
#include "kernels/reference/ref.h"
#include <math.h>
#include <string.h>

/* One head's columns of q, k, v and the rest. */
struct ref_head {
    int64_t q_col, kv_col, D;
    double scale;
};

static struct ref_head ref_head(int64_t h, int64_t H, int64_t KV, int64_t D, float scale)
{
    return (struct ref_head){
        .q_col = h * D, .kv_col = h * KV / H * D, .D = D, .scale = (double)scale};
}

static double ref_dot(struct kn_mat a, int64_t ra, int64_t ca, struct kn_mat b, int64_t rb,
                      int64_t cb, int64_t n)
{
    double sum = 0.0;

    for (int64_t i = 0; i < n; i++)
        sum += ref_get(a, ra, ca + i) * ref_get(b, rb, cb + i);
    return sum;
}

/* Fills p[j - first] for the keys [first, last] of query row i of q; returns the log of the sum. */
static double attention_row(double *p, struct kn_mat q, int64_t i, struct kn_mat k, int64_t first,
                            int64_t last, struct ref_head h)
{
    double max = -INFINITY, sum = 0.0;

    for (int64_t j = first; j <= last; j++) {
        p[j - first] = h.scale * ref_dot(q, i, h.q_col, k, j, h.kv_col, h.D);
        max = fmax(max, p[j - first]);
    }
    for (int64_t j = first; j <= last; j++) {
        p[j - first] = exp(p[j - first] - max);
        sum += p[j - first];
    }
    for (int64_t j = first; j <= last; j++)
        p[j - first] /= sum;
    return max + log(sum);
}

static void attention_row_out(struct kn_mat o, int64_t i, const double *p, struct kn_mat v,
                              int64_t first, int64_t last, struct ref_head h)
{
    for (int64_t d = 0; d < h.D; d++) {
        double sum = 0.0;

        for (int64_t j = first; j <= last; j++)
            sum += p[j - first] * ref_get(v, j, h.kv_col + d);
        ref_set(o, i, h.q_col + d, sum);
    }
}

void ref_attention_fwd(struct kn_stream *s, struct kn_mat o, float *lse, struct kn_mat q,
                       struct kn_mat k, struct kn_mat v, const struct kn_segments *seg, int64_t H,
                       int64_t KV, int64_t D, float scale)
{
    struct kn_check ck = ref_check(s, "attention_fwd");
    double *p;

    if (!kn_check_attention(ck, q, k, v, seg->T, seg->T, (struct kn_heads){H, KV, D}) ||
        !kn_check_same(ck, "q", q, "o", o))
        return;
    p = ref_scratch(s, seg->T);
    if (!p)
        return;
    for (int64_t h = 0; h < H; h++) {
        const int32_t *begin = seg->begin[h >= seg->shift_from];
        struct ref_head head = ref_head(h, H, KV, D, scale);

        for (int64_t i = 0; i < seg->T; i++) {
            lse[h * seg->T + i] = (float)attention_row(p, q, i, k, begin[i], i, head);
            attention_row_out(o, i, p, v, begin[i], i, head);
        }
    }
}

void ref_attention_cached(struct kn_stream *s, struct kn_mat o, struct kn_mat q, struct kn_mat k,
                          struct kn_mat v, int64_t q0, int64_t H, int64_t KV, int64_t D,
                          float scale)
{
    struct kn_check ck = ref_check(s, "attention_cached");
    double *p;

    if (!kn_check_attention(ck, q, k, v, q.rows, q0 + q.rows, (struct kn_heads){H, KV, D}) ||
        !kn_check_same(ck, "q", q, "o", o))
        return;
    p = ref_scratch(s, q0 + q.rows);
    if (!p)
        return;
    for (int64_t h = 0; h < H; h++) {
        struct ref_head head = ref_head(h, H, KV, D, scale);

        for (int64_t i = 0; i < q.rows; i++) {
            (void)attention_row(p, q, i, k, 0, q0 + i, head);
            attention_row_out(o, i, p, v, 0, q0 + i, head);
        }
    }
}

/* Everything that attention_bwd reads, so that its rows need few parameters. */
struct ref_bwd {
    struct kn_mat dq, d_o, q, k, v, o;
    double *dk, *dv; /* (T,KV*D), sums */
    int64_t kv_cols;
};

/* One query row: its dq is complete, its keys' dk and dv get their share. dq: D doubles of scratch.
 */
static void attention_bwd_row(const struct ref_bwd *b, int64_t i, int64_t first, double lse,
                              struct ref_head h, double *dq)
{
    double delta = ref_dot(b->d_o, i, h.q_col, b->o, i, h.q_col, h.D);

    memset(dq, 0, (size_t)h.D * sizeof(*dq));
    for (int64_t j = first; j <= i; j++) {
        double p = exp(h.scale * ref_dot(b->q, i, h.q_col, b->k, j, h.kv_col, h.D) - lse);
        double ds = h.scale * p * (ref_dot(b->d_o, i, h.q_col, b->v, j, h.kv_col, h.D) - delta);
        double *dk = b->dk + j * b->kv_cols + h.kv_col, *dv = b->dv + j * b->kv_cols + h.kv_col;

        for (int64_t d = 0; d < h.D; d++) {
            dq[d] += ds * ref_get(b->k, j, h.kv_col + d);
            dk[d] += ds * ref_get(b->q, i, h.q_col + d);
            dv[d] += p * ref_get(b->d_o, i, h.q_col + d);
        }
    }
    for (int64_t d = 0; d < h.D; d++)
        ref_set(b->dq, i, h.q_col + d, dq[d]);
}

void ref_attention_bwd(struct kn_stream *s, struct kn_mat dq, struct kn_mat dk, struct kn_mat dv,
                       struct kn_mat d_o, struct kn_mat q, struct kn_mat k, struct kn_mat v,
                       struct kn_mat o, const float *lse, const struct kn_segments *seg, int64_t H,
                       int64_t KV, int64_t D, float scale)
{
    struct kn_check ck = ref_check(s, "attention_bwd");
    struct ref_bwd b = {.dq = dq, .d_o = d_o, .q = q, .k = k, .v = v, .o = o, .kv_cols = KV * D};
    int64_t T = seg->T, n_kv = T * KV * D;
    double *scratch;

    if (!kn_check_attention(ck, q, k, v, T, T, (struct kn_heads){H, KV, D}) ||
        !kn_check_same(ck, "q", q, "o", o) || !kn_check_same(ck, "q", q, "d_o", d_o) ||
        !kn_check_same(ck, "q", q, "dq", dq) || !kn_check_same(ck, "k", k, "dk", dk) ||
        !kn_check_same(ck, "k", k, "dv", dv))
        return;
    scratch = ref_scratch(s, 2 * n_kv + D);
    if (!scratch)
        return;
    memset(scratch, 0, (size_t)(2 * n_kv) * sizeof(*scratch));
    b.dk = scratch;
    b.dv = scratch + n_kv;
    for (int64_t h = 0; h < H; h++) {
        const int32_t *begin = seg->begin[h >= seg->shift_from];

        for (int64_t i = 0; i < T; i++)
            attention_bwd_row(&b, i, begin[i], (double)lse[h * T + i], ref_head(h, H, KV, D, scale),
                              scratch + 2 * n_kv);
    }
    for (int64_t j = 0; j < T; j++) {
        for (int64_t c = 0; c < b.kv_cols; c++) {
            ref_set(dk, j, c, b.dk[j * b.kv_cols + c]);
            ref_set(dv, j, c, b.dv[j * b.kv_cols + c]);
        }
    }
}
