/* cross_entropy.c - the op of this name out of the parts of loss.h.
 *
 * With tile registers the logits of a block never leave the first-level cache (loss_amx.c). Without
 * them they are a product of a few blocks at a time in scratch.
 */
#include "kernels/cpu/loss.h"

#define PLAIN_BLOCKS 4 /* to one product: 1024 rows keep the library busy */

struct loss_plain {
    struct loss_job *j;
    int64_t b0, n_blocks;
};

/* One block of the product, 64 tokens. */
static void loss_plain_item(void *arg, int64_t item, int thread)
{
    const struct loss_plain *p = arg;
    const struct loss_job *j = p->j;
    int64_t b = item % p->n_blocks, t0 = item / p->n_blocks * 64, T = j->x.rows;

    (void)thread;
    j->s->level->loss_block(j, p->b0 + b, (const float *)j->room + b * LOSS_ROWS * T + t0, T, t0,
                            LH_MIN(64, T - t0));
}

static void loss_plain(struct loss_job *j)
{
    for (int64_t b = 0; b < j->blocks; b += PLAIN_BLOCKS) {
        struct loss_plain p = {j, b, LH_MIN(PLAIN_BLOCKS, j->blocks - b)};
        int64_t v0 = b * LOSS_ROWS, rows = LH_MIN(PLAIN_BLOCKS * LOSS_ROWS, j->w.rows - v0);

        cpu_matmul(j->s, kn_mat(j->room, KN_F32, rows, j->x.rows), kn_rows(j->w, v0, rows), false,
                   j->x, true, 1.0f, 0.0f);
        if (j->s->err.code != 0)
            return;
        pool_run(j->s->pool, p.n_blocks * ((j->x.rows + 63) / 64), loss_plain_item, &p);
    }
}

static void loss_tokens_item(void *arg, int64_t item, int thread)
{
    const struct loss_job *j = arg;

    (void)thread;
    j->s->level->loss_tokens(j, item * LOSS_TOKENS, LH_MIN(j->x.rows, (item + 1) * LOSS_TOKENS));
}

static void loss_scale_item(void *arg, int64_t item, int thread)
{
    const struct loss_job *j = arg;

    (void)thread;
    j->s->level->loss_scale(j, item);
}

void cpu_cross_entropy(struct kn_stream *s, double *nll, struct kn_mat d, struct kn_mat x,
                       struct kn_mat w, const int32_t *label, float grad_scale)
{
    struct loss_job j = {.s = s,
                         .nll = nll,
                         .d = d,
                         .x = x,
                         .w = w,
                         .label = label,
                         .grad_scale = grad_scale,
                         .blocks = (w.rows + LOSS_ROWS - 1) / LOSS_ROWS};
    int64_t T = x.rows;
    uint64_t room = (uint64_t)(LH_MIN(w.rows, PLAIN_BLOCKS * LOSS_ROWS) * T) * sizeof(float);
    bool amx = false;

    if (!kn_check_cross_entropy(cpu_check(s, "cross_entropy"), d, x, w, label) || T == 0)
        return;
#ifdef __x86_64__
    amx = s->isa == CPU_AMX;
    if (amx)
        room = loss_amx_room(&j);
#endif
    j.room = stream_outer(s, room + (uint64_t)(2 * (j.blocks + 1) * T) * sizeof(float));
    if (!j.room)
        return;
    j.max = (float *)((char *)j.room + room);
    j.sum = j.max + j.blocks * T;
    j.target = j.sum + j.blocks * T;
    j.hit = j.target + T;
#ifdef __x86_64__
    if (amx)
        loss_amx(&j);
#endif
    if (!amx)
        loss_plain(&j);
    if (s->err.code != 0)
        return;
    pool_run(s->pool, (T + LOSS_TOKENS - 1) / LOSS_TOKENS, loss_tokens_item, &j);
    if (d.p)
        pool_run(s->pool, j.blocks, loss_scale_item, &j);
}
