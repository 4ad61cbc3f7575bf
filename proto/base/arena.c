/* arena.c - see arena.h. */
#include "proto/base/arena.h"
#include "proto/base/attr.h"
#include <assert.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Most arenas hold one parsed job (some hundred bytes, and the coordinator keeps a hundred thousand of them) or one
 * request (a few KiB): the first block is small, each further one twice the last. */
#define BLOCK_FIRST_BYTES ((size_t)512)
#define BLOCK_MAX_BYTES ((size_t)16 * 1024)
#define ALIGN ((size_t)16)

struct lh_arena_block {
    struct lh_arena_block *next;
    size_t used, cap;
    _Alignas(16) char bytes[];
};

void lh_arena_init(struct lh_arena *a, size_t max_bytes)
{
    *a = (struct lh_arena){.max_bytes = max_bytes};
}

void lh_arena_release(struct lh_arena *a)
{
    struct lh_arena_block *b = a->blocks;

    while (b) {
        struct lh_arena_block *next = b->next;

        free(b);
        b = next;
    }
    a->blocks = NULL;
    a->used_bytes = 0;
}

void *lh_arena_alloc(struct lh_arena *a, size_t n)
{
    struct lh_arena_block *b = a->blocks;
    void *p;

    if (n > a->max_bytes || n > SIZE_MAX - ALIGN)
        return NULL;
    n = (n + ALIGN - 1) / ALIGN * ALIGN;
    if (n > a->max_bytes - LH_MIN(a->used_bytes, a->max_bytes))
        return NULL;
    if (!b || b->cap - b->used < n) {
        size_t cap = b ? LH_MIN(2 * b->cap, BLOCK_MAX_BYTES) : BLOCK_FIRST_BYTES;

        cap = LH_MAX(n, cap);

        b = calloc(1, sizeof(*b) + cap);
        if (!b)
            return NULL;
        b->cap = cap;
        b->next = a->blocks;
        a->blocks = b;
    }
    p = b->bytes + b->used;
    b->used += n;
    a->used_bytes += n;
    return p;
}

char *lh_arena_strdup(struct lh_arena *a, const char *s)
{
    size_t n;
    char *copy;

    if (!s)
        return NULL;
    n = strlen(s) + 1;
    copy = lh_arena_alloc(a, n);
    if (copy)
        memcpy(copy, s, n);
    return copy;
}

char *lh_arena_printf(struct lh_arena *a, const char *fmt, ...)
{
    va_list ap;
    char *text;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    assert(n >= 0);
    text = lh_arena_alloc(a, (size_t)n + 1);
    if (!text)
        return NULL;
    va_start(ap, fmt);
    (void)vsnprintf(text, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return text;
}
