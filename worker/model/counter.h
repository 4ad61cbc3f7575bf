/* counter.h - random numbers by counter: any of them can be made without the ones before it, so
 * what is drawn does not depend on who draws, nor on the order.
 */
#pragma once
#include <stdint.h>

/* SplitMix64's finaliser. */
static inline uint64_t counter_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* 64 bits for a place (tensor, prompt) and an index in it. */
static inline uint64_t counter_bits(uint64_t seed, uint64_t place, uint64_t index)
{
    return counter_mix(counter_mix(counter_mix(seed) ^ place) ^ index);
}

/* Uniform in [0,1), 24 bits. */
static inline float counter_uniform(uint64_t seed, uint64_t place, uint64_t index)
{
    return (float)(counter_bits(seed, place, index) >> 40) * 0x1p-24f;
}
