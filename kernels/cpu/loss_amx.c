/* loss_amx.c - logits by tile registers for the op cross_entropy: see loss.h.
 *
 * x is packed once, as panels of 32 tokens; rows of w of bf16 are read where they lie, others are
 * packed by each item. An item is a block of w: panel after panel its logits are made in 32 KiB of
 * fp32 and taken in at once.
 */
#include "kernels/cpu/loss.h"
#include "kernels/cpu/product_amx.h"
#include "kernels/cpu/product_pack.h"

static int64_t loss_up(int64_t n)
{
    return (n + AMX_STEP - 1) / AMX_STEP * AMX_STEP;
}

/* bf16 that a packed row of x or w takes. */
static int64_t loss_packed(const struct loss_job *j)
{
    return loss_up(j->x.cols) * product_parts(j->x.t);
}

uint64_t loss_amx_room(const struct loss_job *j)
{
    return (uint64_t)(loss_up(j->x.rows) * loss_packed(j)) * sizeof(uint16_t);
}

static void loss_pack_item(void *arg, int64_t item, int thread)
{
    const struct loss_job *j = arg;
    int64_t t0 = item * AMX_STEP;

    (void)thread;
    product_pack_b((uint16_t *)j->room + t0 * loss_packed(j), j->x, true, t0,
                   LH_MIN(AMX_STEP, j->x.rows - t0), 0, j->x.cols);
}

/* The rows of a block as whole strips: in place when they are, else copied to room. A strip's
 * elements are ld * AMX_STEP in all, those of its steps ret_step apart. */
static const uint16_t *loss_rows_of(const struct loss_job *j, int64_t b, uint16_t *room,
                                    int64_t *ret_ld, int64_t *ret_step)
{
    int64_t rows = loss_rows(j, b), C = j->w.cols;

    *ret_ld = j->w.ld;
    *ret_step = AMX_STEP;
    if (rows % AMX_STEP == 0 && product_in_place(j->w, b * LOSS_ROWS, C))
        return (const uint16_t *)j->w.p + b * LOSS_ROWS * j->w.ld;
    *ret_ld = loss_packed(j);
    *ret_step = AMX_BLOCK * product_parts(j->w.t);
    for (int64_t r = 0; r < rows; r += AMX_STEP)
        product_pack_a(room + r * *ret_ld, j->w, false, b * LOSS_ROWS + r,
                       LH_MIN(AMX_STEP, rows - r), 0, C);
    return room;
}

static void loss_amx_item(void *arg, int64_t b, int thread)
{
    const struct loss_job *j = arg;
    int64_t packed = loss_packed(j), steps = loss_up(j->x.cols) / AMX_STEP, ld, step;
    float *logits = j->s->local[thread].p;
    const uint16_t *w = loss_rows_of(j, b, (uint16_t *)(logits + LOSS_ROWS * AMX_STEP), &ld, &step);

    product_amx_begin();
    for (int64_t t0 = 0; t0 < j->x.rows; t0 += AMX_STEP) {
        const uint16_t *next = (const uint16_t *)j->room + (t0 + AMX_STEP) * packed;

        for (int64_t r = 0; r < loss_rows(j, b); r += AMX_STEP)
            product_multiply(product_parts(j->x.t), AMX_STEP, AMX_STEP, steps, w + r * ld,
                             step == AMX_STEP ? ld : AMX_STEP, step,
                             (const uint16_t *)j->room + t0 * packed, logits + r * AMX_STEP,
                             next + r * packed / (LOSS_ROWS / AMX_STEP));
        j->s->level->loss_block(j, b, logits, AMX_STEP, t0, LH_MIN(AMX_STEP, j->x.rows - t0));
    }
    product_amx_end();
}

void loss_amx(struct loss_job *j)
{
    uint64_t logits = (uint64_t)(LOSS_ROWS * AMX_STEP) * sizeof(float);
    uint64_t rows = (uint64_t)(LOSS_ROWS * loss_packed(j)) * sizeof(uint16_t);

    if (!stream_local(j->s, logits + rows))
        return;
    pool_run(j->s->pool, (j->x.rows + AMX_STEP - 1) / AMX_STEP, loss_pack_item, j);
    pool_run(j->s->pool, j->blocks, loss_amx_item, j);
}
