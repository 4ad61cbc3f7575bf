/* attention_square.c - the backward pass of attention for one tile of queries and one of keys: five
 * products. See attention_bwd.h.
 *
 * Scores and weights are computed, dq collects ds K, and dk and dv collect ds^T Q and p^T dO. These
 * two are taken transposed (d as rows, keys as columns): so p and ds are the packed operand, which
 * costs a shuffle, and only Q and dO have to be transposed.
 */
#include "kernels/cpu/attention_bwd.h"
#include <math.h>
#include <string.h>

/* Keys whose scores wait at a time. Each change between products and other work costs the split
 * form some 0.1 us; with bf16 it is more that scores stay near. */
static int64_t bwd_width(const struct attn *a)
{
    return a->tiles->form == TILE_SPLIT ? TILE_TOKENS : TILE_STEP;
}

bool bwd_local_reserve(const struct attn *a)
{
    int64_t operands = 2 * TILE_ROWS * a->Dp + (TILE_ROWS + 2 * TILE_TOKENS) * TILE_TOKENS;

    return stream_local(
        a->s, (uint64_t)(2 * TILE_ROWS * bwd_width(a) * 4 + operands * a->tiles->element));
}

struct bwd_local bwd_local_of(const struct attn *a, int thread)
{
    int64_t element = a->tiles->element;
    float *s = a->s->local[thread].p, *dp = s + TILE_ROWS * bwd_width(a);
    char *q = (char *)(dp + TILE_ROWS * bwd_width(a)), *d_o = q + TILE_ROWS * a->Dp * element;
    char *ds = d_o + TILE_ROWS * a->Dp * element, *p_b = ds + TILE_ROWS * TILE_TOKENS * element;

    return (struct bwd_local){.a = {q, d_o},
                              .s = s,
                              .dp = dp,
                              .ds = ds,
                              .p_b = p_b,
                              .ds_b = p_b + TILE_TOKENS * TILE_TOKENS * element};
}

/* The a of a product. */
struct bwd_rows {
    const void *p;
    int64_t ld;
};

/* Up to TILE_ROWS rows x, from r0 of a tile of queries on: in the split form they lie packed as
 * this kind; else they stay where they are if they have the tiles' form, and are copied if not. */
static struct bwd_rows bwd_operand(const struct attn_bwd *b, const struct bwd_square *sq,
                                   int64_t kind, int64_t r0, void *copy, struct kn_mat x)
{
    const struct attn *a = &b->a;
    int64_t element = a->tiles->element;

    if (a->tiles->form == TILE_SPLIT)
        return (struct bwd_rows){bwd_packed_q(b, sq->q_i, sq->tq, kind) + r0 * a->Dp * element,
                                 a->Dp};
    if (x.rows == TILE_ROWS && x.cols == a->Dp && (int64_t)kn_dtype_bytes(x.t) == element)
        return (struct bwd_rows){x.p, x.ld};
    a->tiles->pack->a(a->tiles, copy, a->Dp, x);
    return (struct bwd_rows){copy, a->Dp};
}

/* sums (panels of TILE_ROWS x TILE_STEP) = rows times the span's columns of a transposed tile. */
static void bwd_scores(const struct attn *a, float *sums, struct bwd_rows rows, const char *tile,
                       struct attn_span span)
{
    int64_t panel = tile_panel(a->tiles, a->Dp);

    for (int64_t c = span.n0; c < span.n1; c += TILE_STEP, sums += TILE_ROWS * TILE_STEP)
        a->tiles->product(TILE_STEP, a->Dp, rows.p, rows.ld, tile + c / TILE_STEP * panel * 4,
                          panel, sums, TILE_STEP, false);
}

/* Scores of the span's columns to weights. */
static void bwd_weights(const struct attn *a, const struct bwd_local *l, struct bwd_square *sq,
                        int64_t r0, const struct softmax_rows *rows, struct attn_span span)
{
    int64_t tall = tile_panel(a->tiles, TILE_TOKENS), at = 0;

    for (int64_t c = span.n0; c < span.n1; c += TILE_STEP, at += TILE_ROWS * TILE_STEP) {
        int64_t p = c / TILE_STEP, row = (p * tall + tile_panel(a->tiles, r0)) * 4;
        struct softmax_out out = {.ds = (char *)l->ds + c * a->tiles->element,
                                  .p_b = l->p_b + row,
                                  .ds_b = l->ds_b + row};

        if (at > 0)
            a->tiles->awake();
        softmax_backward(a->tiles, rows, c, c >= span.open, l->s + at, l->dp + at, out,
                         a->scale * (float)M_LOG2E);
        if (sq->end[p] == 0)
            sq->first[p] = r0;
        sq->end[p] = r0 + TILE_ROWS;
    }
}

