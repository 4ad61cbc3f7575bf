/* attention_bwd.c - the backward pass of attention: five products a tile, no atomics and no T x T
 * matrix.
 *
 * First delta = rowsum(dO o O) of every row and head. Then every square of a tile of queries and a
 * tile of keys is visited once: scores and weights are computed, dq collects ds K, and dk and dv
 * collect ds^T Q and p^T dO. These are taken transposed (d rows, keys as columns): so ds and p are
 * the packed operand, which costs two shuffles, and nothing but Q, dO and K has to be transposed.
 *
 * The sums of a round of heads wait in fp32 scratch. Squares come in chunks of BWD_CHUNK tiles each
 * way, and chunks by diagonals: in phase p each chunk of keys meets the chunk of queries p after
 * it. So no two items of a phase add to the same sums, and the order of a sum is that of the phases
 * and of the squares in a chunk, whatever the number of threads. What a chunk reads and adds to
 * stays in L2. When a group's tiles and sums exceed ATTN_PACK_MAX, its query heads are taken in
 * parts.
 */
#include "kernels/cpu/attention.h"
#include "kernels/cpu/vec.h"
#include <math.h>
#include <string.h>

#define BWD_CHUNK 4 /* tiles */
#define BWD_PANELS (TILE_TOKENS / TILE_STEP)

enum { PACK_KT, PACK_VT, PACK_K, KV_KINDS }; /* of a kv head */
enum { PACK_QA, PACK_DOA, Q_KINDS };         /* of a query head: transposed, plain rows */

struct attn_bwd {
    struct attn a;
    const float *lse;
    int64_t padded;      /* T as whole tiles */
    float *lse2, *delta; /* (H, padded): lse in powers of two; zeros past T */

    int64_t g0, n_g;     /* query heads packed now: of each group, those from g0 on */
    int64_t phase;       /* chunks from keys to queries */
    char *q_packed;      /* like a.packed, for query heads */
    float *dq, *dk, *dv; /* sums of the round: tile by tile, (TILE_TOKENS, Dp) or ... */
    int64_t kv_round, g_round;
};

/* One thread's scratch. */
struct bwd_local {
    void *a[2];       /* TILE_ROWS x Dp: operands */
    float *s, *dp;    /* TILE_ROWS x TILE_STEP: products */
    void *ds;         /* TILE_ROWS x TILE_TOKENS: operand */
    char *p_b, *ds_b; /* TILE_TOKENS x TILE_TOKENS in panels: packed operands */
};

static bool bwd_local_reserve(const struct attn *a)
{
    return stream_local(a->s,
                        4 * (uint64_t)(2 * TILE_ROWS * a->Dp + 2 * TILE_ROWS * TILE_STEP +
                                       TILE_ROWS * TILE_TOKENS + 2 * TILE_TOKENS * TILE_TOKENS));
}

static struct bwd_local bwd_local(const struct attn *a, int thread)
{
    float *p = a->s->local[thread].p;
    float *s = p + 2 * TILE_ROWS * a->Dp, *ds = s + 2 * TILE_ROWS * TILE_STEP,
          *p_b = ds + TILE_ROWS * TILE_TOKENS;

    return (struct bwd_local){
        .a = {p, p + TILE_ROWS * a->Dp},
        .s = s,
        .dp = s + TILE_ROWS * TILE_STEP,
        .ds = ds,
        .p_b = (char *)p_b,
        .ds_b = (char *)(p_b + TILE_TOKENS * TILE_TOKENS),
    };
}

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
    }
}

/* Where the sums of tile t of the i-th head are. */
static float *bwd_sums(const struct attn *a, float *sums, int64_t i, int64_t t)
{
    return sums + (i * a->n_tiles + t) * TILE_TOKENS * a->Dp;
}

static void bwd_clear(const struct attn *a, float *sums, int64_t i, int64_t t)
{
    memset(bwd_sums(a, sums, i, t), 0, (size_t)(TILE_TOKENS * a->Dp) * sizeof(float));
}

