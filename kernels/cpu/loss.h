/* loss.h - the parts of the op cross_entropy: logits come in blocks of rows of w (tokens are
 * columns) and leave nothing behind but what this keeps of them.
 *
 * First, block by block: the maximum and the sum of exp(z - maximum) of every token, and these
 * exponentials as elements of d. Then, token by token, the blocks are put together: nll, and what
 * each block is to be multiplied by. Last, block by block, d becomes the gradient. An element of d
 * in bf16 is rounded twice so.
 */
#pragma once
#include "kernels/cpu/stream.h"

#define LOSS_ROWS 256   /* of w in a block: 32 tokens of its logits in fp32 are 32 KiB */
#define LOSS_TOKENS 256 /* of an item that puts blocks together */

struct loss_job {
    struct kn_stream *s;
    double *nll;
    struct kn_mat d, x, w; /* d.p NULL: only the loss */
    const int32_t *label;
    float grad_scale;
    int64_t blocks;
    float *max, *sum;    /* (blocks, T); max becomes the factors of the blocks */
    float *target, *hit; /* T: the label's logit, and its gradient */
    void *room;          /* x packed, or the logits of a block */
};

/* logits: of block b, rows of ld floats, for tokens [t0, t0 + n). */
typedef void loss_block_fn(const struct loss_job *j, int64_t b, const float *logits, int64_t ld,
                           int64_t t0, int64_t n);
/* Tokens [t0, t1). */
typedef void loss_tokens_fn(const struct loss_job *j, int64_t t0, int64_t t1);
typedef void loss_scale_fn(const struct loss_job *j, int64_t b);

static inline int64_t loss_rows(const struct loss_job *j, int64_t b)
{
    return LH_MIN(LOSS_ROWS, j->w.rows - b * LOSS_ROWS);
}

/* With tile registers (loss_amx.c): packs x, then makes and takes in all blocks. room_bytes is
 * what it wants j->room to have. */
uint64_t loss_amx_room(const struct loss_job *j);
void loss_amx(struct loss_job *j);

/* The slot of the table. */
void cpu_cross_entropy(struct kn_stream *s, double *nll, struct kn_mat d, struct kn_mat x,
                       struct kn_mat w, const int32_t *label, float grad_scale);
