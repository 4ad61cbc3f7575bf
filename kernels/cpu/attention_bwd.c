/* attention_bwd.c - the backward pass of attention, in two sweeps that need no atomics and no T x T
 * matrix.
 *
 * First delta = rowsum(dO o O) of every row and head. Sweep Q: every block of queries walks over
 * its tiles of keys (K and V packed transposed, K plain) and collects dq. Sweep K: every block of
 * keys walks over the tiles of queries that see it (Q and dO packed both ways), query head after
 * query head of its group, and collects dk and dv. Scores are computed in both, seven products
 * instead of five: the price of sums whose order is fixed. When the tiles of a whole group exceed
 * ATTN_PACK_MAX, the group is taken in parts and dk, dv wait in fp32 scratch between them.
 */
#include "kernels/cpu/attention.h"
#include "kernels/cpu/vec.h"
#include <limits.h>
#include <math.h>
#include <string.h>

#define BWD_ROWS 128 /* tokens of one item */

enum { PACK_KT, PACK_VT, PACK_K, Q_KINDS };           /* of a kv head, for sweep Q */
enum { PACK_QT, PACK_DOT, PACK_Q, PACK_DO, K_KINDS }; /* of a query head, for sweep K */

struct attn_bwd {
    struct attn a;
    const float *lse;
    int64_t padded;      /* T as whole tiles */
    float *lse2, *delta; /* (H, padded): lse in powers of two; zeros past T */
    int32_t *begin[2];   /* (padded): of the two classes; past T no key is seen */
    float *dk, *dv;      /* (padded, Dp): sums of one kv head between parts of its group */
};

static float bwd_dot(struct kn_mat x, struct kn_mat y)
{
    vf sum = {0};

    for (int64_t d = 0; d < x.cols; d += VEC)
        sum += vf_load(x, 0, d, x.cols - d) * vf_load(y, 0, d, x.cols - d);
    return vf_sum(sum);
}

/* Statistics of one tile of tokens, for all heads. */
static void bwd_stats_item(void *arg, int64_t item, int thread)
{
    const struct attn_bwd *b = arg;
    const struct attn *a = &b->a;

    (void)thread;
    for (int64_t i = item * TILE_TOKENS; i < (item + 1) * TILE_TOKENS; i++) {
        bool inside = i < a->T;

        for (int64_t h = 0; h < a->H; h++) {
            b->lse2[h * b->padded + i] = inside ? b->lse[h * a->T + i] * (float)M_LOG2E : 0.0f;
            b->delta[h * b->padded + i] =
                inside ? bwd_dot(attn_head(a->d_o, i, 1, h, a->D), attn_head(a->o, i, 1, h, a->D))
                       : 0.0f;
        }
        for (int c = 0; c < 2; c++)
            b->begin[c][i] = inside ? a->seg->begin[c][i] : INT32_MAX;
    }
}

static void bwd_pack_kv_item(void *arg, int64_t item, int thread)
{
    const struct attn *a = &((const struct attn_bwd *)arg)->a;
    int64_t i = item / a->n_tiles, t = item % a->n_tiles, j0 = t * TILE_TOKENS;
    int64_t n = LH_MIN(TILE_TOKENS, a->T - j0);
    struct kn_mat k = attn_head(a->k, j0, n, a->kv0 + i, a->D),
                  v = attn_head(a->v, j0, n, a->kv0 + i, a->D);

    (void)thread;
    attn_prefetch(a->k, j0, n, a->kv0 + i, a->D);
    attn_prefetch(a->v, j0, n, a->kv0 + i, a->D);
    tile_pack_transposed(a->tiles, attn_packed(a, i, t, PACK_KT, Q_KINDS), a->Dp, k);
    tile_pack_transposed(a->tiles, attn_packed(a, i, t, PACK_VT, Q_KINDS), a->Dp, v);
    tile_pack_plain(a->tiles, attn_packed(a, i, t, PACK_K, Q_KINDS), a->Dp, k);
}

