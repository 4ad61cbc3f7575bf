/* work.c - the buffers of the model; see work.h. */
#include "worker/model/work.h"
#include "proto/base/attr.h"
#include <assert.h>

/* Tokens of a tile of the MLP: at 1024 the three (tile, F) blocks of a 135M model are 9 MiB, and a
 * matrix product of 1024 rows already runs at the speed of a longer one. */
#define MLP_TILE 1024
/* A tile of the head holds the gradient of its logits: each adds once to the gradient of the whole
 * head, so more tokens mean less traffic; beyond 1024 little is won. */
#define HEAD_TILE 1024
#define HEAD_TILE_BYTES ((int64_t)128 << 20)
#define HEAD_TILE_MIN 64
/* Logits are made for those who look at them only. */
#define LOGITS_TILE 64

void work_tiles(struct dims *dims)
{
    int64_t rows = HEAD_TILE_BYTES / (dims->V * (int64_t)kn_dtype_bytes(dims->dtype));

    dims->mlp_tile = LH_MIN(dims->T, MLP_TILE);
    dims->head_tile = LH_MIN(dims->T, LH_MAX(LH_MIN(rows, HEAD_TILE), HEAD_TILE_MIN));
    dims->logits_tile = LH_MIN(dims->T, LOGITS_TILE);
}

/* Bytes of a (rows, cols) block in the model's precision, or of fp32. */
static uint64_t block(const struct dims *d, int64_t rows, int64_t cols)
{
    return (uint64_t)rows * (uint64_t)cols * kn_dtype_bytes(d->dtype);
}

static uint64_t floats(int64_t rows, int64_t cols)
{
    return (uint64_t)rows * (uint64_t)cols * sizeof(float);
}

static void plan_layer(struct work *w, struct plan *plan)
{
    const struct dims *d = &w->dims;
    int64_t T = d->T, Q = d->H * d->D, K = d->KV * d->D;

    plan_add(plan, PLAN_WORKSPACE, &w->n1, block(d, T, d->C));
    plan_add(plan, PLAN_WORKSPACE, &w->q, block(d, T, Q));
    plan_add(plan, PLAN_WORKSPACE, &w->k, block(d, T, K));
    plan_add(plan, PLAN_WORKSPACE, &w->v, block(d, T, K));
    plan_add(plan, PLAN_WORKSPACE, &w->o, block(d, T, Q));
    plan_add(plan, PLAN_WORKSPACE, &w->x1, block(d, T, d->C));
    plan_add(plan, PLAN_WORKSPACE, &w->rstd1, floats(T, 1));
    plan_add(plan, PLAN_WORKSPACE, &w->lse, floats(T, d->H));
    for (int i = 0; i < PARAMS_LINEARS; i++)
        plan_add(plan, PLAN_WORKSPACE, &w->z[i], block(d, i < 4 ? T : d->mlp_tile, d->R));
    plan_add(plan, PLAN_WORKSPACE, &w->dz, d->backward ? block(d, T, d->R) : 0);
}

static void plan_attention_backward(struct work *w, struct plan *plan)
{
    const struct dims *d = &w->dims;
    int64_t T = d->backward ? d->T : 0, Q = d->H * d->D, K = d->KV * d->D;

    plan_add(plan, PLAN_WORKSPACE, &w->d_o, block(d, T, Q));
    plan_add(plan, PLAN_WORKSPACE, &w->dq, block(d, T, Q));
    plan_add(plan, PLAN_WORKSPACE, &w->dk, block(d, T, K));
    plan_add(plan, PLAN_WORKSPACE, &w->dv, block(d, T, K));
    plan_add(plan, PLAN_WORKSPACE, &w->dn1, block(d, T, d->C));
}

