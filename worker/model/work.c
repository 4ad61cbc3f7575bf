/* work.c - the buffers of the model; see work.h. */
#include "worker/model/work.h"
#include "proto/base/attr.h"
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* Tokens of a tile of the MLP. A product packs its weight once a tile: of 1024 rows that is a
 * quarter of the time with the weight of a 135M model, of 4096 a twentieth; but gate, up and h of
 * a wide model are to stay small. */
#define MLP_TILE_MIN 1024
#define MLP_TILE_MAX 4096
#define MLP_TILE_BYTES ((int64_t)16 << 20) /* of gate, of up and of h */
/* A tile of the head holds the gradient of its logits: each adds once to the gradient of the whole
 * head, so more tokens mean less traffic; beyond 1024 little is won. */
#define HEAD_TILE 1024
#define HEAD_TILE_BYTES ((int64_t)128 << 20)
#define HEAD_TILE_MIN 64
#define HEAD_TILE_ALIGN 32
/* Logits are made for those who look at them only. */
#define LOGITS_TILE 64

/* Tokens of a tile of the head: even tiles, a little larger than wanted rather than with a small
 * one left over, which would add to the gradient of the whole head for next to nothing. */
static int64_t head_tile(const struct dims *d)
{
    int64_t fit = HEAD_TILE_BYTES / (d->V * (int64_t)kn_dtype_bytes(d->dtype));
    int64_t most = LH_MAX(LH_MIN(fit, HEAD_TILE), HEAD_TILE_MIN) * 17 / 16;
    int64_t tiles = LH_MAX((d->T + most - 1) / most, 1);
    int64_t rows = (d->T + tiles - 1) / tiles;

    return LH_MIN(d->T, (rows + HEAD_TILE_ALIGN - 1) / HEAD_TILE_ALIGN * HEAD_TILE_ALIGN);
}

