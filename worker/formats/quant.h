/* quant.h - element types that files use, and exact expansion of them to fp32 or bf16.
 *
 * Numbers are those of GGUF's type field where it has the type. Expansion is exact in fp32 (a scale
 * of 11 bits times at most 8 bits; Q4_1's offset is added with one rounding), bf16 is rounded once
 * from that.
 */
#pragma once
#include "kernels/dtype.h"
#include <stddef.h>
#include <stdint.h>

enum quant_type {
    QUANT_F32 = 0,
    QUANT_F16 = 1,
    QUANT_Q4_0 = 2,
    QUANT_Q4_1 = 3,
    QUANT_Q8_0 = 8,
    QUANT_F64 = 28,
    QUANT_BF16 = 30,
};

struct quant_info {
    const char *name;
    unsigned block;       /* elements of one block; 1: not quantised */
    unsigned block_bytes; /* 0: known by name, not supported */
};

/* NULL for a number that is unknown. */
const struct quant_info *quant_info(uint32_t type);

/* Expands n elements (a multiple of the block) from src into out, dtype elements. */
void quant_expand(enum quant_type type, const uint8_t *src, int64_t n, enum kn_dtype dtype,
                  void *out);

/* The other way: n values (a multiple of the block) into F32, F16, BF16 or Q8_0, each rounded once
 * to the nearest, ties to even (Q8_0 as ggml does it: the scale is the largest value / 127 in half
 * precision). Returns the place of the first value that the type cannot hold (finite before and
 * infinite after), or -1. */
int64_t quant_pack(enum quant_type type, const float *x, int64_t n, uint8_t *out);

/* By how much a value of a block may differ after packing and expanding; largest: of the magnitudes
 * of its block (of the value itself where nothing is quantised). */
double quant_error(enum quant_type type, double largest);

float quant_f16_to_f32(uint16_t h);
uint16_t quant_f32_to_f16(float x);
