/* spans.h - ranges that lie end to end, as an array of where each begins. */
#pragma once
#include <stdint.h>

/* Of n ranges whose begins never decrease: the last that begins at or before x; 0 where none does.
 */
static inline uint64_t span_holding(const uint64_t *begin, uint64_t n, uint64_t x)
{
    uint64_t low = 0, high = n;

    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;

        if (begin[middle] <= x)
            low = middle;
        else
            high = middle;
    }
    return low;
}