static void bwd_q_block(const struct attn_bwd *b, const struct attn_local *l, int64_t h, int64_t i0)
{
    const struct attn *a = &b->a;
    const int32_t *begin = attn_begin(a, h);
    int64_t n = LH_MIN(TILE_ROWS, a->T - i0), last = i0 + n - 1, first = begin[i0],
            cut = begin[last];
    int64_t t_first = first / TILE_TOKENS, kv = h / a->group - a->kv0;
    struct softmax_rows rows;

    tile_pack_a(a->tiles, l->a[0], a->Dp, attn_head(a->q, i0, n, h, a->D));
    tile_pack_a(a->tiles, l->a[1], a->Dp, attn_head(a->d_o, i0, n, h, a->D));
    attn_prefetch(a->q, i0 + TILE_ROWS, TILE_ROWS, h, a->D);
    attn_prefetch(a->d_o, i0 + TILE_ROWS, TILE_ROWS, h, a->D);
    attn_prefetch(a->dq, i0, TILE_ROWS, h, a->D);
    memcpy(rows.base, b->lse2 + h * b->padded + i0, sizeof(rows.base));
    memcpy(rows.factor, b->delta + h * b->padded + i0, sizeof(rows.factor));
    for (int64_t t = t_first; t <= last / TILE_TOKENS; t++) {
        int64_t j0 = t * TILE_TOKENS;
        struct attn_span span = attn_span(j0, first, last);

        attn_span_open(&span, i0, j0, cut);
        for (int64_t r = 0; span.open < span.n1 && r < TILE_ROWS; r++) {
            int64_t i = LH_MIN(i0 + r, last);

            rows.lo[r] = (int32_t)(begin[i] - j0);
            rows.hi[r] = (int32_t)(i - j0);
        }
        attn_scores(a, l->s[0], l->a[0], attn_packed(a, kv, t, PACK_KT, Q_KINDS), span);
        attn_scores(a, l->s[1], l->a[1], attn_packed(a, kv, t, PACK_VT, Q_KINDS), span);
        softmax_backward_q(a->tiles, &rows, l->s[0], l->s[1], l->w[0], span,
                           a->scale * (float)M_LOG2E, a->scale);
        attn_weigh(a, l->out[0], l->w[0], attn_packed(a, kv, t, PACK_K, Q_KINDS), span,
                   t > t_first);
    }
    cpu_copy_part(attn_head(a->dq, i0, n, h, a->D),
                  (struct kn_mat){l->out[0], KN_F32, n, a->D, a->Dp}, 0, n);
}

static void bwd_q_item(void *arg, int64_t item, int thread)
{
    const struct attn_bwd *b = arg;
    const struct attn *a = &b->a;
    struct attn_local l = attn_local(a, thread);
    int64_t i = item / a->n_tiles;
    /* Later queries cost more: every other head runs backwards, so that no thread gets all the long
     * ones. */
    int64_t t = i % 2 == 0 ? item % a->n_tiles : a->n_tiles - 1 - item % a->n_tiles;

    a->tiles->begin();
    for (int64_t i0 = t * BWD_ROWS; i0 < LH_MIN(a->T, (t + 1) * BWD_ROWS); i0 += TILE_ROWS)
        bwd_q_block(b, &l, a->kv0 * a->group + i, i0);
    a->tiles->end();
}

static void bwd_pack_q_item(void *arg, int64_t item, int thread)
{
    const struct attn *a = &((const struct attn_bwd *)arg)->a;
    int64_t i = item / a->n_tiles, t = item % a->n_tiles, i0 = t * TILE_TOKENS;
    int64_t n = LH_MIN(TILE_TOKENS, a->T - i0);
    int64_t h = (a->kv0 + i / a->n_g) * a->group + a->g0 + i % a->n_g;
    struct kn_mat q = attn_head(a->q, i0, n, h, a->D), d_o = attn_head(a->d_o, i0, n, h, a->D);

    (void)thread;
    attn_prefetch(a->q, i0, n, h, a->D);
    attn_prefetch(a->d_o, i0, n, h, a->D);
    tile_pack_transposed(a->tiles, attn_packed(a, i, t, PACK_QT, K_KINDS), a->Dp, q);
    tile_pack_transposed(a->tiles, attn_packed(a, i, t, PACK_DOT, K_KINDS), a->Dp, d_o);
    tile_pack_plain(a->tiles, attn_packed(a, i, t, PACK_Q, K_KINDS), a->Dp, q);
    tile_pack_plain(a->tiles, attn_packed(a, i, t, PACK_DO, K_KINDS), a->Dp, d_o);
}

/* The last query of a class that sees key j. begin never decreases, so the queries that do are a
 * run from j on. */
static int64_t bwd_last_query(const struct attn_bwd *b, const int32_t *begin, int64_t j)
{
    int64_t yes = j, no = b->a.T;

    while (no - yes > 1) {
        int64_t mid = yes + (no - yes) / 2;

        if (begin[mid] <= j)
            yes = mid;
        else
            no = mid;
    }
    return yes;
}

