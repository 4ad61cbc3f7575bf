/* text_stream.h - the bytes of a file, decompressed on the way when its name ends in .gz or .zst.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <stddef.h>
#include <stdint.h>

struct text_stream;

LH_MUST_CHECK int text_stream_open(const char *path, struct text_stream **ret_stream,
                                   struct lh_err *reterr);
void text_stream_close(struct text_stream *s); /* accepts NULL */

/* Reads at most cap bytes; *ret_n is 0 only at the end. LH_EINPUT: the compressed data is damaged
 * or cut short. */
LH_MUST_CHECK int text_stream_read(struct text_stream *s, char *buf, size_t cap, size_t *ret_n,
                                   struct lh_err *reterr);

/* Leaves out the next n bytes of the text, of a stream just opened. LH_EINPUT: it has fewer. */
LH_MUST_CHECK int text_stream_skip(struct text_stream *s, uint64_t n, struct lh_err *reterr);

uint64_t text_stream_position(const struct text_stream *s); /* bytes of the file taken so far */
