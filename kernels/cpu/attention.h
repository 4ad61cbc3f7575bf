/* attention.h - what the forward pass, the backward pass and the softmax of attention share.
 *
 * Work is done for TILE_ROWS rows at a time against packed tiles of TILE_TOKENS tokens. A tile
 * outside of all the rows' segments is never touched, one inside is computed whole, and only one
 * that straddles a cut or the diagonal is masked element by element. Inside a tile, runs of
 * TILE_STEP columns outside of the segments are skipped.
 */
#pragma once
#include "kernels/cpu/level.h"
#include "kernels/cpu/tile.h"
#include "kernels/cpu/vec.h"

/* Bytes of packed tiles and sums at a time; heads beyond that wait for the next round. */
#define ATTN_PACK_MAX (64u << 20)

/* What does not change within one call. Row r of q is query q0 + r of the sequence; keys are 0 to
 * T. */
struct attn {
    struct kn_stream *s;
    const struct tile_ops *tiles;
    struct kn_mat q, k, v, o, d_o, dq, dk, dv;
    float *lse;                    /* (H,T), or NULL */
    const struct kn_segments *seg; /* NULL: every query sees all keys up to its own */
    int64_t T, q0, H, KV, D;
    float scale;

    /* From attn_init. */
    int64_t Dp, group,
        n_tiles;         /* D as a multiple of TILE_STEP; query heads a kv head; tiles of T */
    uint64_t tile_bytes; /* packed */

    /* The kv heads whose tiles are packed now: [kv0, kv0 + n_kv); and how many tiles of a head are
     * packed at a time: tile t takes the place of tile t - ring. */
    int64_t kv0, n_kv, ring;
    char *packed;
};

/* A few queries without packing, one row of one head an item (attention_row.c). */
void attention_rows(struct attn *a);

/* The columns [n0, n1) of a tile that some row of a block may see; all rows see those below open.
 */
struct attn_span {
    int64_t n0, open, n1;
};

/* Of the tile that starts at token t0, for tokens [first, last]. */
static inline struct attn_span attn_span(int64_t t0, int64_t first, int64_t last)
{
    int64_t n0 = LH_MAX(0, (first - t0) / TILE_STEP * TILE_STEP);

    return (struct attn_span){
        .n0 = n0,
        .open = n0,
        .n1 = LH_MIN(TILE_TOKENS, (last - t0) / TILE_STEP * TILE_STEP + TILE_STEP),
    };
}

/* Rows are queries from i0 on, columns keys from j0 on; cut: where the last row's keys begin. */
static inline void attn_span_open(struct attn_span *span, int64_t i0, int64_t j0, int64_t cut)
{
    if (j0 + span->n0 >= cut)
        span->open = LH_MAX(span->n0, LH_MIN(span->n1, (i0 + 1 - j0) / TILE_STEP * TILE_STEP));
}

void attn_init(struct attn *a);

static inline struct kn_mat attn_head(struct kn_mat m, int64_t r0, int64_t rows, int64_t h,
                                      int64_t D)
{
    return kn_sub(m, r0, rows, h * D, D);
}

static inline const int32_t *attn_begin(const struct attn *a, int64_t h)
{
    return a->seg->begin[h >= a->seg->shift_from];
}

/* Asks for a head's rows [r0, r0 + rows) ahead of time: they lie far from each other, so that the
 * processor does not guess them. */
static inline void attn_prefetch(struct kn_mat m, int64_t r0, int64_t rows, int64_t h, int64_t D)
{
    int64_t element = m.t == KN_F32 ? 4 : 2, line = 64 / element;

    for (int64_t r = r0; r < LH_MIN(m.rows, r0 + rows); r++)
        for (int64_t d = 0; d < D; d += line)
            __builtin_prefetch((const char *)m.p + (r * m.ld + h * D + d) * element);
}

/* How many runs of so many tokens lie at most between a query's and that of the first key it may
 * see. Documents do not count: what is taken for a step holds for the next one, too. */
static inline int64_t attn_back(const struct attn *a, int64_t tokens)
{
    return (a->seg->reach - 1 + tokens - 1) / tokens;
}

/* Where tile t of the i-th packed head lies, in tiles. */
static inline int64_t attn_place(const struct attn *a, int64_t i, int64_t t)
{
    return i * a->ring + t % a->ring;
}

/* Of kinds of packed tile for each of n heads: kind k of tile t of the i-th head. */
static inline char *attn_packed(const struct attn *a, int64_t i, int64_t t, int64_t k,
                                int64_t kinds)
{
    return a->packed + (uint64_t)(attn_place(a, i, t) * kinds + k) * a->tile_bytes;
}

/* s (TILE_ROWS x span) = rows (TILE_ROWS x Dp) times the span's columns of a transposed tile. */
static inline void attn_scores(const struct attn *a, float *s, const void *rows, const char *tile,
                               struct attn_span n)
{
    int64_t panel = tile_panel(a->tiles, a->Dp);

    a->tiles->product(n.n1 - n.n0, a->Dp, rows, a->Dp, tile + n.n0 / TILE_STEP * panel * 4, panel,
                      s + n.n0, TILE_TOKENS, false);
}

/* out (TILE_ROWS x Dp) = or += weights (TILE_ROWS x span) times the span's rows of a plain tile. */
static inline void attn_weigh(const struct attn *a, float *out, const void *w, const char *tile,
                              struct attn_span n, bool add)
{
    a->tiles->product(a->Dp, n.n1 - n.n0, (const char *)w + n.n0 * a->tiles->element, TILE_TOKENS,
                      tile + tile_panel(a->tiles, n.n0) * 4, tile_panel(a->tiles, TILE_TOKENS), out,
                      a->Dp, add);
}

/* One block of the forward pass between its two products: from scores to weights. s: scores of
 * TILE_ROWS x [n0, n1), row stride TILE_TOKENS; p: where the weights go, as the element the tiles
 * want. Row r sees columns [lo[r], hi[r]], which is asked only from open on. base: what is taken
 * off a row's scores, in powers of two: a maximum of the past, moved only when a score exceeds it
 * by much, so that sums are rarely rescaled; factor[r]: what the sums so far are to be multiplied
 * by. */
struct softmax_rows {
    float base[TILE_ROWS], factor[TILE_ROWS];
    float sum[TILE_ROWS][VEC]; /* lane by lane; added up at the end */
    int32_t lo[TILE_ROWS], hi[TILE_ROWS];
};
void softmax_start(struct softmax_rows *rows);
void softmax_forward(const struct tile_ops *ops, struct softmax_rows *rows, const float *s, void *p,
                     struct attn_span span, float scale2);
/* out *= factor, row by row, where a factor is not 1. */
void softmax_rescale(const struct softmax_rows *rows, float *out, int64_t Dp);
/* o = out / sum for n rows, and lse when not NULL. */
void softmax_finish(const struct softmax_rows *rows, const float *out, int64_t Dp, struct kn_mat o,
                    float *lse);

/* Backward, one block of TILE_ROWS queries and TILE_STEP keys, columns from n of a tile:
 * p = 2^(s*scale2 - lse2) and ds = p * (dp - delta); the factor scale of ds is left to its users.
 * Of rows, base holds lse2 and factor holds delta; lo and hi are asked only where masked. p and ds
 * leave as rows of a packed panel, ds as plain rows too. */
struct softmax_out {
    void *ds; /* row stride TILE_TOKENS */
    void *p_b, *ds_b;
};
void softmax_backward(const struct tile_ops *ops, const struct softmax_rows *rows, int64_t n,
                      bool masked, const float *s, const float *dp, struct softmax_out out,
                      float scale2);
