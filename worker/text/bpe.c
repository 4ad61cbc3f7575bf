/* bpe.c - see bpe.h.
 *
 * Short words (nearly all) are merged in a plain array; long ones, such as text without spaces,
 * through a heap of pairs over a linked list, so that time grows as n log n.
 */
#include "worker/text/bpe.h"
#include "worker/text/utf8.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SHORT_MAX 48 /* symbols; above it the heap wins */
#define CACHE_SLOTS                                                                                \
    (1u << 15) /* 2 MiB: words of a long text repeat far sooner than they collide                  \
                */
#define CACHE_WORD_MAX 22
#define CACHE_IDS_MAX 10
#define NO_RANK UINT32_MAX

struct cached {
    uint8_t len, n; /* len 0: empty */
    char word[CACHE_WORD_MAX];
    int32_t ids[CACHE_IDS_MAX];
};
static_assert(sizeof(struct cached) == 64, "one cache line an entry");

struct symbol {
    int32_t id;
    int32_t previous, next; /* -1: none; id -1: merged away */
};

struct bpe_scratch {
    struct cached *cache; /* NULL: none */
    struct symbol *symbols;
    uint64_t *heap; /* rank << 32 | position */
    size_t symbols_cap, heap_cap, heap_n;
};

int token_list_reserve(struct token_list *l, size_t n)
{
    size_t cap = l->cap ? l->cap : 256;
    int32_t *more;

    if (l->cap - l->n >= n)
        return 0;
    while (cap - l->n < n)
        cap *= 2;
    more = realloc(l->at, cap * sizeof(*more));
    if (!more)
        return -ENOMEM;
    l->at = more;
    l->cap = cap;
    return 0;
}

int bpe_init(struct bpe *b, const struct vocab *v, uint64_t n_merges)
{
    memset(b, 0, sizeof(*b));
    b->unknown = -1;
    for (int i = 0; i < 256; i++) {
        char byte = (char)i;

        b->byte_id[i] = vocab_find(v, &byte, 1);
    }
    b->n_slots = 1024;
    while (b->n_slots < 2 * n_merges)
        b->n_slots *= 2;
    b->merges = malloc(b->n_slots * sizeof(*b->merges));
    if (!b->merges)
        return -ENOMEM;
    memset(b->merges, 0xff, b->n_slots * sizeof(*b->merges));
    return 0;
}

void bpe_release(struct bpe *b)
{
    free(b->merges);
    b->merges = NULL;
}

static uint64_t slot_of(const struct bpe *b, uint64_t pair)
{
    uint64_t h = pair * 0x9e3779b97f4a7c15u;

    return (h ^ h >> 32) & (b->n_slots - 1);
}

static const struct bpe_merge *find(const struct bpe *b, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right, at = slot_of(b, pair);

    while (b->merges[at].pair != pair) {
        if (b->merges[at].pair == UINT64_MAX)
            return NULL;
        at = (at + 1) & (b->n_slots - 1);
    }
    return &b->merges[at];
}

void bpe_add(struct bpe *b, int32_t left, int32_t right, int32_t id)
{
    bpe_add_ranked(b, left, right, id, (uint32_t)b->n_merges);
}

void bpe_add_ranked(struct bpe *b, int32_t left, int32_t right, int32_t id, uint32_t rank)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right, at = slot_of(b, pair);

    assert(b->n_merges < b->n_slots / 2);
    if (!find(b, left, right)) {
        while (b->merges[at].pair != UINT64_MAX)
            at = (at + 1) & (b->n_slots - 1);
        b->merges[at] = (struct bpe_merge){pair, rank, id};
    }
    b->n_merges++;
}

struct bpe_scratch *bpe_scratch_new(bool with_cache)
{
    struct bpe_scratch *s = calloc(1, sizeof(*s));

    if (s && with_cache) {
        s->cache = calloc(CACHE_SLOTS, sizeof(*s->cache));
        if (!s->cache) {
            free(s);
            return NULL;
        }
    }
    return s;
}

void bpe_scratch_free(struct bpe_scratch *s)
{
    if (!s)
        return;
    free(s->cache);
    free(s->symbols);
    free(s->heap);
    free(s);
}

