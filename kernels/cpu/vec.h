/* vec.h - as many floats at a time as the vector level's registers hold, in GCC's vector extension:
 * the same source for every instruction set.
 *
 * Loads and stores take both element types and a count n, so that a row's tail needs no second
 * loop: lanes from n on read as 0 and are not written. Included only by files that are compiled
 * once per vector level (level.h). Sums of lanes are always taken in the same order. Where GCC 12
 * makes several instructions of what AVX-512 does in one, that one is asked for by name. Vectors
 * wider than the registers are no way out: GCC 12 takes their comparisons and shuffles apart
 * element by element.
 */
#pragma once
#include "kernels/tensor.h"
#include <math.h>
#include <string.h>
#ifdef __AVX512BW__
#include <immintrin.h>
#endif

#if defined(__AVX512BW__)
#define VEC 16
#elif defined(__AVX2__)
#define VEC 8
#else
#define VEC 4
#endif

/* VEC lanes each: float, integers of its size, bf16 as bits. */
typedef float vf __attribute__((vector_size(4 * VEC), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * VEC), aligned(4), may_alias));
typedef uint32_t vu __attribute__((vector_size(4 * VEC), aligned(4), may_alias));
typedef uint16_t vh __attribute__((vector_size(2 * VEC), aligned(2), may_alias));
typedef uint16_t vraw __attribute__((vector_size(4 * VEC), aligned(2), may_alias));
/* VEC / 2 lanes. */
typedef double vd __attribute__((vector_size(4 * VEC), aligned(8), may_alias));
typedef float vhalf __attribute__((vector_size(2 * VEC), aligned(4), may_alias));

#define VEC_INLINE static inline __attribute__((always_inline, unused))

VEC_INLINE vf vf_all(float x)
{
    return x - (vf){0};
}

VEC_INLINE vi vi_all(int32_t x)
{
    return x - (vi){0};
}

/* 0, 1, 2, ... */
VEC_INLINE vi vi_lanes(void)
{
    vi x;

    for (int i = 0; i < VEC; i++)
        x[i] = i;
    return x;
}

/* Lanes of a where mask is -1, of b where it is 0. */
VEC_INLINE vf vf_select(vi mask, vf a, vf b)
{
    return (vf)(((vi)a & mask) | ((vi)b & ~mask));
}

/* A NaN in a stays one. */
VEC_INLINE vf vf_max(vf a, vf b)
{
#ifdef __AVX512F__
    return (vf)_mm512_max_ps((__m512)b, (__m512)a);
#else
    return vf_select(a < b, b, a);
#endif
}

VEC_INLINE vf vf_from_bf16(vh h)
{
#ifdef __AVX512BW__
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)h), 16);
#else
    return (vf)(__builtin_convertvector(h, vu) << 16);
#endif
}

/* Round to nearest even; NaN stays NaN, as kn_f32_to_bf16. The instruction takes numbers below
 * 2^-126 for 0. */
VEC_INLINE vh vf_to_bf16(vf x)
{
#ifdef __AVX512BF16__
    return (vh)_mm512_cvtneps_pbh((__m512)x);
#else
    vu bits = (vu)x;
    vu rounded = bits + (0x7fffu + (bits >> 16 & 1u));
    vu mask = (vu)(x != x);

    return __builtin_convertvector(((rounded & ~mask) | ((bits | 0x400000u) & mask)) >> 16, vh);
#endif
}

#ifdef __AVX512BW__
VEC_INLINE __mmask16 vf_mask(int64_t n)
{
    return (__mmask16)(n >= VEC ? 0xffffu : (1u << n) - 1u);
}
#endif

VEC_INLINE vf vf_load_f32(const float *p, int64_t n)
{
#ifdef __AVX512BW__
    return (vf)_mm512_maskz_loadu_ps(vf_mask(n), p);
#else
    vf x = {0};

    if (n >= VEC)
        return *(const vf *)p;
    memcpy(&x, p, (size_t)n * 4);
    return x;
#endif
}