/* TILE_ROWS queries from r0 of the tile on: their weights, and dq. */
static void bwd_square_rows(const struct attn_bwd *b, const struct bwd_local *l,
                            struct bwd_square *sq, int64_t r0)
{
    const struct attn *a = &b->a;
    const int32_t *begin = attn_begin(a, sq->h);
    int64_t i0 = sq->tq * TILE_TOKENS + r0, j0 = sq->tk * TILE_TOKENS;
    int64_t n = LH_MIN(TILE_ROWS, a->T - i0), last = i0 + n - 1;
    int64_t at = attn_place(a, sq->q_i, sq->tq) * TILE_TOKENS + r0;
    int64_t width = bwd_width(a);
    struct attn_span span = attn_span(j0, begin[i0], last);
    struct softmax_rows rows;
    struct bwd_rows q, d_o;

    if (span.n0 >= span.n1)
        return;
    attn_span_open(&span, i0, j0, begin[last]);
    memcpy(rows.base, b->lse2 + at, sizeof(rows.base));
    memcpy(rows.factor, b->delta + at, sizeof(rows.factor));
    for (int64_t r = 0; span.open < span.n1 && r < TILE_ROWS; r++) {
        int64_t i = LH_MIN(i0 + r, last);

        rows.lo[r] = (int32_t)(begin[i] - j0);
        rows.hi[r] = (int32_t)(i - j0);
    }
    q = bwd_operand(b, sq, PACK_Q, r0, l->a[0], attn_head(a->q, i0, n, sq->h, a->D));
    d_o = bwd_operand(b, sq, PACK_DO, r0, l->a[1], attn_head(a->d_o, i0, n, sq->h, a->D));
    for (int64_t c = span.n0; c < span.n1; c += width) {
        struct attn_span now = {c, span.open, LH_MIN(span.n1, c + width)};

        bwd_scores(a, l->s, q, attn_packed(a, sq->kv_i, sq->tk, PACK_KT, KV_KINDS), now);
        bwd_scores(a, l->dp, d_o, attn_packed(a, sq->kv_i, sq->tk, PACK_VT, KV_KINDS), now);
        bwd_weights(a, l, sq, r0, &rows, now);
    }
    attn_weigh(a, bwd_sums(a, b->dq, sq->q_i, sq->tq) + r0 * a->Dp, l->ds,
               attn_packed(a, sq->kv_i, sq->tk, PACK_K, KV_KINDS), span,
               b->phase > 0 || sq->tk > LH_MAX(sq->tk0, begin[i0] / TILE_TOKENS));
}

/* sums (Dp x TILE_TOKENS, in panels of keys) = or += rows (Dp x TILE_TOKENS queries) times weights.
 */
static void bwd_square_cols(const struct attn *a, const struct bwd_square *sq, float *sums,
                            const char *rows, const char *weights, bool add)
{
    int64_t element = a->tiles->element, tall = tile_panel(a->tiles, TILE_TOKENS);

    for (int64_t p = 0; p < BWD_PANELS; p++) {
        const char *from = weights + (p * tall + tile_panel(a->tiles, sq->first[p])) * 4;

        for (int64_t d = 0; d < a->Dp && sq->end[p] > 0; d += TILE_ROWS)
            a->tiles->product(TILE_STEP, sq->end[p] - sq->first[p],
                              rows + (d * TILE_TOKENS + sq->first[p]) * element, TILE_TOKENS, from,
                              tall, sums + (p * a->Dp + d) * TILE_STEP, TILE_STEP, add);
    }
}

void bwd_square_add(const struct attn_bwd *b, const struct bwd_local *l, struct bwd_square sq)
{
    const struct attn *a = &b->a;
    int64_t n = LH_MIN(TILE_TOKENS, a->T - sq.tq * TILE_TOKENS);
    bool add = sq.tq > sq.tk || sq.h % a->group > 0;

    for (int64_t r0 = 0; r0 < n; r0 += TILE_ROWS)
        bwd_square_rows(b, l, &sq, r0);
    bwd_square_cols(a, &sq, bwd_sums(a, b->dv, sq.kv_i, sq.tk),
                    bwd_packed_q(b, sq.q_i, sq.tq, PACK_DOA), l->p_b, add);
    bwd_square_cols(a, &sq, bwd_sums(a, b->dk, sq.kv_i, sq.tk),
                    bwd_packed_q(b, sq.q_i, sq.tq, PACK_QA), l->ds_b, add);
}
