/* work.h - the buffers of the model: tokens, what the forward pass keeps, one layer at work, tiles.
 *
 * work_plan puts all of them into the memory plan; the views are made for as many tokens as a
 * micro-batch has. Three sets share the same room, as they are never alive together: the backward
 * pass of attention, a tile of the MLP, a tile of the head. What a layer's forward pass leaves for
 * its backward pass lies in the layer's own room as far as dims.keep says, else in room that all
 * layers share, and is computed again.
 */
#pragma once
#include "worker/model/linear.h"
#include "worker/model/wrap.h"

/* What a layer may keep for its backward pass beside its input, which it always keeps. Any of them
 * alone; keep.h chooses. */
enum work_keep {
    WORK_KEEP_SCORES, /* o, lse: attention itself is not done again */
    WORK_KEEP_QKV,    /* q, k, v, turned by their positions */
    WORK_KEEP_X1,     /* the residual stream between the two halves */
    WORK_KEEP_GATES,  /* gate, up */
    WORK_KEEPS,
};
#define WORK_KEEP_ALL ((1u << WORK_KEEPS) - 1)

/* Sizes, by the letters of kernels/ops.h, and how much is done at once. */
struct dims {
    int64_t L, C, H, KV, D, F, V;
    int64_t R[PARAMS_LINEARS];   /* the highest LoRA rank of each linear; 0 without LoRA */
    int64_t T;                   /* the most tokens of a micro-batch of this rank */
    int64_t wrap_T;              /* of rows that wrap, their copies (wrap.h) counted; 0: none do */
    int64_t positions;           /* the longest row */
    int64_t cache;               /* tokens whose keys and values are kept over calls; 0: none */
    int64_t mlp_tile, head_tile; /* tokens */
    int64_t logits_tile;         /* tokens whose logits are made at a time for somebody to see */
    int64_t keep[WORK_KEEPS];    /* how many layers, counted from the last, keep it */
    enum kn_dtype dtype;
    bool backward; /* false: evaluation only */
};

/* What the forward pass of a layer leaves. z: x A^T of each linear with LoRA. */
struct work_room {
    void *q, *k, *v, *o, *x1; /* (T,H*D) (T,KV*D) (T,KV*D) (T,H*D) (T,C) */
    void *gate, *up;          /* (T,F) where they are kept, else (mlp_tile,F) */
    void *z[PARAMS_LINEARS];  /* (T,R); those of gate and up as gate and up */
    float *lse;               /* (H,T) */
    unsigned kept;            /* bits of enum work_keep: the layer's own */
};

struct work {
    struct dims dims;

    /* Inputs and results of a micro-batch. */
    int32_t *ids, *labels, *pos;
    float *cos_sin; /* (positions, D) */
    double *nll;    /* T */

    void *keys, *values; /* the cache: L blocks of (cache, KV*D) each; NULL without one */
    void *kept;          /* inputs of the layers, (L+1) blocks of (T,C); evaluation has one block */

    /* One layer. */
    struct work_room *rooms; /* owned, L */
    struct work_room room;   /* a copy of the one of the layer at work */
    void *n1, *dz;           /* (T,C), (T, the highest rank) */
    float *rstd1;            /* T */
    void *dx;                /* (T,C): gradient of the residual stream */

    /* Attention, backwards. */
    void *d_o, *dq, *dk, *dv, *dn1;

    struct wrap_room wrap; /* of wrap_T tokens */

    /* A tile of the MLP. */
    void *n2, *h, *dh, *dn2;
    float *rstd2;

    /* A tile of the head. */
    void *nf, *dnf, *dlogits; /* dlogits (V,T): in the room of the logits, never alive with them */
    float *logits, *rstdf;
};

/* Chooses the tiles for dims->T and the rest of *dims. */
void work_tiles(struct dims *dims);
/* Zero-initialise *w; may be called again with other dims and a new plan. -ENOMEM: the table of
 * rooms. */
LH_MUST_CHECK int work_plan(struct work *w, const struct dims *dims, struct plan *plan,
                            struct lh_err *reterr);
void work_release(struct work *w);

/* Bytes of what one layer keeps so. */
uint64_t work_keep_bytes(const struct dims *dims, enum work_keep what);

/* Makes layer l the one at work. */
void work_enter(struct work *w, int64_t l);

/* A (rows, cols) view of a buffer in the model's precision; p NULL stays NULL. */
static inline struct kn_mat work_mat(const struct work *w, void *p, int64_t rows, int64_t cols)
{
    return kn_mat(p, w->dims.dtype, rows, cols);
}

/* The input of layer l (l == L: the output of the last), T tokens. Evaluation has one block for
 * all. */
struct kn_mat work_kept(const struct work *w, int64_t l, int64_t T);

/* The first `tokens` tokens of layer l in w->keys or w->values. */
struct kn_mat work_cached(const struct work *w, void *cache, int64_t l, int64_t tokens);

/* Views of z of the layer at work and of dz for a linear: (T, its rank). */
static inline struct kn_mat work_z(const struct work *w, const struct linear *l, int64_t T)
{
    return work_mat(w, w->room.z[(int)l->w->role - (int)PARAM_Q], T, l->rank);
}

static inline struct kn_mat work_dz(const struct work *w, const struct linear *l, int64_t T)
{
    return work_mat(w, w->dz, T, l->rank);
}