VEC_INLINE vh vf_load_bf16(const uint16_t *p, int64_t n)
{
#ifdef __AVX512BW__
    return (vh)_mm256_maskz_loadu_epi16(vf_mask(n), p);
#else
    vh h = {0};

    if (n >= VEC)
        return *(const vh *)p;
    memcpy(&h, p, (size_t)n * 2);
    return h;
#endif
}

VEC_INLINE void vf_store_f32(float *p, int64_t n, vf x)
{
#ifdef __AVX512BW__
    _mm512_mask_storeu_ps(p, vf_mask(n), (__m512)x);
#else
    if (n >= VEC)
        *(vf *)p = x;
    else
        memcpy(p, &x, (size_t)n * 4);
#endif
}

VEC_INLINE void vf_store_bf16(uint16_t *p, int64_t n, vh h)
{
#ifdef __AVX512BW__
    _mm256_mask_storeu_epi16(p, vf_mask(n), (__m256i)h);
#else
    if (n >= VEC)
        *(vh *)p = h;
    else
        memcpy(p, &h, (size_t)n * 2);
#endif
}

/* Of row r of m, the lanes from column c; n of them (1 to VEC, more counts as VEC). */
VEC_INLINE vf vf_load(struct kn_mat m, int64_t r, int64_t c, int64_t n)
{
    if (m.t == KN_F32)
        return vf_load_f32((const float *)m.p + r * m.ld + c, n);
    return vf_from_bf16(vf_load_bf16((const uint16_t *)m.p + r * m.ld + c, n));
}

VEC_INLINE void vf_store(struct kn_mat m, int64_t r, int64_t c, int64_t n, vf x)
{
    if (m.t == KN_F32)
        vf_store_f32((float *)m.p + r * m.ld + c, n, x);
    else
        vf_store_bf16((uint16_t *)m.p + r * m.ld + c, n, vf_to_bf16(x));
}

/* The first n lanes of x, fill in the others. */
VEC_INLINE vf vf_tail(vf x, int64_t n, float fill)
{
    for (int64_t i = n; i < VEC; i++)
        x[i] = fill;
    return x;
}

VEC_INLINE vf vf_sqrt(vf x)
{
    for (int i = 0; i < VEC; i++)
        x[i] = __builtin_sqrtf(x[i]);
    return x;
}

/* Numbers of lanes for shuffles. In memory, since GCC 12 builds such vectors lane by lane: lanes
 * from VEC on are those of a second vector, and what stands behind the first VEC is not read. */
#define VEC_LANES4(LANE, i, half)                                                                  \
    LANE(i, half), LANE((i) + 1, half), LANE((i) + 2, half), LANE((i) + 3, half)
#define VEC_LANES(LANE, half)                                                                      \
    {                                                                                              \
        VEC_LANES4(LANE, 0, half), VEC_LANES4(LANE, 4, half), VEC_LANES4(LANE, 8, half),           \
            VEC_LANES4(LANE, 12, half)                                                             \
    }
#define VEC_TURN(i, half) (((i) + (half)) % VEC)
#define VEC_LOW(i, half) (((i) & (half) ? VEC : 0) + ((i) & ~(half)))
#define VEC_HIGH(i, half) (((i) & (half) ? VEC : 0) + ((i) | (half)))
static const struct vec_lanes {
    int32_t turn[16]; /* lane i + half, round the end */
    int32_t low[16],
        high[16]; /* folds 2 * half lanes: from the second where bit half of i is set */
} vec_lanes[] __attribute__((aligned(64), unused)) = {
    [1] = {VEC_LANES(VEC_TURN, 1), VEC_LANES(VEC_LOW, 1), VEC_LANES(VEC_HIGH, 1)},
    [2] = {VEC_LANES(VEC_TURN, 2), VEC_LANES(VEC_LOW, 2), VEC_LANES(VEC_HIGH, 2)},
    [4] = {VEC_LANES(VEC_TURN, 4), VEC_LANES(VEC_LOW, 4), VEC_LANES(VEC_HIGH, 4)},
    [8] = {VEC_LANES(VEC_TURN, 8), VEC_LANES(VEC_LOW, 8), VEC_LANES(VEC_HIGH, 8)},
};

