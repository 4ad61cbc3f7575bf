/* level.h - names that exist once per vector level.
 *
 * The files with the vector code are compiled several times, each time for a wider instruction set:
 * CMake gives CPU_LEVEL the level's name and the compiler the level's flags. Whatever such a file
 * exports gets the level's name behind its own, here and nowhere else, so that the code reads as if
 * there were one level. A stream finds its level in struct cpu_level (stream.h). (One function in
 * several versions, GCC's target_clones, is no way out: GCC 12 takes vector comparisons apart
 * before it makes the versions.)
 */
#pragma once
#include "kernels/cpu/loss.h"
#include "kernels/cpu/stream.h"

#define LEVEL_PASTE(name, level) name##_##level
#define LEVEL_EXPAND(name, level) LEVEL_PASTE(name, level)
#define LEVEL(name) LEVEL_EXPAND(name, CPU_LEVEL)

#define cpu_adamw LEVEL(cpu_adamw)
#define cpu_add LEVEL(cpu_add)
#define cpu_add_part LEVEL(cpu_add_part)
#define cpu_attention_bwd LEVEL(cpu_attention_bwd)
#define cpu_attention_cached LEVEL(cpu_attention_cached)
#define cpu_attention_fwd LEVEL(cpu_attention_fwd)
#define cpu_copy LEVEL(cpu_copy)
#define cpu_copy_part LEVEL(cpu_copy_part)
#define cpu_dropout LEVEL(cpu_dropout)
#define cpu_embed_bwd LEVEL(cpu_embed_bwd)
#define cpu_embed_fwd LEVEL(cpu_embed_fwd)
#define cpu_fill LEVEL(cpu_fill)
#define cpu_first_nonfinite LEVEL(cpu_first_nonfinite)
#define cpu_rmsnorm_bwd LEVEL(cpu_rmsnorm_bwd)
#define cpu_rmsnorm_fwd LEVEL(cpu_rmsnorm_fwd)
#define cpu_rope LEVEL(cpu_rope)
#define cpu_sum_squares LEVEL(cpu_sum_squares)
#define cpu_swiglu_bwd LEVEL(cpu_swiglu_bwd)
#define cpu_swiglu_fwd LEVEL(cpu_swiglu_fwd)

#define attention_rows LEVEL(attention_rows)
#define attn_init LEVEL(attn_init)
#define bwd_local_of LEVEL(bwd_local_of)
#define bwd_local_reserve LEVEL(bwd_local_reserve)
#define bwd_square_add LEVEL(bwd_square_add)
#define cpu_loss_block LEVEL(cpu_loss_block)
#define cpu_loss_scale LEVEL(cpu_loss_scale)
#define cpu_loss_tokens LEVEL(cpu_loss_tokens)
#define softmax_backward LEVEL(softmax_backward)
#define softmax_finish LEVEL(softmax_finish)
#define softmax_forward LEVEL(softmax_forward)
#define softmax_rescale LEVEL(softmax_rescale)
#define softmax_start LEVEL(softmax_start)
#define tile_amx_awake LEVEL(tile_amx_awake)
#define tile_amx_begin LEVEL(tile_amx_begin)
#define tile_amx_end LEVEL(tile_amx_end)
#define tile_ops_for LEVEL(tile_ops_for)
#define tile_product_amx LEVEL(tile_product_amx)
#define tile_product_pairs LEVEL(tile_product_pairs)
#define tile_product_split LEVEL(tile_product_split)
#define tile_product_wide LEVEL(tile_product_wide)
#define tile_split_a LEVEL(tile_split_a)
#define tile_split_a_transposed LEVEL(tile_split_a_transposed)
#define tile_split_plain LEVEL(tile_split_plain)
#define tile_split_transposed LEVEL(tile_split_transposed)

/* Rows [r0, r1) of y = x and of y = a + b, on the calling thread. */
void cpu_copy_part(struct kn_mat y, struct kn_mat x, int64_t r0, int64_t r1);
void cpu_add_part(struct kn_mat y, struct kn_mat a, struct kn_mat b, int64_t r0, int64_t r1);

/* See loss.h. */
loss_block_fn cpu_loss_block;
loss_tokens_fn cpu_loss_tokens;
loss_scale_fn cpu_loss_scale;

/* The slots of the table; each file fills those of its name. Their contracts stand in ops.h. */
void cpu_embed_fwd(struct kn_stream *s, struct kn_mat x, struct kn_mat table, const int32_t *id);
void cpu_embed_bwd(struct kn_stream *s, struct kn_mat dtable, struct kn_mat dx, const int32_t *id);
void cpu_rmsnorm_fwd(struct kn_stream *s, struct kn_mat y, float *rstd, struct kn_mat x,
                     const float *g, float eps);
void cpu_rmsnorm_bwd(struct kn_stream *s, struct kn_mat dx, float *dg, struct kn_mat dy,
                     struct kn_mat x, const float *g, const float *rstd);
void cpu_rope(struct kn_stream *s, struct kn_mat x, int64_t D, const float *cos_sin,
              const int32_t *pos, bool inverse);
void cpu_attention_fwd(struct kn_stream *s, struct kn_mat o, float *lse, struct kn_mat q,
                       struct kn_mat k, struct kn_mat v, const struct kn_segments *seg, int64_t H,
                       int64_t KV, int64_t D, float scale);
void cpu_attention_cached(struct kn_stream *s, struct kn_mat o, struct kn_mat q, struct kn_mat k,
                          struct kn_mat v, int64_t q0, int64_t H, int64_t KV, int64_t D,
                          float scale);
void cpu_attention_bwd(struct kn_stream *s, struct kn_mat dq, struct kn_mat dk, struct kn_mat dv,
                       struct kn_mat d_o, struct kn_mat q, struct kn_mat k, struct kn_mat v,
                       struct kn_mat o, const float *lse, const struct kn_segments *seg, int64_t H,
                       int64_t KV, int64_t D, float scale);
void cpu_swiglu_fwd(struct kn_stream *s, struct kn_mat h, struct kn_mat gate, struct kn_mat up);
void cpu_swiglu_bwd(struct kn_stream *s, struct kn_mat dgate, struct kn_mat dup, struct kn_mat dh,
                    struct kn_mat gate, struct kn_mat up);
void cpu_add(struct kn_stream *s, struct kn_mat y, struct kn_mat a, struct kn_mat b);
void cpu_copy(struct kn_stream *s, struct kn_mat y, struct kn_mat x);
void cpu_fill(struct kn_stream *s, struct kn_mat y, float value);
void cpu_dropout(struct kn_stream *s, struct kn_mat y, struct kn_mat x, bool add,
                 const struct kn_dropout *h);
void cpu_first_nonfinite(struct kn_stream *s, int64_t *ret_index, struct kn_mat x);
void cpu_sum_squares(struct kn_stream *s, double *ret, const float *x, int64_t n);
void cpu_adamw(struct kn_stream *s, float *p, float *m, float *v, const float *g, uint16_t *low,
               int64_t n, const struct kn_adamw *h);