static void bwd_pack_kv_item(void *arg, int64_t item, int thread)
{
    const struct attn_bwd *b = arg;
    const struct attn *a = &b->a;
    int64_t i = item / a->n_tiles, t = item % a->n_tiles, j0 = t * TILE_TOKENS;
    int64_t n = LH_MIN(TILE_TOKENS, a->T - j0);
    struct kn_mat k = attn_head(a->k, j0, n, a->kv0 + i, a->D),
                  v = attn_head(a->v, j0, n, a->kv0 + i, a->D);

    (void)thread;
    attn_prefetch(a->k, j0, n, a->kv0 + i, a->D);
    attn_prefetch(a->v, j0, n, a->kv0 + i, a->D);
    tile_pack_transposed(a->tiles, attn_packed(a, i, t, PACK_KT, KV_KINDS), a->Dp, k);
    tile_pack_transposed(a->tiles, attn_packed(a, i, t, PACK_VT, KV_KINDS), a->Dp, v);
    tile_pack_plain(a->tiles, attn_packed(a, i, t, PACK_K, KV_KINDS), a->Dp, k);
    bwd_clear(a, b->dk, i, t);
    bwd_clear(a, b->dv, i, t);
}

/* The i-th packed query head. */
static int64_t bwd_head(const struct attn_bwd *b, int64_t i)
{
    return (b->a.kv0 + i / b->n_g) * b->a.group + b->g0 + i % b->n_g;
}

static char *bwd_packed_q(const struct attn_bwd *b, int64_t i, int64_t t, int64_t kind)
{
    return b->q_packed + (uint64_t)((i * b->a.n_tiles + t) * Q_KINDS + kind) * b->a.tile_bytes;
}

static void bwd_pack_q_item(void *arg, int64_t item, int thread)
{
    const struct attn_bwd *b = arg;
    const struct attn *a = &b->a;
    int64_t i = item / a->n_tiles, t = item % a->n_tiles, i0 = t * TILE_TOKENS;
    int64_t n = LH_MIN(TILE_TOKENS, a->T - i0), h = bwd_head(b, i);

    (void)thread;
    attn_prefetch(a->q, i0, n, h, a->D);
    attn_prefetch(a->d_o, i0, n, h, a->D);
    tile_pack_a_transposed(a->tiles, bwd_packed_q(b, i, t, PACK_QA), a->Dp,
                           attn_head(a->q, i0, n, h, a->D));
    tile_pack_a_transposed(a->tiles, bwd_packed_q(b, i, t, PACK_DOA), a->Dp,
                           attn_head(a->d_o, i0, n, h, a->D));
    bwd_clear(a, b->dq, i, t);
}

struct bwd_rows {
    const void *p;
    int64_t ld;
};

/* Rows as the a of a product: where they are if they have its form, else copied. */
static struct bwd_rows bwd_rows(const struct attn *a, void *copy, struct kn_mat x)
{
    if (x.rows == TILE_ROWS && x.cols == a->Dp && (x.t == KN_BF16) == a->tiles->pairs)
        return (struct bwd_rows){x.p, x.ld};
    tile_pack_a(a->tiles, copy, a->Dp, x);
    return (struct bwd_rows){copy, a->Dp};
}

/* A square: tile tq of a query head (the q_i-th packed, number h) by tile tk of its kv head (the
 * kv_i-th). */
struct bwd_square {
    int64_t h, q_i, kv_i, tq, tk;
    int64_t first[BWD_PANELS], end[BWD_PANELS]; /* queries of the tile that see a panel of keys */
};

