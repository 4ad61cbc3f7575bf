/* buf.c - see buf.h. Grows by doubling, never beyond its maximum. */
#include "proto/base/buf.h"
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void lh_buf_init(struct lh_buf *b, size_t max_bytes)
{
    assert(max_bytes > 0);
    *b = (struct lh_buf){.max = max_bytes};
}

void lh_buf_release(struct lh_buf *b)
{
    free(b->data);
    b->data = NULL;
    b->len = b->cap = 0;
}

static int buf_reserve(struct lh_buf *b, size_t extra)
{
    size_t want = b->cap ? b->cap : 256;
    char *grown;

    if (extra > b->max || b->len > b->max - extra)
        return -E2BIG;
    if (b->len + extra + 1 <= b->cap)
        return 0;
    while (want < b->len + extra + 1)
        want *= 2;
    grown = realloc(b->data, want);
    if (!grown)
        return -ENOMEM;
    b->data = grown;
    b->cap = want;
    return 0;
}

int lh_buf_append(struct lh_buf *b, const void *bytes, size_t n)
{
    int rc = buf_reserve(b, n);

    if (rc < 0)
        return rc;
    if (n > 0)
        memcpy(b->data + b->len, bytes, n);
    b->len += n;
    b->data[b->len] = '\0';
    return 0;
}

int lh_buf_printf(struct lh_buf *b, const char *fmt, ...)
{
    va_list ap;
    int n, rc;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    assert(n >= 0);
    rc = buf_reserve(b, (size_t)n);
    if (rc < 0)
        return rc;
    va_start(ap, fmt);
    (void)vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
    return 0;
}

void lh_buf_consume(struct lh_buf *b, size_t n)
{
    assert(n <= b->len);
    if (!b->data)
        return;
    memmove(b->data, b->data + n, b->len - n);
    b->len -= n;
    b->data[b->len] = '\0';
}

char *lh_buf_take(struct lh_buf *b)
{
    char *bytes = b->data;

    b->data = NULL;
    b->len = b->cap = 0;
    return bytes;
}
