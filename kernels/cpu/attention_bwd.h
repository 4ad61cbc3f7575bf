/* attention_bwd.h - what the two files of the backward pass of attention share: attention_bwd.c,
 * which goes over all squares of queries and keys, and attention_square.c, which computes one.
 */
#pragma once
#include "kernels/cpu/attention.h"

#define BWD_PANELS (TILE_TOKENS / TILE_STEP)

enum { PACK_KT, PACK_VT, PACK_K, KV_KINDS }; /* of a kv head */
/* Of a query head: transposed, as plain rows; and in the split form also as they are. */
enum { PACK_QA, PACK_DOA, PACK_Q, PACK_DO };

struct attn_bwd {
    struct attn a;
    const float *lse;
    int64_t n_chunks, phases[2];        /* phases: of the two classes of heads */
    int64_t band, chunk0, phase;        /* chunks of a band; the band and the phase run now */
    int64_t kv_round, g_round, g0, n_g; /* query heads packed now: those from g0 on of each group */
    int64_t q_kinds;
    char *q_packed;      /* like a.packed, for query heads */
    float *dq, *dk, *dv; /* sums of packed heads by tile: (TILE_TOKENS, Dp); dk, dv in panels of
                            keys, each (Dp, TILE_STEP) */
    float *lse2, *delta; /* (n packed heads, ring tiles): lse in powers of two; zeros past T */
};

/* One thread's scratch. */
struct bwd_local {
    void *a[2];       /* TILE_ROWS x Dp: operands; not in the split form */
    float *s, *dp;    /* TILE_ROWS x some keys, in panels: products */
    void *ds;         /* TILE_ROWS x TILE_TOKENS: operand */
    char *p_b, *ds_b; /* TILE_TOKENS x TILE_TOKENS in panels: packed operands */
};

/* Of the i-th packed head, tile t. */
static inline float *bwd_sums(const struct attn *a, float *sums, int64_t i, int64_t t)
{
    return sums + attn_place(a, i, t) * TILE_TOKENS * a->Dp;
}

static inline char *bwd_packed_q(const struct attn_bwd *b, int64_t i, int64_t t, int64_t kind)
{
    return b->q_packed + (uint64_t)(attn_place(&b->a, i, t) * b->q_kinds + kind) * b->a.tile_bytes;
}

/* A square: tile tq of a query head (the q_i-th packed, number h) by tile tk of its kv head (the
 * kv_i-th). */
struct bwd_square {
    int64_t h, q_i, kv_i, tq, tk, tk0;          /* tk0: where the chunk begins */
    int64_t first[BWD_PANELS], end[BWD_PANELS]; /* queries of the tile that see a panel of keys */
};

/* Takes the scratch of all threads; false, with the stream's error set, when memory is out. */
bool bwd_local_reserve(const struct attn *a);
/* That of one thread. */
struct bwd_local bwd_local_of(const struct attn *a, int thread);

/* Adds what one square means for dq, dk and dv to their sums; the first square of a tile begins
 * them. */
void bwd_square_add(const struct attn_bwd *b, const struct bwd_local *l, struct bwd_square sq);
