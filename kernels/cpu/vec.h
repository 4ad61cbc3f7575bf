/* vec.h - sixteen floats at a time, in GCC's vector extension: the same source for every
 * instruction set.
 *
 * Loads and stores take both element types and a count n, so that a row's tail needs no second
 * loop: lanes from n on read as 0 and are not written. Included only by files that are compiled
 * once per vector level (level.h). Sums of lanes are always taken in the same order. Where GCC 12
 * makes several instructions of what AVX-512 does in one, that one is asked for by name.
 */
#pragma once
#include "kernels/tensor.h"
#include <math.h>
#include <string.h>
#ifdef __AVX512BW__
#include <immintrin.h>
#endif

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
#ifdef __AVX512F__
    return (v16)_mm512_max_ps((__m512)b, (__m512)a);
#else
    return v16_select(a < b, b, a);
#endif
}

VEC_INLINE v16 v16_from_bf16(v16h h)
{
#ifdef __AVX512BW__
    return (v16)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)h), 16);
#else
    return (v16)(__builtin_convertvector(h, v16u) << 16);
#endif
}

/* Round to nearest even; NaN stays NaN, as kn_f32_to_bf16. The instruction takes numbers below
 * 2^-126 for 0. */
VEC_INLINE v16h v16_to_bf16(v16 x)
{
#ifdef __AVX512BF16__
    return (v16h)_mm512_cvtneps_pbh((__m512)x);
#else
    v16u bits = (v16u)x;
    v16u rounded = bits + (0x7fffu + (bits >> 16 & 1u));
    v16u mask = (v16u)(x != x);

    return __builtin_convertvector(((rounded & ~mask) | ((bits | 0x400000u) & mask)) >> 16, v16h);
#endif
}

#ifdef __AVX512BW__
VEC_INLINE __mmask16 v16_mask(int64_t n)
{
    return (__mmask16)(n >= VEC ? 0xffffu : (1u << n) - 1u);
}
#endif

VEC_INLINE v16 v16_load_f32(const float *p, int64_t n)
{
#ifdef __AVX512BW__
    return (v16)_mm512_maskz_loadu_ps(v16_mask(n), p);
#else
    v16 x = {0};

    if (n >= VEC)
        return *(const v16 *)p;
    memcpy(&x, p, (size_t)n * 4);
    return x;
#endif
}

VEC_INLINE v16h v16_load_bf16(const uint16_t *p, int64_t n)
{
#ifdef __AVX512BW__
    return (v16h)_mm256_maskz_loadu_epi16(v16_mask(n), p);
#else
    v16h h = {0};

    if (n >= VEC)
        return *(const v16h *)p;
    memcpy(&h, p, (size_t)n * 2);
    return h;
#endif
}

VEC_INLINE void v16_store_f32(float *p, int64_t n, v16 x)
{
#ifdef __AVX512BW__
    _mm512_mask_storeu_ps(p, v16_mask(n), (__m512)x);
#else
    if (n >= VEC)
        *(v16 *)p = x;
    else
        memcpy(p, &x, (size_t)n * 4);
#endif
}

VEC_INLINE void v16_store_bf16(uint16_t *p, int64_t n, v16h h)
{
#ifdef __AVX512BW__
    _mm256_mask_storeu_epi16(p, v16_mask(n), (__m256i)h);
#else
    if (n >= VEC)
        *(v16h *)p = h;
    else
        memcpy(p, &h, (size_t)n * 2);
#endif
}

/* Of row r of m, the lanes from column c; n of them (1 to VEC, more counts as VEC). */
VEC_INLINE v16 v16_load(struct kn_mat m, int64_t r, int64_t c, int64_t n)
{
    if (m.t == KN_F32)
        return v16_load_f32((const float *)m.p + r * m.ld + c, n);
    return v16_from_bf16(v16_load_bf16((const uint16_t *)m.p + r * m.ld + c, n));
}

VEC_INLINE void v16_store(struct kn_mat m, int64_t r, int64_t c, int64_t n, v16 x)
{
    if (m.t == KN_F32)
        v16_store_f32((float *)m.p + r * m.ld + c, n, x);
    else
        v16_store_bf16((uint16_t *)m.p + r * m.ld + c, n, v16_to_bf16(x));
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

/* Lanes i and i + half side by side: the step of every reduction below. */
VEC_INLINE v16 v16_rotate(v16 x, int half)
{
    v16i from;

    for (int i = 0; i < VEC; i++)
        from[i] = (i + half) % VEC;
    return __builtin_shuffle(x, from);
}

VEC_INLINE float v16_sum(v16 x)
{
    for (int half = VEC / 2; half > 0; half /= 2)
        x += v16_rotate(x, half);
    return x[0];
}

VEC_INLINE float v16_max_lane(v16 x)
{
    for (int half = VEC / 2; half > 0; half /= 2)
        x = v16_max(x, v16_rotate(x, half));
    return x[0];
}

/* Lane i of the result is the greatest lane of x[i]; x is used up. Pairs of vectors are folded into
 * one, half their lanes each, until one is left: 15 maxima for 16 rows. */
VEC_INLINE v16 v16_max_rows(v16 x[VEC])
{
    for (int half = VEC / 2; half > 0; half /= 2) {
        v16i low, high;

        for (int i = 0; i < VEC; i++) {
            /* Lanes with bit half set come from the second vector. */
            low[i] = (i & half ? VEC : 0) + (i & ~half);
            high[i] = (i & half ? VEC : 0) + (i | half);
        }
        for (int i = 0; i < half; i++)
            x[i] = v16_max(__builtin_shuffle(x[i], x[i + half], low),
                           __builtin_shuffle(x[i], x[i + half], high));
    }
    return x[0];
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

/* 2^x with a relative error of 5e-7; 0 below 2^-126, NaN stays NaN, above 2^127.99 a large number
 * or infinity. The polynomial is the best of degree 5 on [-1/2, 1/2] that is exact at 0. */
VEC_INLINE v16 v16_exp2(v16 x)
{
    v16 p = v16_all(1.112550768e-3f);
#ifdef __AVX512F__
    __m512 z = _mm512_max_ps(_mm512_set1_ps(-127.0f), (__m512)x); /* of a NaN the second */
    __m512 n = _mm512_roundscale_ps(z, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    v16 r = (v16)(z - n);
#else
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    v16i below = x < v16_all(-126.0f);
    v16 z =
        v16_select(x > v16_all(127.99f), v16_all(127.99f), v16_select(below, v16_all(-126.0f), x));
    v16 shifted = z + magic; /* the whole number now sits in the low bits of the mantissa */
    v16 r = z - (shifted - magic);
#endif

    p = p * r + 9.666282525e-3f;
    p = p * r + 5.557400473e-2f;
    p = p * r + 2.402235065e-1f;
    p = p * r + 6.931428306e-1f;
    p = p * r + 1.0f;
#ifdef __AVX512F__
    return (v16)_mm512_maskz_scalef_ps(
        _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ), (__m512)p, n);
#else
    return v16_select(below, (v16){0}, (v16)((v16i)p + ((v16i)shifted << 23)));
#endif
}

/* e^x to within 2e-6 for |x| < 30: the product x / ln 2 is rounded. */
VEC_INLINE v16 v16_exp(v16 x)
{
    return v16_exp2(x * (float)M_LOG2E);
}