/* TILE_ROWS queries from r0 of the tile on: their weights, and dq. */
static void bwd_square_rows(const struct attn_bwd *b, const struct bwd_local *l,
                            struct bwd_square *sq, int64_t r0)
{
    const struct attn *a = &b->a;
    const int32_t *begin = attn_begin(a, sq->h);
    int64_t i0 = sq->tq * TILE_TOKENS + r0, j0 = sq->tk * TILE_TOKENS;
    int64_t n = LH_MIN(TILE_ROWS, a->T - i0), last = i0 + n - 1;
    int64_t panel = tile_panel(a->tiles, a->Dp), tall = tile_panel(a->tiles, TILE_TOKENS);
    struct attn_span span = attn_span(j0, begin[i0], last);
    struct bwd_rows q, d_o;
    struct softmax_rows rows;

    if (span.n0 >= span.n1)
        return;
    attn_span_open(&span, i0, j0, begin[last]);
    memcpy(rows.base, b->lse2 + sq->h * b->padded + i0, sizeof(rows.base));
    memcpy(rows.factor, b->delta + sq->h * b->padded + i0, sizeof(rows.factor));
    for (int64_t r = 0; span.open < span.n1 && r < TILE_ROWS; r++) {
        int64_t i = LH_MIN(i0 + r, last);

        rows.lo[r] = (int32_t)(begin[i] - j0);
        rows.hi[r] = (int32_t)(i - j0);
    }
    q = bwd_rows(a, l->a[0], attn_head(a->q, i0, n, sq->h, a->D));
    d_o = bwd_rows(a, l->a[1], attn_head(a->d_o, i0, n, sq->h, a->D));
    for (int64_t c = span.n0; c < span.n1; c += TILE_STEP) {
        int64_t p = c / TILE_STEP, at = (p * tall + tile_panel(a->tiles, r0)) * 4;
        struct softmax_out out = {.ds = (char *)l->ds + c * tile_element(a->tiles),
                                  .p_b = l->p_b + at,
                                  .ds_b = l->ds_b + at};

        a->tiles->product(TILE_STEP, a->Dp, q.p, q.ld,
                          attn_packed(a, sq->kv_i, sq->tk, PACK_KT, KV_KINDS) + p * panel * 4,
                          panel, l->s, TILE_STEP, false);
        a->tiles->product(TILE_STEP, a->Dp, d_o.p, d_o.ld,
                          attn_packed(a, sq->kv_i, sq->tk, PACK_VT, KV_KINDS) + p * panel * 4,
                          panel, l->dp, TILE_STEP, false);
        softmax_backward(a->tiles, &rows, c, c >= span.open, l->s, l->dp, out,
                         a->scale * (float)M_LOG2E);
        if (sq->end[p] == 0)
            sq->first[p] = r0;
        sq->end[p] = r0 + TILE_ROWS;
    }
    attn_weigh(a, bwd_sums(a, b->dq, sq->q_i, sq->tq) + r0 * a->Dp, l->ds,
               attn_packed(a, sq->kv_i, sq->tk, PACK_K, KV_KINDS), span, true);
}

/* sums (Dp x TILE_TOKENS, in panels of keys) += rows (Dp x TILE_TOKENS queries) times weights. */
static void bwd_square_cols(const struct attn *a, const struct bwd_square *sq, float *sums,
                            const char *rows, const char *weights)
{
    int64_t element = tile_element(a->tiles), tall = tile_panel(a->tiles, TILE_TOKENS);

    for (int64_t p = 0; p < BWD_PANELS; p++) {
        const char *from = weights + (p * tall + tile_panel(a->tiles, sq->first[p])) * 4;

        for (int64_t d = 0; d < a->Dp && sq->end[p] > 0; d += TILE_ROWS)
            a->tiles->product(TILE_STEP, sq->end[p] - sq->first[p],
                              rows + (d * TILE_TOKENS + sq->first[p]) * element, TILE_TOKENS, from,
                              tall, sums + (p * a->Dp + d) * TILE_STEP, TILE_STEP, true);
    }
}

