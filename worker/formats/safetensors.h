/* safetensors.h - reading (mapped, validated) and writing safetensors files.
 *
 * Format: u64 LE header length, JSON header, then one buffer; entries {dtype, shape, data_offsets}. Every header
 * is checked whole before a byte of data is believed: bounds, overlaps, holes, sizes against shape and dtype.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <jansson.h>
#include <stdint.h>

#define ST_DIMS_MAX 8
enum st_dtype { ST_F64, ST_F32, ST_F16, ST_BF16, ST_I64, ST_I32, ST_I16, ST_I8, ST_U8, ST_BOOL };

struct st_tensor {
    const char *name;
    enum st_dtype dtype;
    int n_dims;
    int64_t shape[ST_DIMS_MAX];
    int64_t n;         /* elements */
    uint64_t bytes;
    const void *data;  /* into the mapping */
};
struct st_file; /* a mapped file */

LH_MUST_CHECK int st_open(const char *path, struct st_file **ret_file, struct lh_err *reterr); /* LH_EINPUT, -errno */
void st_close(struct st_file *f);                                                              /* accepts NULL */
unsigned st_count(const struct st_file *f);
const struct st_tensor *st_at(const struct st_file *f, unsigned i);         /* in file order */
const struct st_tensor *st_find(const struct st_file *f, const char *name); /* NULL when absent */
const char *st_metadata(const struct st_file *f, const char *key);          /* NULL when absent */
uint64_t st_dtype_bytes(enum st_dtype t);
const char *st_dtype_name(enum st_dtype t);

/* Writing: declare all tensors, then append their bytes in that order, then finish (fsync; not renamed). */
struct st_writer;
struct st_entry { const char *name; enum st_dtype dtype; int n_dims; int64_t shape[ST_DIMS_MAX]; };
/* metadata: object of strings or NULL (borrowed). */
LH_MUST_CHECK int st_create(const char *path, const struct st_entry *entries, unsigned n, const json_t *metadata,
                            struct st_writer **ret_writer, struct lh_err *reterr);
LH_MUST_CHECK int st_write(struct st_writer *w, const void *data, uint64_t bytes, struct lh_err *reterr);
/* Checks that every declared byte was written, syncs, closes and frees w (also on failure). */
LH_MUST_CHECK int st_finish(struct st_writer *w, struct lh_err *reterr);
void st_abort(struct st_writer *w); /* closes, removes the file, frees w */
