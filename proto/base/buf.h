/* buf.h - a growable byte buffer that knows its maximum.
 *
 * Always 0-terminated after the first append, so .data can be used as a string. After a failed append the
 * buffer is as it was.
 */
#pragma once
#include "proto/base/attr.h"
#include <stddef.h>

struct lh_buf {
    char *data; /* owned; NULL before the first append */
    size_t len;
    size_t cap;
    size_t max; /* appends beyond this many bytes fail with -E2BIG */
};

void lh_buf_init(struct lh_buf *b, size_t max_bytes);
void lh_buf_release(struct lh_buf *b); /* frees the bytes, not b; b may be appended to again */
LH_MUST_CHECK int lh_buf_append(struct lh_buf *b, const void *bytes, size_t n); /* 0, -E2BIG, -ENOMEM */
LH_MUST_CHECK int lh_buf_printf(struct lh_buf *b, const char *fmt, ...) LH_PRINTF(2, 3);
void lh_buf_consume(struct lh_buf *b, size_t n); /* drops the first n bytes */
char *lh_buf_take(struct lh_buf *b);             /* hands the bytes to the caller (free), b is empty */
