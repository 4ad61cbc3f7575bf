/* dropout.h - which elements dropout drops: a pure function of a row's key, a place and the column.
 *
 * Every back end must draw the same bits, so the drawing stands here. What is dropped thus depends
 * neither on threads nor on how rows are laid out, and a backward pass draws it again instead of
 * keeping it.
 */
#pragma once
#include <stdint.h>

/* What a call of kn_ops.dropout drops. */
struct kn_dropout {
    double rate;         /* share of elements, in [0, 1) */
    uint64_t place;      /* tells apart what is dropped for the same row more than once */
    const uint64_t *key; /* device: one for each row */
};

/* SplitMix64's finaliser. */
static inline uint64_t kn_dropout_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Where the draws of a row begin. */
static inline uint64_t kn_dropout_start(uint64_t key, uint64_t place)
{
    return kn_dropout_mix(key ^ kn_dropout_mix(place + 0x9e3779b97f4a7c15u));
}

/* Draws for the columns 2 * pair (low half) and 2 * pair + 1 (high half). */
static inline uint64_t kn_dropout_pair(uint64_t start, int64_t pair)
{
    return kn_dropout_mix(start + ((uint64_t)pair + 1) * 0x9e3779b97f4a7c15u);
}

/* An element is dropped when its draw is below this. */
static inline uint32_t kn_dropout_limit(double rate)
{
    return (uint32_t)(rate * 0x1p32);
}

/* What the elements that stay are multiplied by, so that the mean does not change. */
static inline float kn_dropout_scale(double rate)
{
    return (float)(1 / (1 - rate));
}
