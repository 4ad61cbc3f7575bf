/* dtype.h - element types and exact conversion between float and bf16.
 *
 * KN_F64 is for tests of the formulas by finite differences: only the reference back end takes it.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum kn_dtype { KN_F32, KN_BF16, KN_F64 };

static inline size_t kn_dtype_bytes(enum kn_dtype t)
{
    return t == KN_BF16 ? 2 : t == KN_F32 ? 4 : 8;
}

static inline float kn_bf16_to_f32(uint16_t b)
{
    uint32_t bits = (uint32_t)b << 16;
    float f;

    memcpy(&f, &bits, sizeof(f));
    return f;
}

/* Round to nearest even; NaN stays NaN. */
static inline uint16_t kn_f32_to_bf16(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, sizeof(bits));
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
