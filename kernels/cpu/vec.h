/* vec.h - sixteen floats at a time, in GCC's vector extension: the same source for every
 * instruction set.
 *
 * Loads and stores take both element types and a count n, so that a row's tail needs no second
 * loop: lanes from n on read as 0 and are not written. Functions are inlined into callers that are
 * compiled once per vector width (CPU_CLONES). Sums of lanes are always taken in the same order.
 */
#pragma once
#include "kernels/tensor.h"
#include <string.h>

#define VEC 16

typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t v16i __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t v16u __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t v16h __attribute__((vector_size(32), aligned(2), may_alias));
typedef double v8d __attribute__((vector_size(64), aligned(8), may_alias));
typedef float v8 __attribute__((vector_size(32), aligned(4), may_alias));

#define VEC_INLINE static inline __attribute__((always_inline, unused))

VEC_INLINE v16 v16_all(float x)
{
    return x - (v16){0};
}

/* Lanes of a where mask is -1, of b where it is 0. */
VEC_INLINE v16 v16_select(v16i mask, v16 a, v16 b)
{
    return (v16)(((v16i)a & mask) | ((v16i)b & ~mask));
}

/* A NaN in a stays one. */
VEC_INLINE v16 v16_max(v16 a, v16 b)
{
    return v16_select(a < b, b, a);
}

VEC_INLINE v16 v16_from_bf16(v16h h)
{
    return (v16)(__builtin_convertvector(h, v16u) << 16);
}

/* Round to nearest even; NaN stays NaN, as kn_f32_to_bf16. */
VEC_INLINE v16h v16_to_bf16(v16 x)
{
    v16u bits = (v16u)x;
    v16u rounded = bits + (0x7fffu + (bits >> 16 & 1u));
    v16u mask = (v16u)(x != x);

    return __builtin_convertvector(((rounded & ~mask) | ((bits | 0x400000u) & mask)) >> 16, v16h);
}

VEC_INLINE v16 v16_load_n(const void *p, enum kn_dtype t, int64_t n)
{
    if (t == KN_F32) {
        v16 x = {0};

        memcpy(&x, p, (size_t)n * 4);
        return x;
    }
    v16h h = {0};

    memcpy(&h, p, (size_t)n * 2);
    return v16_from_bf16(h);
}

/* n lanes (1..16) of row r of m from column c. */
VEC_INLINE v16 v16_load(struct kn_mat m, int64_t r, int64_t c, int64_t n)
{
    if (m.t == KN_F32) {
        const float *p = (const float *)m.p + r * m.ld + c;

        return n >= VEC ? *(const v16 *)p : v16_load_n(p, KN_F32, n);
    }
    const uint16_t *p = (const uint16_t *)m.p + r * m.ld + c;

    return n >= VEC ? v16_from_bf16(*(const v16h *)p) : v16_load_n(p, KN_BF16, n);
}

VEC_INLINE void v16_store(struct kn_mat m, int64_t r, int64_t c, int64_t n, v16 x)
{
    if (m.t == KN_F32) {
        float *p = (float *)m.p + r * m.ld + c;

        if (n >= VEC)
            *(v16 *)p = x;
        else
            memcpy(p, &x, (size_t)n * 4);
        return;
    }
    uint16_t *p = (uint16_t *)m.p + r * m.ld + c;
    v16h h = v16_to_bf16(x);

    if (n >= VEC)
        *(v16h *)p = h;
    else
        memcpy(p, &h, (size_t)n * 2);
}

VEC_INLINE v16 v16_load_f32(const float *p, int64_t n)
{
    return n >= VEC ? *(const v16 *)p : v16_load_n(p, KN_F32, n);
}

VEC_INLINE void v16_store_f32(float *p, int64_t n, v16 x)
{
    if (n >= VEC)
        *(v16 *)p = x;
    else
        memcpy(p, &x, (size_t)n * 4);
}

/* The first n lanes of x, fill in the others. */
VEC_INLINE v16 v16_tail(v16 x, int64_t n, float fill)
{
    for (int64_t i = n; i < VEC; i++)
        x[i] = fill;
    return x;
}

VEC_INLINE v16 v16_sqrt(v16 x)
{
    for (int i = 0; i < VEC; i++)
        x[i] = __builtin_sqrtf(x[i]);
    return x;
}

VEC_INLINE float v16_sum(v16 x)
{
    float part[VEC];

    memcpy(part, &x, sizeof(part));
    for (int half = VEC / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            part[i] += part[i + half];
    return part[0];
}

VEC_INLINE float v16_max_lane(v16 x)
{
    float part[VEC];

    memcpy(part, &x, sizeof(part));
    for (int half = VEC / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            part[i] = part[i] < part[i + half] ? part[i + half] : part[i];
    return part[0];
}

/* acc[0..1] += x, in double. */
VEC_INLINE void v16_add_to_double(v8d acc[2], v16 x)
{
    v8 half[2];

    memcpy(half, &x, sizeof(half));
    acc[0] += __builtin_convertvector(half[0], v8d);
    acc[1] += __builtin_convertvector(half[1], v8d);
}

VEC_INLINE double v8d_sum(v8d a, v8d b)
{
    double part[8], sum = 0.0;
    v8d x = a + b;

    memcpy(part, &x, sizeof(part));
    for (int i = 0; i < 8; i++)
        sum += part[i];
    return sum;
}

/* 2^x to within 2 ulp; 0 below the smallest normal number, NaN stays NaN, above 2^127.99 a large
 * finite number. */
VEC_INLINE v16 v16_exp2(v16 x)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    v16i below = x < v16_all(-126.0f);
    v16 z =
        v16_select(x > v16_all(127.99f), v16_all(127.99f), v16_select(below, v16_all(-126.0f), x));
    v16 shifted = z + magic;
    v16 r = z - (shifted - magic);
    v16i n = (v16i)shifted << 23; /* the whole number sits in the low bits of the mantissa */
    v16 p = v16_all(1.535336188319500e-4f);

    p = p * r + 1.339887440266574e-3f;
    p = p * r + 9.618437357674640e-3f;
    p = p * r + 5.550332471162809e-2f;
    p = p * r + 2.402264791363012e-1f;
    p = p * r + 6.931472028550421e-1f;
    p = p * r + 1.0f;
    return v16_select(below, (v16){0}, (v16)((v16i)p + n));
}

/* e^x, with the product x/ln 2 split so that large |x| keep their accuracy. */
VEC_INLINE v16 v16_exp(v16 x)
{
    const float magic = 12582912.0f;
    v16i below = x < v16_all(-87.336544f);
    v16 z = v16_select(x > v16_all(88.72f), v16_all(88.72f),
                       v16_select(below, v16_all(-87.336544f), x));
    v16 shifted = z * 1.44269504088896341f + magic;
    v16 n = shifted - magic;
    v16 r = (z - n * 0.693359375f) + n * 2.12194440e-4f;
    v16 p = v16_all(1.9875691500e-4f);

    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    return v16_select(below, (v16){0}, (v16)((v16i)p + ((v16i)shifted << 23)));
}
