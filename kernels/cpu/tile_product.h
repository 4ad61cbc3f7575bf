/* tile_product.h - the tile products of the instruction sets; tile.c chooses among them. */
#pragma once
#include "kernels/cpu/tile.h"

tile_product_fn tile_product_wide;
#ifdef __AVX512BF16__
tile_product_fn tile_product_pairs, tile_product_amx;
void tile_amx_begin(void);
void tile_amx_end(void);
#endif
