/* quant_pack.c - packing fp32 values into the types that exports are written in; see quant.h. */
#include "worker/formats/quant.h"
#include <assert.h>
#include <math.h>
#include <string.h>

#define Q8_BLOCK 32
#define Q8_BYTES 34

uint16_t quant_f32_to_f16(float x)
{
    uint32_t bits, sign, magnitude, kept, rest, half;
    unsigned shift;

    memcpy(&bits, &x, sizeof(bits));
    sign = bits >> 16 & 0x8000u;
    magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) /* 65520: rounds to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x33000000u) /* below half of the smallest number */
        return (uint16_t)sign;
    if (magnitude < 0x38800000u) { /* subnormal: the leading 1 becomes part of the mantissa */
        shift = 126u - (magnitude >> 23);
        kept = (magnitude & 0x7fffffu) | 0x800000u;
    } else {
        shift = 13;
        kept = magnitude - (112u << 23);
    }
    rest = kept & ((1u << shift) - 1);
    half = 1u << (shift - 1);
    kept >>= shift;
    kept += rest > half || (rest == half && (kept & 1u));
    return (uint16_t)(sign | kept);
}

static void put_u16(uint8_t *out, uint16_t v)
{
    out[0] = (uint8_t)v;
    out[1] = (uint8_t)(v >> 8);
}

static int64_t pack_f16(const float *x, int64_t n, uint8_t *out)
{
    int64_t bad = -1;

    for (int64_t i = 0; i < n; i++) {
        uint16_t h = quant_f32_to_f16(x[i]);

        if ((h & 0x7fffu) == 0x7c00u && isfinite(x[i]) && bad < 0)
            bad = i;
        put_u16(out + 2 * i, h);
    }
    return bad;
}

static int64_t pack_bf16(const float *x, int64_t n, uint8_t *out)
{
    int64_t bad = -1;

    for (int64_t i = 0; i < n; i++) {
        uint16_t b = kn_f32_to_bf16(x[i]);

        if ((b & 0x7fffu) == 0x7f80u && isfinite(x[i]) && bad < 0)
            bad = i;
        put_u16(out + 2 * i, b);
    }
    return bad;
}

static int64_t pack_q8_0(const float *x, int64_t n, uint8_t *out)
{
    int64_t bad = -1;

    for (int64_t at = 0; at < n; at += Q8_BLOCK, out += Q8_BYTES) {
        float largest = 0, d, inverse;
        uint16_t h;

        for (int i = 0; i < Q8_BLOCK; i++)
            largest = fmaxf(largest, fabsf(x[at + i]));
        d = largest / 127;
        h = quant_f32_to_f16(d);
        inverse = d >= 0x1p-126f ? 1 / d : 0; /* below it the scale is 0 in half precision anyway */
        if ((h & 0x7fffu) == 0x7c00u && bad < 0)
            bad = at;
        put_u16(out, h);
        for (int i = 0; i < Q8_BLOCK; i++)
            out[2 + i] = (uint8_t)(int8_t)(isfinite(x[at + i]) ? roundf(x[at + i] * inverse) : 0);
    }
    return bad;
}

int64_t quant_pack(enum quant_type type, const float *x, int64_t n, uint8_t *out)
{
    switch (type) {
    case QUANT_F32:
        memcpy(out, x, (size_t)n * sizeof(*x));
        return -1;
    case QUANT_F16:
        return pack_f16(x, n, out);
    case QUANT_BF16:
        return pack_bf16(x, n, out);
    default:
        assert(type == QUANT_Q8_0);
        assert(n % Q8_BLOCK == 0);
        return pack_q8_0(x, n, out);
    }
}

double quant_error(enum quant_type type, double largest)
{
    switch (type) {
    case QUANT_F32:
        return 0;
    case QUANT_F16:
        return fmax(largest * 0x1p-11, 0x1p-25);
    case QUANT_BF16:
        return fmax(largest * 0x1p-8, 0x1p-134);
    default:
        assert(type == QUANT_Q8_0);
        /* Half a step, and the rounding of the scale over at most 127 steps. The 1.001 is for the
         * fp32 arithmetic of packing. */
        return 1.001 * (largest / 127 * 0.5 + 127 * fmax(largest / 127 * 0x1p-11, 0x1p-25));
    }
}
