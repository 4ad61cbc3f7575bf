/* attention_bwd.c - the backward pass of attention: no atomics and no T x T matrix.
 *
 * Every square of a tile of queries and a tile of keys is visited once (attention_square.c). The
 * sums of a round of heads wait in fp32 scratch. Squares come in chunks of BWD_CHUNK tiles each
 * way, and chunks by diagonals: in phase p each chunk of keys meets the chunk of queries p after
 * it. So no two items of a phase add to the same sums, and the order of a sum is that of the phases
 * and of the squares in a chunk, whatever the number of threads. Phase 0 meets every chunk once,
 * with itself, and packs it; whoever adds to a chunk last writes its gradients: so what an item
 * touches stays in L2. A long sequence is taken in bands of keys, all phases of one before those of
 * the next. How many kv heads make a round and how many chunks a band depends on the threads, and
 * changes no sum. Where queries see few phases back, only the tiles and sums of a band and of those
 * who see it exist at a time. Else, when a group's tiles and sums exceed ATTN_PACK_MAX, its query
 * heads are taken in parts.
 */
#include "kernels/cpu/attention_bwd.h"
#include "kernels/cpu/vec.h"
#include <math.h>

#define BWD_CHUNK 2
/* Of a thread in a phase; the rest waits, so that scratch stays in or near L2. */
#define BWD_ITEMS 4

static float bwd_dot(struct kn_mat x, struct kn_mat y)
{
    vf sum = {0};

    for (int64_t d = 0; d < x.cols; d += VEC)
        sum += vf_load(x, 0, d, x.cols - d) * vf_load(y, 0, d, x.cols - d);
    return vf_sum(sum);
}

/* The number of the i-th packed query head. */
static int64_t bwd_head(const struct attn_bwd *b, int64_t i)
{
    return (b->a.kv0 + i / b->n_g) * b->a.group + b->g0 + i % b->n_g;
}

static void bwd_pack_kv(const struct attn *a, int64_t i, int64_t t)
{
    int64_t j0 = t * TILE_TOKENS, n = LH_MIN(TILE_TOKENS, a->T - j0);
    struct kn_mat k = attn_head(a->k, j0, n, a->kv0 + i, a->D),
                  v = attn_head(a->v, j0, n, a->kv0 + i, a->D);

    attn_prefetch(a->k, j0, n, a->kv0 + i, a->D);
    attn_prefetch(a->v, j0, n, a->kv0 + i, a->D);
    a->tiles->pack->transposed(a->tiles, attn_packed(a, i, t, PACK_KT, KV_KINDS), a->Dp, k);
    a->tiles->pack->transposed(a->tiles, attn_packed(a, i, t, PACK_VT, KV_KINDS), a->Dp, v);
    a->tiles->pack->plain(a->tiles, attn_packed(a, i, t, PACK_K, KV_KINDS), a->Dp, k);
}

/* With its statistics: delta = rowsum(dO o O). */
static void bwd_pack_q(const struct attn_bwd *b, int64_t i, int64_t t)
{
    const struct attn *a = &b->a;
    int64_t i0 = t * TILE_TOKENS, n = LH_MIN(TILE_TOKENS, a->T - i0), h = bwd_head(b, i);
    int64_t at = attn_place(a, i, t) * TILE_TOKENS;
    struct kn_mat q = attn_head(a->q, i0, n, h, a->D), d_o = attn_head(a->d_o, i0, n, h, a->D);

    attn_prefetch(a->d_o, i0, n, h, a->D);
    attn_prefetch(a->q, i0, n, h, a->D);
    attn_prefetch(a->o, i0, n, h, a->D);
    a->tiles->pack->a_transposed(a->tiles, bwd_packed_q(b, i, t, PACK_DOA), a->Dp, d_o);
    a->tiles->pack->a_transposed(a->tiles, bwd_packed_q(b, i, t, PACK_QA), a->Dp, q);
    for (int64_t r = 0; a->tiles->form == TILE_SPLIT && r < n; r += TILE_ROWS) {
        int64_t at_row = r * a->Dp * a->tiles->element, rows = LH_MIN(TILE_ROWS, n - r);

        a->tiles->pack->a(a->tiles, bwd_packed_q(b, i, t, PACK_Q) + at_row, a->Dp,
                          kn_rows(q, r, rows));
        a->tiles->pack->a(a->tiles, bwd_packed_q(b, i, t, PACK_DO) + at_row, a->Dp,
                          kn_rows(d_o, r, rows));
    }
    for (int64_t r = 0; r < TILE_TOKENS; r++) {
        b->lse2[at + r] = r < n ? b->lse[h * a->T + i0 + r] * (float)M_LOG2E : 0.0f;
        b->delta[at + r] =
            r < n ? bwd_dot(kn_sub(d_o, r, 1, 0, a->D), attn_head(a->o, i0 + r, 1, h, a->D)) : 0.0f;
    }
}