/* Lanes i and i + half side by side: the step of every reduction below. */
VEC_INLINE vf vf_rotate(vf x, int half)
{
    return __builtin_shuffle(x, *(const vi *)vec_lanes[half].turn);
}

VEC_INLINE float vf_sum(vf x)
{
    for (int half = VEC / 2; half > 0; half /= 2)
        x += vf_rotate(x, half);
    return x[0];
}

VEC_INLINE float vf_max_lane(vf x)
{
    for (int half = VEC / 2; half > 0; half /= 2)
        x = vf_max(x, vf_rotate(x, half));
    return x[0];
}

/* Lane i of the result is the greatest lane of x[i]; x is used up. Pairs of vectors are folded into
 * one, half their lanes each, until one is left: VEC - 1 maxima for VEC rows. */
VEC_INLINE vf vf_max_rows(vf x[VEC])
{
#pragma GCC unroll 8 /* of its own accord GCC keeps the loops, and so x in memory */
    for (int half = VEC / 2; half > 0; half /= 2) {
        vi low = *(const vi *)vec_lanes[half].low, high = *(const vi *)vec_lanes[half].high;

#pragma GCC unroll 8
        for (int i = 0; i < half; i++)
            x[i] = vf_max(__builtin_shuffle(x[i], x[i + half], low),
                          __builtin_shuffle(x[i], x[i + half], high));
    }
    return x[0];
}

/* The same with sums. */
VEC_INLINE vf vf_sum_rows(vf x[VEC])
{
#pragma GCC unroll 8
    for (int half = VEC / 2; half > 0; half /= 2) {
        vi low = *(const vi *)vec_lanes[half].low, high = *(const vi *)vec_lanes[half].high;

#pragma GCC unroll 8
        for (int i = 0; i < half; i++)
            x[i] = __builtin_shuffle(x[i], x[i + half], low) +
                   __builtin_shuffle(x[i], x[i + half], high);
    }
    return x[0];
}

/* VEC rows of VEC 32-bit words, transposed in rounds of exchanging halves. */
VEC_INLINE void vu_transpose(vu x[VEC])
{
#pragma GCC unroll 4
    for (int half = VEC / 2; half > 0; half /= 2) {
        vu low = *(const vu *)vec_lanes[half].low, high = *(const vu *)vec_lanes[half].high;

#pragma GCC unroll 16
        for (int i = 0; i < VEC; i++) {
            vu a = x[i], b;

            if (i & half)
                continue;
            b = x[i + half];
            x[i] = __builtin_shuffle(a, b, low);
            x[i + half] = __builtin_shuffle(a, b, high);
        }
    }
}

/* acc[0..1] += x, in double. */
VEC_INLINE void vf_add_to_double(vd acc[2], vf x)
{
    vhalf half[2];

    memcpy(half, &x, sizeof(half));
    acc[0] += __builtin_convertvector(half[0], vd);
    acc[1] += __builtin_convertvector(half[1], vd);
}

VEC_INLINE double vd_sum(vd a, vd b)
{
    double sum = 0.0;
    vd x = a + b;

    for (int i = 0; i < VEC / 2; i++)
        sum += x[i];
    return sum;
}

/* 2^x with a relative error of 5e-7; 0 below 2^-126, NaN stays NaN, above 2^127.99 a large number
 * or infinity. The polynomial is the best of degree 5 on [-1/2, 1/2] that is exact at 0. */
