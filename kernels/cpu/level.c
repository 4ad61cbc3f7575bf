/* level.c - the vector code of one level as a table; see level.h. */
#include "kernels/cpu/level.h"

const struct cpu_level LEVEL(cpu_level_ops) = {
    .ops =
        {
            .embed_fwd = cpu_embed_fwd,
            .embed_bwd = cpu_embed_bwd,
            .rmsnorm_fwd = cpu_rmsnorm_fwd,
            .rmsnorm_bwd = cpu_rmsnorm_bwd,
            .rope = cpu_rope,
            .attention_fwd = cpu_attention_fwd,
            .attention_cached = cpu_attention_cached,
            .attention_bwd = cpu_attention_bwd,
            .swiglu_fwd = cpu_swiglu_fwd,
            .swiglu_bwd = cpu_swiglu_bwd,
            .add = cpu_add,
            .copy = cpu_copy,
            .fill = cpu_fill,
            .dropout = cpu_dropout,
            .sum_squares = cpu_sum_squares,
            .adamw = cpu_adamw,
            .first_nonfinite = cpu_first_nonfinite,
        },
    .copy_part = cpu_copy_part,
    .add_part = cpu_add_part,
    .loss_block = cpu_loss_block,
    .loss_tokens = cpu_loss_tokens,
    .loss_scale = cpu_loss_scale,
};
