/* gguf_writer.h - writing a GGUF file (version 3): keys, the tensor directory, then the tensors'
 * bytes in the order declared.
 *
 * Keys and tensors are put first; the first error sticks and gguf_writer_begin reports it. The file
 * is fsynced but not renamed.
 */
#pragma once
#include "worker/formats/gguf.h"
#include <stdbool.h>

struct gguf_writer;

LH_MUST_CHECK int gguf_writer_new(const char *path, struct gguf_writer **ret_writer,
                                  struct lh_err *reterr);

void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t value);
void gguf_put_f32(struct gguf_writer *w, const char *key, double value);
void gguf_put_bool(struct gguf_writer *w, const char *key, bool value);
void gguf_put_str(struct gguf_writer *w, const char *key, const char *value);
/* An array of n strings, 32-bit integers or floats; exactly n gguf_add_* calls of the type follow.
 */
void gguf_put_array(struct gguf_writer *w, const char *key, enum gguf_type element, uint64_t n);
void gguf_add_str(struct gguf_writer *w, const char *value, size_t len);
void gguf_add_i32(struct gguf_writer *w, int32_t value);
void gguf_add_f32(struct gguf_writer *w, float value);
/* A key of another file as it is there. */
void gguf_put_copy(struct gguf_writer *w, const struct gguf_value *value);

/* cols 0: a vector. cols must be a multiple of the type's block. */
void gguf_put_tensor(struct gguf_writer *w, const char *name, enum quant_type type, int64_t rows,
                     int64_t cols);

/* Creates the file and writes everything up to the tensors' bytes. */
LH_MUST_CHECK int gguf_writer_begin(struct gguf_writer *w, struct lh_err *reterr);
/* Bytes of the next tensors, a piece at a time; a piece may not reach over the end of a tensor. */
LH_MUST_CHECK int gguf_writer_data(struct gguf_writer *w, const void *data, uint64_t bytes,
                                   struct lh_err *reterr);
/* Checks that every declared byte was written, syncs, closes and frees w (also on failure). */
LH_MUST_CHECK int gguf_writer_finish(struct gguf_writer *w, struct lh_err *reterr);
void gguf_writer_abort(struct gguf_writer *w); /* closes, removes the file, frees w; accepts NULL */
