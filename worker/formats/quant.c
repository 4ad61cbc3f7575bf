/* quant.c - see quant.h. Works through a small fp32 buffer, so that each type has one expansion. */
#include "worker/formats/quant.h"
#include "worker/formats/mapping.h"
#include <assert.h>
#include <stdlib.h>

#define CHUNK 1024 /* elements expanded at a time: 4 KiB, stays in the first cache */

static const struct quant_info infos[] = {
    [0] = {"F32", 1, 4},       [1] = {"F16", 1, 2},        [2] = {"Q4_0", 32, 18},
    [3] = {"Q4_1", 32, 20},    [6] = {"Q5_0", 32, 0},      [7] = {"Q5_1", 32, 0},
    [8] = {"Q8_0", 32, 34},    [9] = {"Q8_1", 32, 0},      [10] = {"Q2_K", 256, 0},
    [11] = {"Q3_K", 256, 0},   [12] = {"Q4_K", 256, 0},    [13] = {"Q5_K", 256, 0},
    [14] = {"Q6_K", 256, 0},   [15] = {"Q8_K", 256, 0},    [16] = {"IQ2_XXS", 256, 0},
    [17] = {"IQ2_XS", 256, 0}, [18] = {"IQ3_XXS", 256, 0}, [19] = {"IQ1_S", 256, 0},
    [20] = {"IQ4_NL", 32, 0},  [21] = {"IQ3_S", 256, 0},   [22] = {"IQ2_S", 256, 0},
    [23] = {"IQ4_XS", 256, 0}, [24] = {"I8", 1, 0},        [25] = {"I16", 1, 0},
    [26] = {"I32", 1, 0},      [27] = {"I64", 1, 0},       [28] = {"F64", 1, 8},
    [29] = {"IQ1_M", 256, 0},  [30] = {"BF16", 1, 2},      [34] = {"TQ1_0", 256, 0},
    [35] = {"TQ2_0", 256, 0},  [39] = {"MXFP4", 32, 0},
};

const struct quant_info *quant_info(uint32_t type)
{
    if (type >= sizeof(infos) / sizeof(infos[0]) || !infos[type].name)
        return NULL;
    return &infos[type];
}

static uint16_t le16_at(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

float quant_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, magnitude = h & 0x7fffu, bits;
    float f;

    if (magnitude <
        0x400u) { /* below the normal numbers; right even where the CPU flushes subnormals */
        f = (float)magnitude * 0x1p-24f;
        memcpy(&bits, &f, sizeof(bits));
    } else if (magnitude < 0x7c00u) {
        bits = (magnitude << 13) + (112u << 23);
    } else { /* infinite, or not a number */
        bits = 0x7f800000u | (magnitude & 0x3ffu) << 13;
    }
    bits |= sign;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

static void expand_q4_0(const uint8_t *src, int64_t n, float *restrict out)
{
    for (int64_t b = 0; b < n / 32; b++, src += 18, out += 32) {
        float d = quant_f16_to_f32(le16_at(src));

        for (int i = 0; i < 16; i++) {
            out[i] = d * (float)((src[2 + i] & 15) - 8);
            out[i + 16] = d * (float)((src[2 + i] >> 4) - 8);
        }
    }
}

static void expand_q4_1(const uint8_t *src, int64_t n, float *restrict out)
{
    for (int64_t b = 0; b < n / 32; b++, src += 20, out += 32) {
        float d = quant_f16_to_f32(le16_at(src)), m = quant_f16_to_f32(le16_at(src + 2));

        for (int i = 0; i < 16; i++) {
            out[i] = d * (float)(src[4 + i] & 15) + m;
            out[i + 16] = d * (float)(src[4 + i] >> 4) + m;
        }
    }
}

static void expand_q8_0(const uint8_t *src, int64_t n, float *restrict out)
{
    for (int64_t b = 0; b < n / 32; b++, src += 34, out += 32) {
        float d = quant_f16_to_f32(le16_at(src));

        for (int i = 0; i < 32; i++)
            out[i] = d * (float)(int8_t)src[2 + i];
    }
}

static void expand_f64(const uint8_t *src, int64_t n, float *restrict out)
{
    for (int64_t i = 0; i < n; i++) {
        double v;

        memcpy(&v, src + 8 * i, sizeof(v));
        out[i] = (float)v;
    }
}

static void expand_chunk(enum quant_type type, const uint8_t *src, int64_t n, float *restrict out)
{
    switch (type) {
    case QUANT_F32:
        memcpy(out, src, (size_t)n * 4);
        return;
    case QUANT_F64:
        expand_f64(src, n, out);
        return;
    case QUANT_F16:
        for (int64_t i = 0; i < n; i++)
            out[i] = quant_f16_to_f32(le16_at(src + 2 * i));
        return;
    case QUANT_BF16:
        for (int64_t i = 0; i < n; i++)
            out[i] = kn_bf16_to_f32(le16_at(src + 2 * i));
        return;
    case QUANT_Q4_0:
        expand_q4_0(src, n, out);
        return;
    case QUANT_Q4_1:
        expand_q4_1(src, n, out);
        return;
    case QUANT_Q8_0:
        expand_q8_0(src, n, out);
        return;
    }
    abort(); /* quant_info has called the type supported */
}

void quant_expand(enum quant_type type, const uint8_t *src, int64_t n, enum kn_dtype dtype,
                  void *out)
{
    const struct quant_info *info = quant_info(type);
    float chunk[CHUNK];

    assert(info && info->block_bytes > 0);
    assert(n % info->block == 0);
    if (type == QUANT_BF16 && dtype == KN_BF16) { /* also keeps the payload of NaNs */
        memcpy(out, src, (size_t)n * 2);
        return;
    }
    for (int64_t at = 0; at < n; at += CHUNK) {
        int64_t m = n - at < CHUNK ? n - at : CHUNK;
        const uint8_t *from = src + at / info->block * info->block_bytes;

        if (dtype == KN_F32) {
            expand_chunk(type, from, m, (float *)out + at);
            continue;
        }
        expand_chunk(type, from, m, chunk);
        for (int64_t i = 0; i < m; i++)
            ((uint16_t *)out)[at + i] = kn_f32_to_bf16(chunk[i]);
    }
}