/* Adds what one query head gives to the keys [j0, j0 + n). packed_head: its place among the packed
 * ones. */
static void bwd_k_head(const struct attn_bwd *b, const struct attn_local *l, int64_t h,
                       int64_t packed_head, int64_t j0, int64_t n)
{
    const struct attn *a = &b->a;
    const int32_t *begin = b->begin[h >= a->seg->shift_from];
    int64_t last = bwd_last_query(b, begin, j0 + n - 1);

    for (int64_t t = j0 / TILE_TOKENS; t <= last / TILE_TOKENS; t++) {
        int64_t i0 = t * TILE_TOKENS;
        struct attn_span span = attn_span(i0, j0, last);
        struct softmax_cols cols = {.lse2 = b->lse2 + h * b->padded + i0,
                                    .delta = b->delta + h * b->padded + i0,
                                    .begin = begin + i0,
                                    .i0 = (int32_t)i0,
                                    .j0 = (int32_t)j0};

        if (i0 + span.n0 >= j0 + TILE_ROWS - 1 && begin[i0 + span.n1 - 1] <= j0)
            span.open = span.n1;
        attn_scores(a, l->s[0], l->a[0], attn_packed(a, packed_head, t, PACK_QT, K_KINDS), span);
        attn_scores(a, l->s[1], l->a[1], attn_packed(a, packed_head, t, PACK_DOT, K_KINDS), span);
        softmax_backward_k(a->tiles, cols, l->s[0], l->s[1], l->w[0], l->w[1], span,
                           a->scale * (float)M_LOG2E, a->scale);
        attn_weigh(a, l->out[0], l->w[1], attn_packed(a, packed_head, t, PACK_Q, K_KINDS), span,
                   true);
        attn_weigh(a, l->out[1], l->w[0], attn_packed(a, packed_head, t, PACK_DO, K_KINDS), span,
                   true);
    }
}

static void bwd_k_block(const struct attn_bwd *b, const struct attn_local *l, int64_t i, int64_t j0)
{
    const struct attn *a = &b->a;
    int64_t n = LH_MIN(TILE_ROWS, a->T - j0), kv = a->kv0 + i;
    size_t bytes = (size_t)(TILE_ROWS * a->Dp) * sizeof(float);

    tile_pack_a(a->tiles, l->a[0], a->Dp, attn_head(a->k, j0, n, kv, a->D));
    tile_pack_a(a->tiles, l->a[1], a->Dp, attn_head(a->v, j0, n, kv, a->D));
    attn_prefetch(a->k, j0 + TILE_ROWS, TILE_ROWS, kv, a->D);
    attn_prefetch(a->v, j0 + TILE_ROWS, TILE_ROWS, kv, a->D);
    for (int k = 0; k < 2; k++) {
        if (a->g0 == 0)
            memset(l->out[k], 0, bytes);
        else
            memcpy(l->out[k], (k == 0 ? b->dk : b->dv) + j0 * a->Dp, bytes);
    }
    for (int64_t g = 0; g < a->n_g; g++)
        bwd_k_head(b, l, kv * a->group + a->g0 + g, i * a->n_g + g, j0, n);
    if (a->g0 + a->n_g < a->group) {
        memcpy(b->dk + j0 * a->Dp, l->out[0], bytes);
        memcpy(b->dv + j0 * a->Dp, l->out[1], bytes);
        return;
    }
    cpu_copy_part(attn_head(a->dk, j0, n, kv, a->D),
                  (struct kn_mat){l->out[0], KN_F32, n, a->D, a->Dp}, 0, n);
    cpu_copy_part(attn_head(a->dv, j0, n, kv, a->D),
                  (struct kn_mat){l->out[1], KN_F32, n, a->D, a->Dp}, 0, n);
}

static void bwd_k_item(void *arg, int64_t item, int thread)
{
    const struct attn_bwd *b = arg;
    const struct attn *a = &b->a;
    struct attn_local l = attn_local(a, thread);
    int64_t i = item / a->n_tiles;
    int64_t t = i % 2 == 0 ? item % a->n_tiles : a->n_tiles - 1 - item % a->n_tiles;

    a->tiles->begin();
    for (int64_t j0 = t * BWD_ROWS; j0 < LH_MIN(a->T, (t + 1) * BWD_ROWS); j0 += TILE_ROWS)
        bwd_k_block(b, &l, i, j0);
    a->tiles->end();
}