static void plan_mlp(struct work *w, struct plan *plan)
{
    const struct dims *d = &w->dims;
    int64_t T = d->mlp_tile, Tb = d->backward ? T : 0;

    plan_add(plan, PLAN_WORKSPACE, &w->n2, block(d, T, d->C));
    plan_add(plan, PLAN_WORKSPACE, &w->gate, block(d, T, d->F));
    plan_add(plan, PLAN_WORKSPACE, &w->up, block(d, T, d->F));
    plan_add(plan, PLAN_WORKSPACE, &w->h, block(d, T, d->F));
    plan_add(plan, PLAN_WORKSPACE, &w->rstd2, floats(T, 1));
    plan_add(plan, PLAN_WORKSPACE, &w->dh, block(d, Tb, d->F));
    plan_add(plan, PLAN_WORKSPACE, &w->dn2, block(d, Tb, d->C));
}

static void plan_head(struct work *w, struct plan *plan)
{
    const struct dims *d = &w->dims;
    int64_t T = d->head_tile, Tb = d->backward ? T : 0;

    plan_add(plan, PLAN_WORKSPACE, &w->nf, block(d, T, d->C));
    plan_add(plan, PLAN_WORKSPACE, &w->rstdf, floats(T, 1));
    plan_add(plan, PLAN_WORKSPACE, &w->logits,
             LH_MAX(floats(d->logits_tile, d->V), block(d, Tb, d->V)));
    plan_add_alias(plan, &w->dlogits);
    plan_add(plan, PLAN_WORKSPACE, &w->dnf, block(d, Tb, d->C));
}

void work_plan(struct work *w, const struct dims *dims, struct plan *plan)
{
    const struct dims *d = &w->dims;
    uint64_t layer, tiles;

    assert(dims->T > 0);
    assert(dims->mlp_tile > 0);
    assert(dims->head_tile > 0);
    *w = (struct work){.dims = *dims};
    plan_add(plan, PLAN_WORKSPACE, &w->ids, (uint64_t)d->T * sizeof(int32_t));
    plan_add(plan, PLAN_WORKSPACE, &w->labels, (uint64_t)d->T * sizeof(int32_t));
    plan_add(plan, PLAN_WORKSPACE, &w->pos, (uint64_t)d->T * sizeof(int32_t));
    plan_add(plan, PLAN_WORKSPACE, &w->cos_sin, floats(d->positions, d->D));
    plan_add(plan, PLAN_WORKSPACE, &w->nll, (uint64_t)d->T * sizeof(double));
    plan_add(plan, PLAN_WORKSPACE, &w->dx, d->backward ? block(d, d->T, d->C) : 0);
    plan_add(plan, PLAN_CACHE, &w->keys, block(d, d->cache, d->KV * d->D) * (uint64_t)d->L);
    plan_add(plan, PLAN_CACHE, &w->values, block(d, d->cache, d->KV * d->D) * (uint64_t)d->L);
    plan_add(plan, PLAN_ACTIVATIONS, &w->kept,
             block(d, d->T, d->C) * (uint64_t)(d->backward ? d->L + 1 : 1));
    layer = plan_mark(plan);
    plan_layer(w, plan);
    tiles = plan_mark(plan);
    plan_attention_backward(w, plan);
    plan_rewind(plan, tiles);
    plan_mlp(w, plan);
    plan_rewind(plan, layer);
    plan_head(w, plan); /* no layer is at work while the head is */
    plan_rewind(plan, layer);
}

struct kn_mat work_kept(const struct work *w, int64_t l, int64_t T)
{
    size_t bytes = (size_t)w->dims.T * (size_t)w->dims.C * kn_dtype_bytes(w->dims.dtype);

    assert(l >= 0 && l <= w->dims.L);
    return work_mat(w, (char *)w->kept + (w->dims.backward ? (size_t)l * bytes : 0), T, w->dims.C);
}

struct kn_mat work_cached(const struct work *w, void *cache, int64_t l, int64_t tokens)
{
    uint64_t layer = block(&w->dims, w->dims.cache, w->dims.KV * w->dims.D);

    assert(cache);
    assert(l >= 0 && l < w->dims.L);
    assert(tokens <= w->dims.cache);
    return work_mat(w, (char *)cache + (uint64_t)l * layer, tokens, w->dims.KV * w->dims.D);
}
