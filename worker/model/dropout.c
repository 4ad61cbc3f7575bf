/* dropout.c - keys of the rows and tokens of a micro-batch; see dropout.h. */
#include "worker/model/dropout.h"
#include "worker/model/counter.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* Rows of a tile: products of so many are as fast as longer ones, and the room stays small beside
 * one layer's activations. */
#define TILE 1024

void dropout_plan(struct dropout *p, const struct dims *dims, double rate, struct plan *plan)
{
    int64_t widest = LH_MAX(LH_MAX(dims->C, dims->F), dims->H * dims->D);

    p->rate = dims->backward ? rate : 0;
    p->tokens = dims->T;
    p->room_rows = LH_MIN(dims->T, (int64_t)TILE);
    if (p->rate <= 0)
        return;
    plan_add(plan, PLAN_WORKSPACE, &p->keys, (uint64_t)dims->T * sizeof(*p->keys));
    plan_add(plan, PLAN_WORKSPACE, &p->room,
             (uint64_t)(p->room_rows * widest) * kn_dtype_bytes(dims->dtype));
    plan_add_outside(plan, PLAN_HOST, (uint64_t)dims->T * sizeof(*p->host));
}

int dropout_alloc(struct dropout *p, struct lh_err *reterr)
{
    if (p->rate <= 0)
        return 0;
    p->host = malloc((size_t)p->tokens * sizeof(*p->host));
    return p->host ? 0 : lh_err_set(reterr, -ENOMEM, "the keys of dropout");
}

void dropout_release(struct dropout *p)
{
    free(p->host);
    p->host = NULL;
}

uint64_t dropout_row_key(uint64_t seed, int64_t step, int64_t row)
{
    /* The factors' first values are drawn from the plain seed. */
    return counter_bits(counter_mix(seed ^ 0x64726f706f757400u), (uint64_t)step, (uint64_t)row);
}

void dropout_set(struct dropout *p, struct device *d, const uint64_t *row_keys, int64_t rows,
                 int64_t row_tokens)
{
    d->drop = (struct linear_drop){0};
    if (p->rate <= 0 || !row_keys)
        return;
    assert(rows * row_tokens <= p->tokens);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t t = 0; t < row_tokens; t++)
            p->host[r * row_tokens + t] = counter_mix(row_keys[r] ^ (uint64_t)t);
    d->ops->upload(d->stream, p->keys, p->host, (uint64_t)(rows * row_tokens) * sizeof(*p->host));
    d->drop = (struct linear_drop){
        .rate = p->rate, .keys = p->keys, .room = p->room, .room_rows = p->room_rows};
}
