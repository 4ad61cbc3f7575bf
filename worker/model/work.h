/* work.h - the buffers of the model: tokens, what the forward pass keeps, one layer at work, tiles.
 *
 * work_plan puts all of them into the memory plan; the views are made for as many tokens as a
 * micro-batch has. Three sets share the same room, as they are never alive together: the backward
 * pass of attention, a tile of the MLP, a tile of the head.
 */
#pragma once
#include "worker/model/linear.h"

/* Sizes, by the letters of kernels/ops.h, and how much is done at once. */
struct dims {
    int64_t L, C, H, KV, D, F, V;
    int64_t R;                   /* the highest LoRA rank, 0 without LoRA */
    int64_t T;                   /* the most tokens of a micro-batch of this rank */
    int64_t positions;           /* the longest row */
    int64_t cache;               /* tokens whose keys and values are kept over calls; 0: none */
    int64_t mlp_tile, head_tile; /* tokens */
    int64_t logits_tile;         /* tokens whose logits are made at a time for somebody to see */
    enum kn_dtype dtype;
    bool backward; /* false: evaluation only */
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
    void *n1, *q, *k, *v, *o, *x1; /* (T,C) (T,H*D) (T,KV*D) (T,KV*D) (T,H*D) (T,C) */
    void *z[PARAMS_LINEARS], *dz;  /* (T,R): x A^T of each linear; those of the MLP hold a tile */
    float *rstd1, *lse;            /* T, (H,T) */
    void *dx;                      /* (T,C): gradient of the residual stream */

    /* Attention, backwards. */
    void *d_o, *dq, *dk, *dv, *dn1;

    /* A tile of the MLP. */
    void *n2, *gate, *up, *h, *dh, *dn2;
    float *rstd2;

    /* A tile of the head. */
    void *nf, *dnf, *dlogits; /* dlogits (V,T): in the room of the logits, never alive with them */
    float *logits, *rstdf;
};

/* Chooses the tiles for dims->T and the rest of *dims. */
void work_tiles(struct dims *dims);
void work_plan(struct work *w, const struct dims *dims, struct plan *plan);

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

/* (T, rank) views for a linear of this rank. */
static inline struct kn_mat work_z(const struct work *w, enum param_role of, int64_t T,
                                   int64_t rank)
{
    return work_mat(w, w->z[(int)of - (int)PARAM_Q], T, rank);
}
