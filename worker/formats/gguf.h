/* gguf.h - reading GGUF files, versions 2 and 3: keys with values, and tensors as they lie in the
 * file.
 *
 * Everything is checked at opening: counts, lengths, types, alignment, bounds, overlaps, names that
 * stand twice. What the keys mean is gguf_config.c's (the model) and worker/text's (the tokenizer)
 * business.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include "worker/formats/quant.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GGUF_DIMS_MAX 4

enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64
};

/* The elements of a GGUF_ARRAY are type `element`, n of them, packed from data on. */
struct gguf_value {
    const char *key;
    enum gguf_type type, element;
    uint64_t n;          /* bytes of a string, elements of an array */
    const uint8_t *data; /* the value's first byte in the file (a string's: behind its length) */
};

struct gguf_tensor {
    const char *name;
    int n_dims;
    int64_t dims[GGUF_DIMS_MAX]; /* dims[0] runs fastest: columns first */
    enum quant_type type;
    uint64_t bytes;
    const uint8_t *data;
};

struct gguf_file;

LH_MUST_CHECK int gguf_open(const char *path, struct gguf_file **ret_file, struct lh_err *reterr);
void gguf_close(struct gguf_file *f); /* accepts NULL */
LH_DEFINE_FREEP(struct gguf_file *, gguf_close)

unsigned gguf_tensor_count(const struct gguf_file *f);
const struct gguf_tensor *gguf_tensor_at(const struct gguf_file *f, unsigned i);
const struct gguf_tensor *gguf_tensor_find(const struct gguf_file *f, const char *name);

const struct gguf_value *gguf_find(const struct gguf_file *f,
                                   const char *key); /* NULL when absent */

/* All keys, sorted. */
unsigned gguf_value_count(const struct gguf_file *f);
const struct gguf_value *gguf_value_at(const struct gguf_file *f, unsigned i);
/* Bytes from value->data on: the whole of a scalar, the characters of a string, the packed elements
 * of an array. */
uint64_t gguf_value_bytes(const struct gguf_value *value);

/* Typed values: 1 and the value, 0 when the key is absent, LH_EINPUT (naming the key) when it has
 * another type. Integers of every width are taken, floats of both. A string is copied with a 0, at
 * most cap - 1 bytes. */
LH_MUST_CHECK int gguf_i64(const struct gguf_file *f, const char *key, int64_t *ret,
                           struct lh_err *reterr);
LH_MUST_CHECK int gguf_num(const struct gguf_file *f, const char *key, double *ret,
                           struct lh_err *reterr);
LH_MUST_CHECK int gguf_str(const struct gguf_file *f, const char *key, char *buf, size_t cap,
                           struct lh_err *reterr);

/* Element i of an array of integers (of a type that fits). */
int64_t gguf_array_i64(const struct gguf_value *array, uint64_t i);
/* Walks an array of strings: *cursor starts at NULL. The caller stops after n. */
const char *gguf_array_str(const struct gguf_value *array, const uint8_t **cursor, size_t *ret_len);