/* Heads that a round may pack, of n heads of so many kinds of tile. */
static int64_t bwd_round(const struct attn *a, int64_t n, int64_t kinds)
{
    uint64_t bytes = (uint64_t)(a->n_tiles * kinds) * a->tile_bytes;

    return (int64_t)LH_MAX(1, LH_MIN((uint64_t)n, ATTN_PACK_MAX / LH_MAX(bytes, 1)));
}

static void bwd_sweep_q(struct attn_bwd *b, int64_t round)
{
    struct attn *a = &b->a;

    for (a->kv0 = 0; a->kv0 < a->KV; a->kv0 += round) {
        a->n_kv = LH_MIN(round, a->KV - a->kv0);
        pool_run(a->s->pool, a->n_kv * a->n_tiles, bwd_pack_kv_item, b);
        pool_run(a->s->pool, a->n_kv * a->group * a->n_tiles, bwd_q_item, b);
    }
}

/* round: query heads at a time. */
static void bwd_sweep_k(struct attn_bwd *b, int64_t round)
{
    struct attn *a = &b->a;
    int64_t kv_round = LH_MAX(1, round / a->group), g_round = LH_MIN(round, a->group);

    for (a->kv0 = 0; a->kv0 < a->KV; a->kv0 += kv_round) {
        a->n_kv = LH_MIN(kv_round, a->KV - a->kv0);
        for (a->g0 = 0; a->g0 < a->group; a->g0 += g_round) {
            a->n_g = LH_MIN(g_round, a->group - a->g0);
            pool_run(a->s->pool, a->n_kv * a->n_g * a->n_tiles, bwd_pack_q_item, b);
            pool_run(a->s->pool, a->n_kv * a->n_tiles, bwd_k_item, b);
        }
    }
}

static void attention_backward(struct attn_bwd *b)
{
    struct attn *a = &b->a;
    int64_t round_q, round_k, sums, padded;
    uint64_t packed;
    char *p;

    attn_init(a);
    b->padded = padded = a->n_tiles * TILE_TOKENS;
    round_q = bwd_round(a, a->KV, Q_KINDS);
    round_k = bwd_round(a, a->H, K_KINDS);
    packed = (uint64_t)(a->n_tiles * LH_MAX(round_q * Q_KINDS, round_k * K_KINDS)) * a->tile_bytes;
    sums = round_k < a->group ? padded * a->Dp : 0;
    p = stream_shared(a->s, packed + (uint64_t)(2 * a->H * padded + 2 * padded + 2 * sums) * 4);
    if (!p || !attn_local_reserve(a))
        return;
    a->packed = p;
    b->lse2 = (float *)(p + packed);
    b->delta = b->lse2 + a->H * padded;
    b->dk = b->delta + a->H * padded;
    b->dv = b->dk + sums;
    b->begin[0] = (int32_t *)(b->dv + sums);
    b->begin[1] = b->begin[0] + padded;
    pool_run(a->s->pool, a->n_tiles, bwd_stats_item, b);
    bwd_sweep_q(b, round_q);
    bwd_sweep_k(b, round_k);
}

void cpu_attention_bwd(struct kn_stream *s, struct kn_mat dq, struct kn_mat dk, struct kn_mat dv,
                       struct kn_mat d_o, struct kn_mat q, struct kn_mat k, struct kn_mat v,
                       struct kn_mat o, const float *lse, const struct kn_segments *seg, int64_t H,
                       int64_t KV, int64_t D, float scale)
{
    struct kn_check ck = cpu_check(s, "attention_bwd");
    struct attn_bwd b = {.a = {.s = s,
                               .q = q,
                               .k = k,
                               .v = v,
                               .o = o,
                               .d_o = d_o,
                               .dq = dq,
                               .dk = dk,
                               .dv = dv,
                               .seg = seg,
                               .T = seg->T,
                               .H = H,
                               .KV = KV,
                               .D = D,
                               .scale = scale},
                         .lse = lse};

    if (kn_check_attention(ck, q, k, v, seg->T, seg->T, (struct kn_heads){H, KV, D}) &&
        kn_check_same(ck, "q", q, "o", o) && kn_check_same(ck, "q", q, "d_o", d_o) &&
        kn_check_same(ck, "q", q, "dq", dq) && kn_check_same(ck, "k", k, "dk", dk) &&
        kn_check_same(ck, "k", k, "dv", dv))
        attention_backward(&b);
}
