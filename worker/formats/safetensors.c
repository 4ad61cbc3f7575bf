/* safetensors.c - reading: the header is checked whole, then tensors are pointers into the mapping.
 *
 * Always true of an open file: tensors are sorted by offset, cover the buffer without hole or
 * overlap, and each has exactly the bytes that its shape and type ask for. Writing is in
 * safetensors_write.c.
 */
#include "worker/formats/safetensors.h"
#include "proto/base/json.h"
#include "worker/formats/mapping.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ST_HEADER_MAX (100u << 20) /* as the reference implementation */
#define ST_DEPTH_MAX 4             /* header, entry, array of numbers; one to spare */
#define ST_TENSORS_MAX 1000000u

struct st_file {
    struct mapping map;
    json_t *header;            /* owns the names */
    struct st_tensor *tensors; /* in file order */
    unsigned *by_name;         /* indices into tensors, sorted by name */
    unsigned n;
};

static const struct {
    const char *name;
    uint64_t bytes;
} st_types[] = {
    [ST_F64] = {"F64", 8}, [ST_F32] = {"F32", 4},   [ST_F16] = {"F16", 2}, [ST_BF16] = {"BF16", 2},
    [ST_I64] = {"I64", 8}, [ST_I32] = {"I32", 4},   [ST_I16] = {"I16", 2}, [ST_I8] = {"I8", 1},
    [ST_U8] = {"U8", 1},   [ST_BOOL] = {"BOOL", 1},
};

uint64_t st_dtype_bytes(enum st_dtype t)
{
    return st_types[t].bytes;
}

const char *st_dtype_name(enum st_dtype t)
{
    return st_types[t].name;
}

unsigned st_count(const struct st_file *f)
{
    return f->n;
}

const struct st_tensor *st_at(const struct st_file *f, unsigned i)
{
    return i < f->n ? &f->tensors[i] : NULL;
}

