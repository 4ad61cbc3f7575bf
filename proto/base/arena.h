/* arena.h - memory with one lifetime: bump allocation out of blocks, all freed together. */
#pragma once
#include <stddef.h>

struct lh_arena {
    struct lh_arena_block *blocks;
    size_t used_bytes; /* over all blocks */
    size_t max_bytes;
};

void lh_arena_init(struct lh_arena *a, size_t max_bytes);
void lh_arena_release(struct lh_arena *a);

/* n bytes of zeros, aligned for any type; NULL when the maximum or memory is exhausted. */
void *lh_arena_alloc(struct lh_arena *a, size_t n);

/* A copy of the string; NULL as above. NULL in gives NULL out. */
char *lh_arena_strdup(struct lh_arena *a, const char *s);

/* printf into the arena; NULL as above. */
char *lh_arena_printf(struct lh_arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