static void bwd_finish_q(const struct attn_bwd *b, int64_t i, int64_t t)
{
    const struct attn *a = &b->a;
    int64_t i0 = t * TILE_TOKENS, n = LH_MIN(TILE_TOKENS, a->T - i0), h = bwd_head(b, i);
    const float *sums = bwd_sums(a, b->dq, i, t);
    struct kn_mat dq = attn_head(a->dq, i0, n, h, a->D);

    attn_prefetch(a->dq, i0, n, h, a->D);
    for (int64_t r = 0; r < n; r++)
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

static void bwd_finish_kv(const struct attn_bwd *b, int64_t i, int64_t t)
{
    const struct attn *a = &b->a;
    int64_t j0 = t * TILE_TOKENS, n = LH_MIN(TILE_TOKENS, a->T - j0), h = a->kv0 + i;

    attn_prefetch(a->dk, j0, n, h, a->D);
    attn_prefetch(a->dv, j0, n, h, a->D);
    bwd_finish_transposed(a, attn_head(a->dk, j0, n, h, a->D), bwd_sums(a, b->dk, i, t), a->scale);
    bwd_finish_transposed(a, attn_head(a->dv, j0, n, h, a->D), bwd_sums(a, b->dv, i, t), 1.0f);
}

/* A query head's part of an item. */
static void bwd_chunk_head(const struct attn_bwd *b, const struct bwd_local *l,
                           struct bwd_square sq)
{
    const struct attn *a = &b->a;
    const int32_t *begin = attn_begin(a, sq.h);
    int64_t q0 = sq.tk0 + b->phase * BWD_CHUNK, end = LH_MIN(a->n_tiles, sq.tk0 + BWD_CHUNK),
            q_end = LH_MIN(a->n_tiles, q0 + BWD_CHUNK);
    int64_t left = b->phases[sq.h >= a->seg->shift_from] - b->phase;

    for (int64_t t = q0; b->phase == 0 && t < q_end; t++)
        bwd_pack_q(b, sq.q_i, t);
    for (sq.tk = sq.tk0; sq.tk < end; sq.tk++)
        for (sq.tq = LH_MAX(q0, sq.tk); sq.tq < q_end; sq.tq++)
            if (begin[sq.tq * TILE_TOKENS] < (sq.tk + 1) * TILE_TOKENS)
                bwd_square_add(b, l, sq);
    if (left == 1 || (left > 1 && sq.tk0 == 0)) /* no phase, or no key, is left for the queries */
        for (int64_t t = q0; t < q_end; t++)
            bwd_finish_q(b, sq.q_i, t);
}

/* One chunk of keys of a kv head, with the chunk of queries that this phase gives it. */
static void bwd_chunk_item(void *arg, int64_t item, int thread)
{
    const struct attn_bwd *b = arg;
    const struct attn *a = &b->a;
    struct bwd_local l = bwd_local_of(a, thread);
    int64_t i = item % a->n_kv, chunk = b->chunk0 + item / a->n_kv, t0 = chunk * BWD_CHUNK;
    int64_t end = LH_MIN(a->n_tiles, t0 + BWD_CHUNK);
    int64_t phases = LH_MIN(LH_MAX(b->phases[0], b->phases[1]), b->n_chunks - chunk);

    a->tiles->begin();
    for (int64_t t = t0; b->phase == 0 && b->g0 == 0 && t < end; t++)
        bwd_pack_kv(a, i, t);
    for (int64_t q_i = i * b->n_g; q_i < (i + 1) * b->n_g; q_i++)
        bwd_chunk_head(
            b, &l, (struct bwd_square){.h = bwd_head(b, q_i), .q_i = q_i, .kv_i = i, .tk0 = t0});
    for (int64_t t = t0; b->phase == phases - 1 && b->g0 + b->n_g == a->group && t < end; t++)
        bwd_finish_kv(b, i, t);
    a->tiles->end();
}

/* The most chunks that lie between a query and a key it sees, and one. */
static int64_t bwd_phases(const struct attn *a, const int32_t *begin)
{
    int64_t most = 0, chunk = BWD_CHUNK * TILE_TOKENS;

    for (int64_t i = 0; i < a->T; i += chunk)
        most = LH_MAX(most, i / chunk - begin[i] / chunk);
    return most + 1;
}

/* All bands, from the last: queries meet the keys of their own band before those of earlier ones,
 * as they would in one band. */
static void bwd_heads(struct attn_bwd *b)
{
    int64_t phases = LH_MAX(b->phases[0], b->phases[1]), band = b->band;

    for (b->chunk0 = (b->n_chunks - 1) / band * band; b->chunk0 >= 0; b->chunk0 -= band) {
        for (b->phase = 0; b->phase < LH_MIN(phases, b->n_chunks - b->chunk0); b->phase++) {
            int64_t n = LH_MIN(band, b->n_chunks - b->chunk0 - b->phase);

            pool_run(b->a.s->pool, b->a.n_kv * n, bwd_chunk_item, b);
        }
    }
}

static void bwd_run(struct attn_bwd *b)
{
    struct attn *a = &b->a;

    for (a->kv0 = 0; a->kv0 < a->KV; a->kv0 += b->kv_round) {
        a->n_kv = LH_MIN(b->kv_round, a->KV - a->kv0);
        for (b->g0 = 0; b->g0 < a->group; b->g0 += b->g_round) {
            b->n_g = LH_MIN(b->g_round, a->group - b->g0);
            bwd_heads(b);
        }
    }
}

/* How many of n pieces fit into what ATTN_PACK_MAX leaves; at least one. */
static int64_t bwd_fit(uint64_t used, uint64_t bytes, int64_t n)
{
    uint64_t left = ATTN_PACK_MAX > used ? ATTN_PACK_MAX - used : 0;

    return (int64_t)LH_MAX(1, LH_MIN((uint64_t)n, left / LH_MAX(1, bytes)));
}

/* Of a kv head. */
static uint64_t bwd_kv_bytes(const struct attn *a, int64_t ring)
{
    return (uint64_t)ring *
           (KV_KINDS * a->tile_bytes + (uint64_t)(2 * TILE_TOKENS * a->Dp) * sizeof(float));
}

/* Of a query head. */
static uint64_t bwd_q_bytes(const struct attn_bwd *b, int64_t ring)
{
    return (uint64_t)ring * ((uint64_t)b->q_kinds * b->a.tile_bytes +
                             (uint64_t)(TILE_TOKENS * (b->a.Dp + 2)) * sizeof(float));
}

/* How many heads, and how many of their tiles, are packed at a time: of a short sequence as many
 * heads as make up for a band and what sees it, of a long one no more tiles than these. */
static void bwd_shape(struct attn_bwd *b)
{
    struct attn *a = &b->a;
    int64_t chunks = b->band + attn_back(a, BWD_CHUNK * TILE_TOKENS), near = chunks * BWD_CHUNK;
    int64_t kv = LH_MAX(1, chunks / LH_MAX(1, b->n_chunks));
    uint64_t kv_bytes = bwd_kv_bytes(a, a->n_tiles), q_bytes = bwd_q_bytes(b, a->n_tiles);
    uint64_t near_bytes = bwd_kv_bytes(a, near) + (uint64_t)a->group * bwd_q_bytes(b, near);

    a->ring = a->n_tiles;
    b->kv_round = bwd_fit(0, kv_bytes + (uint64_t)a->group * q_bytes, LH_MIN(kv, a->KV));
    b->g_round = bwd_fit(kv_bytes, q_bytes, a->group);
    if (near < a->n_tiles && near_bytes <= kv_bytes + (uint64_t)b->g_round * q_bytes) {
        a->ring = near;
        b->g_round = a->group;
    }
}

static void attention_backward(struct attn_bwd *b)
{
    struct attn *a = &b->a;
    int64_t q, sums;
    char *p;

    attn_init(a);
    b->q_kinds = a->tiles->form == TILE_SPLIT ? 4 : 2;
    b->n_chunks = (a->n_tiles + BWD_CHUNK - 1) / BWD_CHUNK;
    b->band = BWD_ITEMS * a->s->threads;
    for (int c = 0; c < 2; c++)
        b->phases[c] = bwd_phases(a, a->seg->begin[c]);
    bwd_shape(b);
    q = b->kv_round * b->g_round;
    p = stream_shared(a->s, (uint64_t)b->kv_round * bwd_kv_bytes(a, a->ring) +
                                (uint64_t)q * bwd_q_bytes(b, a->ring));
    if (!p || !bwd_local_reserve(a))
        return;
    sums = a->ring * TILE_TOKENS * a->Dp;
    a->packed = p;
    b->q_packed = p + (uint64_t)(b->kv_round * a->ring * KV_KINDS) * a->tile_bytes;
    b->dk = (float *)(b->q_packed + (uint64_t)(q * a->ring * b->q_kinds) * a->tile_bytes);
    b->dv = b->dk + b->kv_round * sums;
    b->dq = b->dv + b->kv_round * sums;
    b->lse2 = b->dq + q * sums;
    b->delta = b->lse2 + q * a->ring * TILE_TOKENS;
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