const struct st_tensor *st_find(const struct st_file *f, const char *name)
{
    unsigned lo = 0, hi = f->n;

    while (lo < hi) {
        unsigned mid = lo + (hi - lo) / 2;
        int c = strcmp(name, f->tensors[f->by_name[mid]].name);

        if (c == 0)
            return &f->tensors[f->by_name[mid]];
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

const char *st_metadata(const struct st_file *f, const char *key)
{
    return json_string_value(json_object_get(json_object_get(f->header, "__metadata__"), key));
}

void st_close(struct st_file *f)
{
    if (!f)
        return;
    json_decref(f->header);
    mapping_close(&f->map);
    free(f->tensors);
    free(f->by_name);
    free(f);
}
LH_DEFINE_FREEP(struct st_file *, st_close)

static int read_dtype(const json_t *entry, struct st_tensor *t, const char *path,
                      struct lh_err *reterr)
{
    const char *name = json_string_value(json_object_get(entry, "dtype"));

    if (!name)
        return lh_err_set(reterr, LH_EINPUT, "'%s': tensor '%.100s' has no dtype", path, t->name);
    for (unsigned i = 0; i < LH_ARRAY_LEN(st_types); i++) {
        if (strcmp(name, st_types[i].name) == 0) {
            t->dtype = (enum st_dtype)i;
            return 0;
        }
    }
    return lh_err_set(reterr, LH_EINPUT,
                      "'%s': tensor '%.100s' has dtype '%.32s', which is not supported; convert it "
                      "to F32, F16 or BF16",
                      path, t->name, name);
}

static int read_shape(const json_t *entry, struct st_tensor *t, const char *path,
                      struct lh_err *reterr)
{
    const json_t *shape = json_object_get(entry, "shape");
    size_t n_dims = json_array_size(shape);
    int64_t n = 1;

    if (!json_is_array(shape) || n_dims > ST_DIMS_MAX)
        return lh_err_set(
            reterr, LH_EINPUT,
            "'%s': the shape of tensor '%.100s' is not an array of at most %d numbers", path,
            t->name, ST_DIMS_MAX);
    t->n_dims = (int)n_dims;
    for (size_t i = 0; i < n_dims; i++) {
        const json_t *v = json_array_get(shape, i);

        if (!json_is_integer(v) || json_integer_value(v) < 0)
            return lh_err_set(reterr, LH_EINPUT,
                              "'%s': dimension %zu of tensor '%.100s' is not a whole number >= 0",
                              path, i, t->name);
        t->shape[i] = json_integer_value(v);
        if (__builtin_mul_overflow(n, t->shape[i], &n))
            return lh_err_set(reterr, LH_EINPUT, "'%s': the shape of tensor '%.100s' overflows",
                              path, t->name);
    }
    t->n = n;
    if (__builtin_mul_overflow((uint64_t)n, st_types[t->dtype].bytes, &t->bytes))
        return lh_err_set(reterr, LH_EINPUT, "'%s': the size of tensor '%.100s' overflows", path,
                          t->name);
    return 0;
}

static int read_entry(const struct st_file *f, uint64_t buffer_at, const json_t *entry,
                      struct st_tensor *t, const char *path, struct lh_err *reterr)
{
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    uint64_t buffer_bytes = f->map.bytes - buffer_at;
    json_int_t b, e;
    int rc;

    if (!json_is_object(entry) || json_object_size(entry) != 3)
        return lh_err_set(reterr, LH_EINPUT,
                          "'%s': entry '%.100s' is not {dtype, shape, data_offsets}", path,
                          t->name);
    rc = read_dtype(entry, t, path, reterr);
    if (rc == 0)
        rc = read_shape(entry, t, path, reterr);
    if (rc < 0)
        return rc;
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return lh_err_set(reterr, LH_EINPUT,
                          "'%s': data_offsets of tensor '%.100s' are not two whole numbers", path,
                          t->name);
    b = json_integer_value(begin);
    e = json_integer_value(end);
    if (b < 0 || e < b || (uint64_t)e > buffer_bytes)
        return lh_err_set(
            reterr, LH_EINPUT,
            "'%s': tensor '%.100s' lies at [%lld, %lld) of a buffer of %llu bytes; the "
            "file is cut short or damaged, fetch it again",
            path, t->name, (long long)b, (long long)e, (unsigned long long)buffer_bytes);
    if ((uint64_t)(e - b) != t->bytes)
        return lh_err_set(
            reterr, LH_EINPUT,
            "'%s': tensor '%.100s' has %lld bytes where its shape and type %s need %llu", path,
            t->name, (long long)(e - b), st_types[t->dtype].name, (unsigned long long)t->bytes);
    t->data = f->map.data + buffer_at + (uint64_t)b;
    return 0;
}

static int check_metadata(const json_t *meta, const char *path, struct lh_err *reterr)
{
    const char *key;
    json_t *value;

    if (!json_is_object(meta))
        return lh_err_set(reterr, LH_EINPUT, "'%s': __metadata__ is not an object", path);
    json_object_foreach((json_t *)(uintptr_t)meta, key, value)
    {
        if (!json_is_string(value))
            return lh_err_set(reterr, LH_EINPUT,
                              "'%s': __metadata__ member '%.100s' is not a string", path, key);
    }
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct st_tensor *x = a, *y = b;

    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1; /* empty ones first, so that holes show below */
    return strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b, void *arg)
{
    const struct st_tensor *tensors = arg;

    return strcmp(tensors[*(const unsigned *)a].name, tensors[*(const unsigned *)b].name);
}

/* Sorts and makes sure that the tensors cover the buffer exactly. */
static int index_tensors(struct st_file *f, uint64_t buffer_at, const char *path,
                         struct lh_err *reterr)
{
    const uint8_t *next = f->map.data + buffer_at, *end = f->map.data + f->map.bytes;

    qsort(f->tensors, f->n, sizeof(*f->tensors), by_offset);
    for (unsigned i = 0; i < f->n; i++) {
        const struct st_tensor *t = &f->tensors[i];

        if ((const uint8_t *)t->data != next)
            return lh_err_set(reterr, LH_EINPUT,
                              "'%s': tensor '%.100s' at byte %llu of the buffer %s", path, t->name,
                              (unsigned long long)((const uint8_t *)t->data - f->map.data) -
                                  (unsigned long long)buffer_at,
                              (const uint8_t *)t->data < next ? "overlaps the one before it"
                                                              : "leaves a hole before it");
        next += t->bytes;
        f->by_name[i] = i;
    }
    if (next != end)
        return lh_err_set(reterr, LH_EINPUT, "'%s': %lld bytes at the end belong to no tensor",
                          path, (long long)(end - next));
    qsort_r(f->by_name, f->n, sizeof(*f->by_name), by_name, f->tensors);
    return 0;
}

static int read_header(struct st_file *f, const char *path, struct lh_err *reterr)
{
    uint64_t header_bytes, buffer_at;
    const char *key;
    json_t *entry;
    int rc;

    if (f->map.bytes < 8)
        return lh_err_set(reterr, LH_EINPUT, "'%s' has %zu bytes and is no safetensors file", path,
                          f->map.bytes);
    header_bytes = le64_at(f->map.data);
    if (header_bytes > ST_HEADER_MAX)
        return lh_err_set(
            reterr, LH_EINPUT,
            "'%s' is no safetensors file: its header would have %llu bytes, at most %u", path,
            (unsigned long long)header_bytes, ST_HEADER_MAX);
    buffer_at = 8 + header_bytes;
    if (header_bytes < 2 || buffer_at > f->map.bytes || f->map.data[8] != '{')
        return lh_err_set(
            reterr, LH_EINPUT,
            "'%s': no header of %llu bytes in a file of %zu bytes; it is cut short or "
            "no safetensors file",
            path, (unsigned long long)header_bytes, f->map.bytes);
    rc = lh_json_parse((const char *)f->map.data + 8, header_bytes, ST_DEPTH_MAX, &f->header,
                       reterr);
    if (rc < 0)
        return lh_err_prefix(reterr, rc, "'%s': header", path);
    if (json_object_size(f->header) > ST_TENSORS_MAX)
        return lh_err_set(reterr, LH_EINPUT, "'%s' has %zu tensors, at most %u are read", path,
                          json_object_size(f->header), ST_TENSORS_MAX);
    f->tensors = calloc(json_object_size(f->header) + 1, sizeof(*f->tensors));
    f->by_name = calloc(json_object_size(f->header) + 1, sizeof(*f->by_name));
    if (!f->tensors || !f->by_name)
        return lh_err_set(reterr, -ENOMEM, "open '%s'", path);
    json_object_foreach(f->header, key, entry)
    {
        if (strcmp(key, "__metadata__") == 0) {
            rc = check_metadata(entry, path, reterr);
        } else {
            f->tensors[f->n].name = key;
            rc = read_entry(f, buffer_at, entry, &f->tensors[f->n++], path, reterr);
        }
        if (rc < 0)
            return rc;
    }
    return index_tensors(f, buffer_at, path, reterr);
}

int st_open(const char *path, struct st_file **ret_file, struct lh_err *reterr)
{
    LH_CLEANUP(st_closep) struct st_file *f = calloc(1, sizeof(*f));
    int rc;

    if (!f)
        return lh_err_set(reterr, -ENOMEM, "open '%s'", path);
    rc = mapping_open(path, &f->map, reterr);
    if (rc == 0)
        rc = read_header(f, path, reterr);
    if (rc < 0)
        return rc;
    *ret_file = f;
    f = NULL;
    return 0;
}