void work_tiles(struct dims *dims)
{
    dims->mlp_tile =
        LH_MIN(MLP_TILE_MAX, MLP_TILE_BYTES / (dims->F * (int64_t)kn_dtype_bytes(dims->dtype)));
    dims->mlp_tile = LH_MIN(dims->T, LH_MAX(MLP_TILE_MIN, dims->mlp_tile));
    dims->head_tile = head_tile(dims);
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

/* A buffer of struct work_room: how large it is where a layer keeps it, and where layers share it.
 */
struct piece {
    size_t at;     /* offset of its pointer */
    unsigned kept; /* bit of enum work_keep; KEPT_ALWAYS, also in a plan without backward pass */
    uint64_t own, shared;
};

#define KEPT_ALWAYS (1u << WORK_KEEPS)
#define PIECES (8 + PARAMS_LINEARS)

static void list_pieces(const struct dims *d, struct piece piece[PIECES])
{
    static const unsigned z_kept[PARAMS_LINEARS] = {
        1u << WORK_KEEP_QKV,   1u << WORK_KEEP_QKV,   1u << WORK_KEEP_QKV, 1u << WORK_KEEP_X1,
        1u << WORK_KEEP_GATES, 1u << WORK_KEEP_GATES, KEPT_ALWAYS, /* no pass but the first makes it
                                                                    */
    };
    uint64_t q = block(d, d->T, d->H * d->D), k = block(d, d->T, d->KV * d->D);
    uint64_t x1 = block(d, d->T, d->C), lse = floats(d->T, d->H);
    uint64_t gate = block(d, d->T, d->F), tile = block(d, d->mlp_tile, d->F);
    const struct piece fixed[] = {
        {offsetof(struct work_room, q), 1u << WORK_KEEP_QKV, q, q},
        {offsetof(struct work_room, k), 1u << WORK_KEEP_QKV, k, k},
        {offsetof(struct work_room, v), 1u << WORK_KEEP_QKV, k, k},
        {offsetof(struct work_room, o), 1u << WORK_KEEP_SCORES, q, q},
        {offsetof(struct work_room, lse), 1u << WORK_KEEP_SCORES, lse, lse},
        {offsetof(struct work_room, x1), 1u << WORK_KEEP_X1, x1, x1},
        {offsetof(struct work_room, gate), 1u << WORK_KEEP_GATES, gate, tile},
        {offsetof(struct work_room, up), 1u << WORK_KEEP_GATES, gate, tile},
    };

    static_assert(LH_ARRAY_LEN(fixed) + PARAMS_LINEARS == PIECES, "one piece a pointer");
    memcpy(piece, fixed, sizeof(fixed));
    for (size_t i = 0; i < PARAMS_LINEARS; i++) {
        bool tiled = z_kept[i] == 1u << WORK_KEEP_GATES;

        piece[LH_ARRAY_LEN(fixed) + i] =
            (struct piece){offsetof(struct work_room, z) + i * sizeof(void *), z_kept[i],
                           block(d, d->T, d->R[i]), block(d, tiled ? d->mlp_tile : d->T, d->R[i])};
    }
}

uint64_t work_keep_bytes(const struct dims *dims, enum work_keep what)
{
    struct piece piece[PIECES];
    uint64_t bytes = 0;

    list_pieces(dims, piece);
    for (int i = 0; i < PIECES; i++)
        bytes += piece[i].kept == 1u << what ? piece[i].own : 0;
    return bytes;
}

static void *slot_of(struct work *w, int64_t l, const struct piece *p)
{
    return (char *)&w->rooms[l] + p->at;
}

/* The layers' own rooms. */
static void plan_kept(struct work *w, struct plan *plan)
{
    struct piece piece[PIECES];

    list_pieces(&w->dims, piece);
    for (int64_t l = 0; l < w->dims.L; l++) {
        struct work_room *room = &w->rooms[l];

        *room = (struct work_room){.kept = w->dims.backward ? KEPT_ALWAYS : 0};
        for (int i = 0; i < WORK_KEEPS; i++)
            room->kept |= l >= w->dims.L - w->dims.keep[i] ? 1u << i : 0;
        for (int i = 0; i < PIECES; i++)
            if (room->kept & piece[i].kept)
                plan_add(plan, PLAN_ACTIVATIONS, slot_of(w, l, &piece[i]), piece[i].own);
    }
}

/* Room for all layers that do not keep the pieces of these bits. */
static void plan_shared(struct work *w, unsigned bits, struct plan *plan)
{
    struct piece piece[PIECES];

    list_pieces(&w->dims, piece);
    for (int i = 0; i < PIECES; i++) {
        bool added = false;

        for (int64_t l = 0; l < w->dims.L && (piece[i].kept & bits); l++) {
            void *slot = slot_of(w, l, &piece[i]);

            if (w->rooms[l].kept & piece[i].kept)
                continue;
            if (added)
                plan_add_alias(plan, slot);
            else
                plan_add(plan, PLAN_WORKSPACE, slot, piece[i].shared);
            added = true;
        }
    }
}

static void plan_layer(struct work *w, struct plan *plan)
{
    const struct dims *d = &w->dims;
    int64_t R = 0;

    for (int i = 0; i < PARAMS_LINEARS; i++)
        R = LH_MAX(R, d->R[i]);
    plan_shared(w, ~(1u << WORK_KEEP_GATES), plan);
    plan_add(plan, PLAN_WORKSPACE, &w->n1, block(d, d->T, d->C));
    plan_add(plan, PLAN_WORKSPACE, &w->rstd1, floats(d->T, 1));
    plan_add(plan, PLAN_WORKSPACE, &w->dz, d->backward ? block(d, d->T, R) : 0);
}

static void plan_wrap(struct work *w, struct plan *plan)
{
    const struct dims *d = &w->dims;
    int64_t T = d->wrap_T, Tb = d->backward ? T : 0, Q = d->H * d->D, K = d->KV * d->D;

    plan_add(plan, PLAN_WORKSPACE, &w->wrap.q, block(d, T, Q));
    plan_add(plan, PLAN_WORKSPACE, &w->wrap.k, block(d, T, K));
    plan_add(plan, PLAN_WORKSPACE, &w->wrap.v, block(d, T, K));
    plan_add(plan, PLAN_WORKSPACE, &w->wrap.o, block(d, T, Q));
    plan_add(plan, PLAN_WORKSPACE, &w->wrap.lse, floats(T, d->H));
    plan_add(plan, PLAN_WORKSPACE, &w->wrap.d_o, block(d, Tb, Q));
    plan_add(plan, PLAN_WORKSPACE, &w->wrap.dq, block(d, Tb, Q));
    plan_add(plan, PLAN_WORKSPACE, &w->wrap.dk, block(d, Tb, K));
    plan_add(plan, PLAN_WORKSPACE, &w->wrap.dv, block(d, Tb, K));
}

static void plan_attention_backward(struct work *w, struct plan *plan)
{
    const struct dims *d = &w->dims;
    int64_t T = d->backward ? d->T : 0, Q = d->H * d->D, K = d->KV * d->D;

    uint64_t mark;

    plan_add(plan, PLAN_WORKSPACE, &w->dq, block(d, T, Q));
    plan_add(plan, PLAN_WORKSPACE, &w->dk, block(d, T, K));
    plan_add(plan, PLAN_WORKSPACE, &w->dv, block(d, T, K));
    mark = plan_mark(plan);
    plan_add(plan, PLAN_WORKSPACE, &w->d_o, block(d, T, Q));
    plan_rewind(plan, mark); /* d_o has been used when dn1 is made of dq, dk, dv */
    plan_add(plan, PLAN_WORKSPACE, &w->dn1, block(d, T, d->C));
}

static void plan_mlp(struct work *w, struct plan *plan)
{
    const struct dims *d = &w->dims;
    int64_t T = d->mlp_tile, Tb = d->backward ? T : 0;

    plan_add(plan, PLAN_WORKSPACE, &w->n2, block(d, T, d->C));
    plan_shared(w, 1u << WORK_KEEP_GATES, plan);
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

int work_plan(struct work *w, const struct dims *dims, struct plan *plan, struct lh_err *reterr)
{
    struct work_room *rooms =
        w->rooms ? w->rooms : calloc((size_t)dims->L, sizeof(*rooms)); /* L never changes */
    const struct dims *d = &w->dims;
    uint64_t layer, tiles;

    assert(dims->T > 0);
    assert(dims->mlp_tile > 0);
    assert(dims->head_tile > 0);
    *w = (struct work){.dims = *dims, .rooms = rooms};
    if (!rooms)
        return lh_err_set(reterr, -ENOMEM, "the table of layers");
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
    plan_kept(w, plan);
    layer = plan_mark(plan);
    plan_layer(w, plan);
    plan_wrap(w, plan);
    tiles = plan_mark(plan);
    plan_attention_backward(w, plan);
    plan_rewind(plan, tiles);
    plan_mlp(w, plan);
    plan_rewind(plan, layer);
    plan_head(w, plan); /* no layer is at work while the head is */
    plan_rewind(plan, layer);
    return 0;
}

void work_release(struct work *w)
{
    free(w->rooms);
    *w = (struct work){0};
}

void work_enter(struct work *w, int64_t l)
{
    assert(l >= 0);
    assert(l < w->dims.L);
    w->room = w->rooms[l];
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