static void bwd_square(const struct attn_bwd *b, const struct bwd_local *l, struct bwd_square sq)
{
    const struct attn *a = &b->a;
    int64_t n = LH_MIN(TILE_TOKENS, a->T - sq.tq * TILE_TOKENS);

    for (int64_t r0 = 0; r0 < n; r0 += TILE_ROWS)
        bwd_square_rows(b, l, &sq, r0);
    bwd_square_cols(a, &sq, bwd_sums(a, b->dv, sq.kv_i, sq.tk),
                    bwd_packed_q(b, sq.q_i, sq.tq, PACK_DOA), l->p_b);
    bwd_square_cols(a, &sq, bwd_sums(a, b->dk, sq.kv_i, sq.tk),
                    bwd_packed_q(b, sq.q_i, sq.tq, PACK_QA), l->ds_b);
}

/* One chunk of keys of a kv head, with the chunk of queries that this phase gives it. */
static void bwd_chunk_item(void *arg, int64_t item, int thread)
{
    const struct attn_bwd *b = arg;
    const struct attn *a = &b->a;
    struct bwd_local l = bwd_local(a, thread);
    int64_t i = item % a->n_kv, k0 = item / a->n_kv * BWD_CHUNK;
    int64_t q0 = k0 + b->phase * BWD_CHUNK;

    a->tiles->begin();
    for (int64_t g = 0; g < b->n_g; g++) {
        struct bwd_square sq = {.kv_i = i, .q_i = i * b->n_g + g};
        const int32_t *begin;

        sq.h = bwd_head(b, sq.q_i);
        begin = attn_begin(a, sq.h);
        for (sq.tk = k0; sq.tk < LH_MIN(a->n_tiles, k0 + BWD_CHUNK); sq.tk++) {
            for (sq.tq = LH_MAX(q0, sq.tk); sq.tq < LH_MIN(a->n_tiles, q0 + BWD_CHUNK); sq.tq++) {
                if (begin[sq.tq * TILE_TOKENS] < (sq.tk + 1) * TILE_TOKENS)
                    bwd_square(b, &l, sq);
            }
        }
    }
    a->tiles->end();
}

static void bwd_finish_q_item(void *arg, int64_t item, int thread)
{
    const struct attn_bwd *b = arg;
    const struct attn *a = &b->a;
    int64_t i = item / a->n_tiles, t = item % a->n_tiles, i0 = t * TILE_TOKENS;
    const float *sums = bwd_sums(a, b->dq, i, t);
    struct kn_mat dq = attn_head(a->dq, i0, LH_MIN(TILE_TOKENS, a->T - i0), bwd_head(b, i), a->D);

    (void)thread;
    for (int64_t r = 0; r < dq.rows; r++)
        for (int64_t d = 0; d < a->D; d += VEC)
            vf_store(dq, r, d, a->D - d, *(const vf *)(sums + r * a->Dp + d) * a->scale);
}

/* x = sums^T * factor. */
static void bwd_finish_transposed(const struct attn *a, struct kn_mat x, const float *sums,
                                  float factor)
{
    for (int64_t j = 0; j < x.rows; j += VEC) {
        for (int64_t d = 0; d < a->D; d += VEC) {
            vu block[VEC];

            for (int64_t k = 0; k < VEC; k++)
                block[k] = *(const vu *)(sums + (j / TILE_STEP * a->Dp + d + k) * TILE_STEP +
                                         j % TILE_STEP);
            vu_transpose(block);
            for (int64_t k = 0; k < LH_MIN(VEC, x.rows - j); k++)
                vf_store(x, j + k, d, a->D - d, (vf)block[k] * factor);
        }
    }
}

static void bwd_finish_kv_item(void *arg, int64_t item, int thread)
{
    const struct attn_bwd *b = arg;
    const struct attn *a = &b->a;
    int64_t i = item / a->n_tiles, t = item % a->n_tiles, j0 = t * TILE_TOKENS;
    int64_t n = LH_MIN(TILE_TOKENS, a->T - j0);

    (void)thread;
    bwd_finish_transposed(a, attn_head(a->dk, j0, n, a->kv0 + i, a->D), bwd_sums(a, b->dk, i, t),
                          a->scale);
    bwd_finish_transposed(a, attn_head(a->dv, j0, n, a->kv0 + i, a->D), bwd_sums(a, b->dv, i, t),
                          1.0f);
}