VEC_INLINE vf vf_exp2(vf x)
{
    vf p = vf_all(1.112550768e-3f);
#ifdef __AVX512F__
    __m512 z = _mm512_max_ps(_mm512_set1_ps(-127.0f), (__m512)x); /* of a NaN the second */
    __m512 n = _mm512_roundscale_ps(z, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vf r = (vf)(z - n);
#else
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    vi below = x < vf_all(-126.0f);
    vf z = vf_select(x > vf_all(127.99f), vf_all(127.99f), vf_select(below, vf_all(-126.0f), x));
    vf shifted = z + magic; /* the whole number now sits in the low bits of the mantissa */
    vf r = z - (shifted - magic);
#endif

    p = p * r + 9.666282525e-3f;
    p = p * r + 5.557400473e-2f;
    p = p * r + 2.402235065e-1f;
    p = p * r + 6.931428306e-1f;
    p = p * r + 1.0f;
#ifdef __AVX512F__
    return (vf)_mm512_maskz_scalef_ps(
        _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ), (__m512)p, n);
#else
    return vf_select(below, (vf){0}, (vf)((vi)p + ((vi)shifted << 23)));
#endif
}

/* The same for weights that are rounded to bf16 anyhow: relative error 3e-6, and at least 2^-126.
 * The polynomial is the best of degree 4 on [0, 1). */
VEC_INLINE vf vf_exp2_coarse(vf x)
{
#ifdef __AVX512F__
    __m512 z = _mm512_max_ps(_mm512_set1_ps(-126.0f), (__m512)x); /* of a NaN the second */
    vf r = (vf)_mm512_reduce_ps(z, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); /* z - floor(z) */
    vf p = vf_all(1.35341678e-2f);

    p = p * r + 5.20114638e-2f;
    p = p * r + 2.41442755e-1f;
    p = p * r + 6.93003833e-1f;
    p = p * r + 1.0000026226f;
    return (vf)_mm512_scalef_ps((__m512)p, z); /* times 2^floor(z) */
#else
    return vf_exp2(x);
#endif
}

/* The same for weights of fp32: relative error 1.5e-7, and at least 2^-126. The polynomial is the
 * best of degree 5 on [0, 1) that is exact at 0. */
VEC_INLINE vf vf_exp2_floor(vf x)
{
#ifdef __AVX512F__
    __m512 z = _mm512_max_ps(_mm512_set1_ps(-126.0f), (__m512)x); /* of a NaN the second */
    vf r = (vf)_mm512_reduce_ps(z, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); /* z - floor(z) */
    vf p = vf_all(1.86713007e-3f);

    p = p * r + 9.01703032e-3f;
    p = p * r + 5.57999131e-2f;
    p = p * r + 2.4016445e-1f;
    p = p * r + 6.93151312e-1f;
    p = p * r + 1.0f;
    return (vf)_mm512_scalef_ps((__m512)p, z); /* times 2^floor(z) */
#else
    return vf_exp2(x);
#endif
}

/* 1 / x with a relative error of 7e-5. */
VEC_INLINE vf vf_reciprocal_coarse(vf x)
{
#ifdef __AVX512F__
    return (vf)_mm512_rcp14_ps((__m512)x);
#else
    return 1.0f / x;
#endif
}

/* log2 of a positive x that is no denormal, to within 1e-7 of it or of 1; NaN stays NaN. With m in
 * [sqrt(1/2), sqrt(2)) the rest of the series of ln((1 + s) / (1 - s)), s = (m - 1) / (m + 1), is
 * below 1e-9. */
VEC_INLINE vf vf_log2(vf x)
{
    vi e = ((vi)x - 0x3f3504f3) >> 23;
    vf m = (vf)((vi)x - (e << 23));
    vf s = (m - 1.0f) / (m + 1.0f), s2 = s * s;
    vf series = ((s2 * (1.0f / 9) + 1.0f / 7) * s2 + 1.0f / 5) * s2 + 1.0f / 3;

    return __builtin_convertvector(e, vf) + (float)(2.0 * M_LOG2E) * (s + s * s2 * series);
}

/* e^x to within 2e-6 for |x| < 30: the product x / ln 2 is rounded. */
VEC_INLINE vf vf_exp(vf x)
{
    return vf_exp2(x * (float)M_LOG2E);
}