static size_t symbols_of_bytes(const struct bpe *b, const char *bytes, size_t n, int32_t *ids)
{
    size_t m = 0;

    for (size_t i = 0; i < n; i++) {
        int32_t id = b->byte_id[(uint8_t)bytes[i]];

        if (id < 0)
            id = b->unknown;
        if (id >= 0)
            ids[m++] = id;
    }
    return m;
}

/* The symbols of a word before merging into ids; returns how many. */
static size_t first_symbols(const struct bpe *b, const char *word, size_t n, int32_t *ids)
{
    size_t m = 0, len;

    if (!b->characters)
        return symbols_of_bytes(b, word, n, ids);
    for (size_t at = 0; at < n; at += len) {
        uint32_t code;
        int32_t id;

        len = utf8_char(word + at, &code);
        id = vocab_find(b->characters, word + at, len);
        if (id >= 0)
            ids[m++] = id;
        else
            m += symbols_of_bytes(b, word + at, len, ids + m);
    }
    return m;
}

static uint32_t rank_of(const struct bpe *b, int32_t left, int32_t right, int32_t *ret_id)
{
    const struct bpe_merge *m = find(b, left, right);

    if (!m)
        return NO_RANK;
    *ret_id = m->id;
    return m->rank;
}

/* Merges ids[0..n) in place; returns how many are left. n is at most SHORT_MAX. */
static size_t merge_short(const struct bpe *b, int32_t *ids, size_t n)
{
    uint32_t rank[SHORT_MAX];
    int32_t into[SHORT_MAX];

    for (size_t i = 0; i + 1 < n; i++)
        rank[i] = rank_of(b, ids[i], ids[i + 1], &into[i]);
    while (n > 1) {
        size_t best = 0;

        for (size_t i = 1; i + 1 < n; i++) {
            if (rank[i] < rank[best])
                best = i;
        }
        if (rank[best] == NO_RANK)
            break;
        ids[best] = into[best];
        memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof(*ids));
        n--;
        if (best + 1 < n) {
            memmove(rank + best + 1, rank + best + 2, (n - best - 2) * sizeof(*rank));
            memmove(into + best + 1, into + best + 2, (n - best - 2) * sizeof(*into));
            rank[best] = rank_of(b, ids[best], ids[best + 1], &into[best]);
        }
        if (best > 0)
            rank[best - 1] = rank_of(b, ids[best - 1], ids[best], &into[best - 1]);
    }
    return n;
}