/* The most chunks that lie between a query and a key it sees, and one. */
static int64_t bwd_phases(const struct attn *a)
{
    int64_t most = 0, chunk = BWD_CHUNK * TILE_TOKENS;

    for (int c = 0; c < 2; c++)
        for (int64_t i = 0; i < a->T; i += chunk)
            most = LH_MAX(most, i / chunk - a->seg->begin[c][i] / chunk);
    return most + 1;
}

static void bwd_run(struct attn_bwd *b)
{
    struct attn *a = &b->a;
    struct pool *pool = a->s->pool;
    int64_t phases = bwd_phases(a), chunks = (a->n_tiles + BWD_CHUNK - 1) / BWD_CHUNK;

    pool_run(pool, a->n_tiles, bwd_stats_item, b);
    for (a->kv0 = 0; a->kv0 < a->KV; a->kv0 += b->kv_round) {
        a->n_kv = LH_MIN(b->kv_round, a->KV - a->kv0);
        pool_run(pool, a->n_kv * a->n_tiles, bwd_pack_kv_item, b);
        for (b->g0 = 0; b->g0 < a->group; b->g0 += b->g_round) {
            b->n_g = LH_MIN(b->g_round, a->group - b->g0);
            pool_run(pool, a->n_kv * b->n_g * a->n_tiles, bwd_pack_q_item, b);
            for (b->phase = 0; b->phase < phases; b->phase++)
                pool_run(pool, a->n_kv * (chunks - b->phase), bwd_chunk_item, b);
            pool_run(pool, a->n_kv * b->n_g * a->n_tiles, bwd_finish_q_item, b);
        }
        pool_run(pool, a->n_kv * a->n_tiles, bwd_finish_kv_item, b);
    }
}

static void attention_backward(struct attn_bwd *b)
{
    struct attn *a = &b->a;
    uint64_t sum, kv_bytes, q_bytes, heads;
    int64_t kv, q;
    char *p;

    attn_init(a);
    b->padded = a->n_tiles * TILE_TOKENS;
    sum = (uint64_t)(b->padded * a->Dp) * sizeof(float);
    kv_bytes = (uint64_t)(a->n_tiles * KV_KINDS) * a->tile_bytes + 2 * sum;
    q_bytes = (uint64_t)(a->n_tiles * Q_KINDS) * a->tile_bytes + sum;
    b->kv_round = kv = (int64_t)LH_MAX(
        1, LH_MIN((uint64_t)a->KV,
                  ATTN_PACK_MAX / LH_MAX(1, kv_bytes + (uint64_t)a->group * q_bytes)));
    heads = (LH_MAX(ATTN_PACK_MAX, kv_bytes) - kv_bytes) / LH_MAX(1, q_bytes);
    b->g_round = kv > 1 ? a->group : (int64_t)LH_MAX(1, LH_MIN((uint64_t)a->group, heads));
    q = kv * b->g_round;
    p = stream_shared(a->s, (uint64_t)kv * kv_bytes + (uint64_t)q * q_bytes +
                                (uint64_t)(2 * a->H * b->padded) * sizeof(float));
    if (!p || !bwd_local_reserve(a))
        return;
    a->packed = p;
    b->q_packed = p + (uint64_t)(kv * a->n_tiles * KV_KINDS) * a->tile_bytes;
    b->dk = (float *)(b->q_packed + (uint64_t)(q * a->n_tiles * Q_KINDS) * a->tile_bytes);
    b->dv = b->dk + kv * b->padded * a->Dp;
    b->dq = b->dv + kv * b->padded * a->Dp;
    b->lse2 = b->dq + q * b->padded * a->Dp;
    b->delta = b->lse2 + a->H * b->padded;
    bwd_run(b);
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
