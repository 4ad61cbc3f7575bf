/* tile_product.h - the tile products of the instruction sets, and what packing for them shares;
 * tile.c chooses among them.
 */
#pragma once
#include "kernels/cpu/tile.h"
#include "kernels/cpu/vec.h"

/* Row r of x as fp32 from column c, zeros outside. */
VEC_INLINE vf tile_get(struct kn_mat x, int64_t r, int64_t c)
{
    return r < x.rows && c < x.cols ? vf_load(x, r, c, x.cols - c) : (vf){0};
}

tile_product_fn tile_product_wide;
#ifdef __AVX512BF16__
tile_product_fn tile_product_pairs, tile_product_amx, tile_product_split;
void tile_amx_begin(void);
void tile_amx_end(void);
void tile_amx_awake(void);

tile_pack_fn tile_split_a, tile_split_transposed, tile_split_plain, tile_split_a_transposed;
#endif
