/* added.c - see added.h. The tokens are sorted, so each further byte of text narrows a range of
 * candidates. */
#include "worker/text/added.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int added_put(struct added_set *s, const char *text, size_t len, const struct added_token *like)
{
    struct added_token *t;

    if (s->n == s->cap) {
        unsigned cap = s->cap ? 2 * s->cap : 32;
        struct added_token *more = realloc(s->tokens, cap * sizeof(*more));

        if (!more)
            return -ENOMEM;
        s->tokens = more;
        s->cap = cap;
    }
    t = &s->tokens[s->n];
    *t = *like;
    t->text = malloc(len + 1);
    if (!t->text)
        return -ENOMEM;
    memcpy(t->text, text, len);
    t->text[len] = '\0';
    t->len = len;
    s->starts[(uint8_t)text[0]] = true;
    s->n++;
    return 0;
}

static int compare(const void *a, const void *b)
{
    const struct added_token *x = a, *y = b;
    int c = memcmp(x->text, y->text, x->len < y->len ? x->len : y->len);

    return c ? c : (x->len > y->len) - (x->len < y->len);
}

int added_ready(struct added_set *s, const struct added_token **ret_token)
{
    if (s->n > 0)
        qsort(s->tokens, s->n, sizeof(*s->tokens), compare);
    for (unsigned i = 1; i < s->n; i++) {
        if (compare(&s->tokens[i - 1], &s->tokens[i]) == 0) {
            *ret_token = &s->tokens[i];
            return -EEXIST;
        }
    }
    return 0;
}

void added_release(struct added_set *s)
{
    for (unsigned i = 0; i < s->n; i++)
        free(s->tokens[i].text);
    free(s->tokens);
    memset(s, 0, sizeof(*s));
}

/* First of [lo, hi) whose byte at depth is at least b (above: greater than b); all are longer than
 * depth. */
static unsigned bound(const struct added_set *s, unsigned lo, unsigned hi, size_t depth, uint8_t b,
                      bool above)
{
    while (lo < hi) {
        unsigned mid = lo + (hi - lo) / 2;
        uint8_t c = (uint8_t)s->tokens[mid].text[depth];

        if (c < b || (above && c == b))
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The longest token that text begins with. */
static const struct added_token *longest_at(const struct added_set *s, const char *text, size_t len)
{
    const struct added_token *best = NULL;
    unsigned lo = 0, hi = s->n;

    for (size_t depth = 0; depth < len && lo < hi; depth++) {
        uint8_t b = (uint8_t)text[depth];

        /* A token that ends here sorts before those that go on; it has been seen. */
        if (s->tokens[lo].len == depth)
            lo++;
        hi = bound(s, lo, hi, depth, b, true);
        lo = bound(s, lo, hi, depth, b, false);
        if (lo < hi && s->tokens[lo].len == depth + 1)
            best = &s->tokens[lo];
    }
    return best;
}

const struct added_token *added_next(const struct added_set *s, const char *text, size_t from,
                                     size_t len, size_t *ret_at)
{
    if (s->n == 0)
        return NULL;
    for (size_t at = from; at < len; at++) {
        const struct added_token *t;

        if (!s->starts[(uint8_t)text[at]])
            continue;
        t = longest_at(s, text + at, len - at);
        if (t) {
            *ret_at = at;
            return t;
        }
    }
    return NULL;
}