static void heap_push(struct bpe_scratch *s, uint64_t key)
{
    size_t i = s->heap_n++;

    assert(s->heap_n <= s->heap_cap);
    for (; i > 0 && s->heap[(i - 1) / 2] > key; i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = key;
}

static uint64_t heap_pop(struct bpe_scratch *s)
{
    uint64_t top = s->heap[0], last = s->heap[--s->heap_n];
    size_t i = 0, child;

    while ((child = 2 * i + 1) < s->heap_n) {
        if (child + 1 < s->heap_n && s->heap[child + 1] < s->heap[child])
            child++;
        if (s->heap[child] >= last)
            break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return top;
}

static void push_pair(const struct bpe *b, struct bpe_scratch *s, int32_t at)
{
    const struct symbol *left = &s->symbols[at];
    int32_t id;
    uint32_t rank;

    if (left->next < 0)
        return;
    rank = rank_of(b, left->id, s->symbols[left->next].id, &id);
    if (rank != NO_RANK)
        heap_push(s, (uint64_t)rank << 32 | (uint32_t)at);
}

static int reserve_symbols(struct bpe_scratch *s, size_t n)
{
    void *more;

    if (n <= s->symbols_cap)
        return 0;
    more = realloc(s->symbols, n * sizeof(*s->symbols));
    if (!more)
        return -ENOMEM;
    s->symbols = more;
    s->symbols_cap = n;
    /* One entry a pair at the start, and each of fewer than n merges adds two. */
    more = realloc(s->heap, 3 * n * sizeof(*s->heap));
    if (!more)
        return -ENOMEM;
    s->heap = more;
    s->heap_cap = 3 * n;
    return 0;
}

/* The same through the heap. 0 or -ENOMEM; *n becomes how many are left. */
static int merge_long(const struct bpe *b, struct bpe_scratch *s, int32_t *ids, size_t *n)
{
    struct symbol *sym;
    size_t m = 0;

    if (*n > INT32_MAX || reserve_symbols(s, *n) < 0)
        return -ENOMEM;
    sym = s->symbols;
    for (size_t i = 0; i < *n; i++)
        sym[i] = (struct symbol){ids[i], (int32_t)i - 1, i + 1 < *n ? (int32_t)i + 1 : -1};
    s->heap_n = 0;
    for (size_t i = 0; i + 1 < *n; i++)
        push_pair(b, s, (int32_t)i);
    while (s->heap_n > 0) {
        uint64_t key = heap_pop(s);
        int32_t at = (int32_t)(key & UINT32_MAX), right, id = -1;

        /* An entry is stale when its symbols have been merged since: the pair then has another
         * rank, or none. */
        if (sym[at].id < 0 || sym[at].next < 0)
            continue;
        right = sym[at].next;
        if (rank_of(b, sym[at].id, sym[right].id, &id) != key >> 32)
            continue;
        sym[at].id = id;
        sym[at].next = sym[right].next;
        sym[right].id = -1;
        if (sym[at].next >= 0)
            sym[sym[at].next].previous = at;
        push_pair(b, s, at);
        if (sym[at].previous >= 0)
            push_pair(b, s, sym[at].previous);
    }
    for (int32_t i = 0; i >= 0; i = sym[i].next)
        ids[m++] = sym[i].id;
    *n = m;
    return 0;
}

static struct cached *cache_slot(const struct bpe_scratch *s, const char *word, size_t n)
{
    uint64_t part[3] = {0, 0, n}, h;

    memcpy(part, word, n);
    h = (part[0] ^ part[1] * 0x9e3779b97f4a7c15u) * 0xff51afd7ed558ccdu;
    h = (h ^ h >> 32 ^ part[2]) * 0xc4ceb9fe1a85ec53u;
    return &s->cache[(h ^ h >> 31) & (CACHE_SLOTS - 1)];
}

int bpe_cached(struct bpe_scratch *s, const char *word, size_t n, bpe_miss_fn *miss,
               const void *arg, struct token_list *ids)
{
    struct cached *slot = NULL;
    size_t before = ids->n, m;
    int rc;

    if (s->cache && n > 0 && n <= CACHE_WORD_MAX) {
        slot = cache_slot(s, word, n);
        if (slot->len == n && memcmp(slot->word, word, n) == 0) {
            if (token_list_reserve(ids, slot->n) < 0)
                return -ENOMEM;
            memcpy(ids->at + ids->n, slot->ids, slot->n * sizeof(*ids->at));
            ids->n += slot->n;
            return 0;
        }
    }
    rc = miss(arg, word, n, ids);
    m = ids->n - before;
    if (rc == 0 && slot && m <= CACHE_IDS_MAX) {
        slot->len = (uint8_t)n;
        slot->n = (uint8_t)m;
        memcpy(slot->word, word, n);
        if (m > 0)
            memcpy(slot->ids, ids->at + before, m * sizeof(*ids->at));
    }
    return rc;
}

struct word_job {
    const struct bpe *b;
    struct bpe_scratch *s;
};

static int merge_word(const void *arg, const char *word, size_t n, struct token_list *ids)
{
    const struct word_job *job = arg;
    const struct bpe *b = job->b;
    int32_t *out;
    size_t m;

    if (token_list_reserve(ids, n) < 0)
        return -ENOMEM;
    out = ids->at + ids->n;
    if (b->whole_words) {
        int32_t id = vocab_find(b->whole_words, word, n);

        if (id >= 0 && !b->whole_words->tokens[id].special) {
            *out = id;
            ids->n++;
            return 0;
        }
    }
    m = first_symbols(b, word, n, out);
    if (m > SHORT_MAX) {
        if (merge_long(b, job->s, out, &m) < 0)
            return -ENOMEM;
    } else if (m > 1) {
        m = merge_short(b, out, m);
    }
    ids->n += m;
    return 0;
}

int bpe_word(const struct bpe *b, struct bpe_scratch *s, const char *word, size_t n,
             struct token_list *ids)
{
    const struct word_job job = {b, s};

    return bpe_cached(s, word, n, merge_word, &job, ids);
}
