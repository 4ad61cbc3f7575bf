/* utf8.c - see utf8.h. */
#include "worker/text/utf8.h"
#include <stdlib.h>
#include <string.h>

/* What may follow a lead byte: how many bytes, and the range of the first of them (which rules out
 * overlong forms, surrogates and everything above U+10FFFF). Returns 0 for a byte that cannot lead.
 */
static unsigned sequence_bytes(uint8_t lead, uint8_t *lo, uint8_t *hi)
{
    *lo = 0x80;
    *hi = 0xbf;
    if (lead < 0x80)
        return 1;
    if (lead >= 0xc2 && lead <= 0xdf)
        return 2;
    if (lead >= 0xe0 && lead <= 0xef) {
        *lo = lead == 0xe0 ? 0xa0 : 0x80;
        *hi = lead == 0xed ? 0x9f : 0xbf;
        return 3;
    }
    if (lead >= 0xf0 && lead <= 0xf4) {
        *lo = lead == 0xf0 ? 0x90 : 0x80;
        *hi = lead == 0xf4 ? 0x8f : 0xbf;
        return 4;
    }
    return 0;
}

/* Bytes of the well-formed start of a character at p; *whole says whether that is all of it. At
 * least 1. */
static size_t character(const uint8_t *p, size_t n, bool *whole)
{
    uint8_t lo, hi;
    unsigned want = sequence_bytes(p[0], &lo, &hi);
    size_t have = 1;

    while (have < want && have < n && p[have] >= lo && p[have] <= hi) {
        lo = 0x80;
        hi = 0xbf;
        have++;
    }
    *whole = want > 0 && have == want;
    return have;
}

size_t utf8_valid_prefix(const char *text, size_t n)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t at = 0;
    bool whole;

    while (at < n) {
        uint64_t eight;
        size_t m;

        if (n - at >= 8) {
            memcpy(&eight, p + at, 8);
            if ((eight & 0x8080808080808080u) == 0) {
                at += 8;
                continue;
            }
        }
        m = character(p + at, n - at, &whole);
        if (!whole)
            return at;
        at += m;
    }
    return n;
}

unsigned utf8_char(const char *text, uint32_t *ret_code)
{
    const uint8_t *p = (const uint8_t *)text;

    if (p[0] < 0x80) {
        *ret_code = p[0];
        return 1;
    }
    if (p[0] < 0xe0) {
        *ret_code = (p[0] & 31u) << 6 | (p[1] & 63u);
        return 2;
    }
    if (p[0] < 0xf0) {
        *ret_code = (p[0] & 15u) << 12 | (p[1] & 63u) << 6 | (p[2] & 63u);
        return 3;
    }
    *ret_code = (p[0] & 7u) << 18 | (p[1] & 63u) << 12 | (p[2] & 63u) << 6 | (p[3] & 63u);
    return 4;
}

bool utf8_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == 32 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

size_t utf8_spaces_at_start(const char *text, size_t n)
{
    size_t at = 0;

    while (at < n) {
        uint32_t code;
        unsigned m = utf8_char(text + at, &code);

        if (!utf8_is_space(code))
            break;
        at += m;
    }
    return at;
}

size_t utf8_spaces_at_end(const char *text, size_t n)
{
    size_t left = n;

    while (left > 0) {
        size_t start = left - 1;
        uint32_t code;

        while (start > 0 && ((uint8_t)text[start] & 0xc0) == 0x80)
            start--;
        (void)utf8_char(text + start, &code);
        if (!utf8_is_space(code))
            break;
        left = start;
    }
    return n - left;
}

char *utf8_lossy(const char *bytes, size_t n, size_t *ret_len)
{
    char *out = malloc(3 * n + 1); /* a broken byte becomes three */
    size_t at = 0, used = 0;
    bool whole;

    if (!out)
        return NULL;
    while (at < n) {
        size_t m = character((const uint8_t *)bytes + at, n - at, &whole);

        memcpy(out + used, whole ? bytes + at : "\xef\xbf\xbd", whole ? m : 3);
        used += whole ? m : 3;
        at += m;
    }
    out[used] = '\0';
    *ret_len = used;
    return out;
}
