/* gguf.c - see gguf.h. One pass over the header with the cursor of gguf_cursor.h, and what the
 * parts of the file must be to each other.
 *
 * Layout: "GGUF", u32 version, u64 tensors, u64 keys, the keys, the tensor directory, padding to
 * general.alignment, then the tensors' bytes at offsets from there.
 */
#include "worker/formats/gguf.h"
#include "worker/formats/gguf_cursor.h"
#include "worker/formats/gguf_file.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define GGUF_KEYS_MAX 65536u
#define GGUF_TENSORS_MAX 1000000u
#define GGUF_KEY_BYTES_MAX 65535u
#define GGUF_NAME_BYTES_MAX 255u
#define GGUF_ALIGN_MAX (1u << 20)
#define GGUF_NAMES_BYTES_MAX ((size_t)1 << 28) /* arena of all keys and names */
#define GGUF_TENSOR_MIN_BYTES 32u /* of a directory entry with one dimension and a name */
#define GGUF_KEY_MIN_BYTES 14u    /* length, one byte of key, type, one byte of value */

void gguf_close(struct gguf_file *f)
{
    if (!f)
        return;
    mapping_close(&f->map);
    lh_arena_release(&f->names);
    free(f->values);
    free(f->tensors);
    free(f->by_name);
    free(f);
}

static int bad_type(const struct gguf_cursor *c, const struct gguf_value *v, uint32_t type,
                    struct lh_err *reterr)
{
    return lh_err_set(reterr, LH_EINPUT, "'%s': key '%.100s' has a value of unknown type %u",
                      c->path, v->key, type);
}

static int take_array(struct gguf_cursor *c, struct gguf_value *v, struct lh_err *reterr)
{
    uint32_t element;
    uint64_t bytes;
    int rc = gguf_take_u32(c, "an array", &element, reterr);

    if (rc == 0)
        rc = gguf_take_u64(c, "an array", &v->n, reterr);
    if (rc < 0)
        return rc;
    if (element > GGUF_F64 || element == GGUF_ARRAY)
        return bad_type(c, v, element, reterr);
    v->element = (enum gguf_type)element;
    v->data = c->f->map.data + c->at;
    if (element != GGUF_STRING) {
        if (__builtin_mul_overflow(v->n, (uint64_t)gguf_type_bytes[element], &bytes))
            bytes = UINT64_MAX;
        return gguf_take(c, bytes, v->key, reterr) ? 0 : LH_EINPUT;
    }
    if (v->n > (c->f->map.bytes - c->at) / 8)
        return lh_err_set(reterr, LH_EINPUT,
                          "'%s': key '%.100s' claims %llu strings, more than fit", c->path, v->key,
                          (unsigned long long)v->n);
    for (uint64_t i = 0; i < v->n; i++) {
        rc = gguf_take_u64(c, v->key, &bytes, reterr);
        if (rc < 0)
            return rc;
        if (!gguf_take(c, bytes, v->key, reterr))
            return LH_EINPUT;
    }
    return 0;
}

static int take_value(struct gguf_cursor *c, struct gguf_value *v, struct lh_err *reterr)
{
    uint32_t type = 0;
    int rc = gguf_take_name(c, GGUF_KEY_BYTES_MAX, "a key", &v->key, reterr);

    if (rc == 0)
        rc = gguf_take_u32(c, v->key, &type, reterr);
    if (rc < 0)
        return rc;
    if (type > GGUF_F64)
        return bad_type(c, v, type, reterr);
    v->type = (enum gguf_type)type;
    if (type == GGUF_ARRAY)
        return take_array(c, v, reterr);
    if (type == GGUF_STRING)
        rc = gguf_take_u64(c, v->key, &v->n, reterr);
    else
        v->n = gguf_type_bytes[type];
    if (rc < 0)
        return rc;
    v->data = gguf_take(c, v->n, v->key, reterr);
    if (!v->data)
        return LH_EINPUT;
    if (type == GGUF_BOOL && v->data[0] > 1)
        return lh_err_set(reterr, LH_EINPUT, "'%s': key '%.100s' is neither true nor false",
                          c->path, v->key);
    return 0;
}

static int set_type(struct gguf_cursor *c, struct gguf_tensor *t, uint32_t type,
                    struct lh_err *reterr)
{
    const struct quant_info *info = quant_info(type);
    int64_t n = 1;

    if (!info || info->block_bytes == 0)
        return lh_err_set(
            reterr, LH_EINPUT,
            "'%s': tensor '%.100s' has type %s (%u), which is not supported; use a file "
            "with F32, F16, BF16, Q8_0, Q4_0 or Q4_1",
            c->path, t->name, info ? info->name : "unknown", type);
    t->type = (enum quant_type)type;
    for (int d = 0; d < t->n_dims; d++) {
        if (__builtin_mul_overflow(n, t->dims[d], &n))
            return lh_err_set(reterr, LH_EINPUT, "'%s': the shape of tensor '%.100s' overflows",
                              c->path, t->name);
    }
    if (t->dims[0] % info->block != 0)
        return lh_err_set(
            reterr, LH_EINPUT,
            "'%s': rows of tensor '%.100s' have %lld elements, no multiple of the %u of "
            "type %s",
            c->path, t->name, (long long)t->dims[0], info->block, info->name);
    if (__builtin_mul_overflow((uint64_t)n / info->block, (uint64_t)info->block_bytes, &t->bytes))
        return lh_err_set(reterr, LH_EINPUT, "'%s': the size of tensor '%.100s' overflows", c->path,
                          t->name);
    return 0;
}

/* Leaves the offset in *ret_offset: where the data begins is not known yet. */
static int take_tensor(struct gguf_cursor *c, struct gguf_tensor *t, uint64_t *ret_offset,
                       struct lh_err *reterr)
{
    uint32_t n_dims = 0, type = 0;
    uint64_t dim;
    int rc = gguf_take_name(c, GGUF_NAME_BYTES_MAX, "the name of a tensor", &t->name, reterr);

    if (rc == 0)
        rc = gguf_take_u32(c, t->name, &n_dims, reterr);
    if (rc < 0)
        return rc;
    if (n_dims < 1 || n_dims > GGUF_DIMS_MAX)
        return lh_err_set(reterr, LH_EINPUT,
                          "'%s': tensor '%.100s' has %u dimensions, 1 to %d are allowed", c->path,
                          t->name, n_dims, GGUF_DIMS_MAX);
    t->n_dims = (int)n_dims;
    for (uint32_t d = 0; d < n_dims; d++) {
        rc = gguf_take_u64(c, t->name, &dim, reterr);
        if (rc < 0)
            return rc;
        if (dim == 0 || dim > INT64_MAX)
            return lh_err_set(reterr, LH_EINPUT, "'%s': dimension %u of tensor '%.100s' is %llu",
                              c->path, d, t->name, (unsigned long long)dim);
        t->dims[d] = (int64_t)dim;
    }
    rc = gguf_take_u32(c, t->name, &type, reterr);
    if (rc == 0)
        rc = gguf_take_u64(c, t->name, ret_offset, reterr);
    return rc < 0 ? rc : set_type(c, t, type, reterr);
}

int gguf_by_key(const void *a, const void *b)
{
    return strcmp(((const struct gguf_value *)a)->key, ((const struct gguf_value *)b)->key);
}

static int by_name(const void *a, const void *b, void *arg)
{
    const struct gguf_tensor *t = arg;

    return strcmp(t[*(const unsigned *)a].name, t[*(const unsigned *)b].name);
}

static int by_place(const void *a, const void *b, void *arg)
{
    const struct gguf_tensor *t = arg;
    const uint8_t *x = t[*(const unsigned *)a].data, *y = t[*(const unsigned *)b].data;

    return (x > y) - (x < y);
}

static int read_values(struct gguf_cursor *c, struct gguf_file *f, uint64_t n,
                       struct lh_err *reterr)
{
    int rc;

    if (n > GGUF_KEYS_MAX || n > (f->map.bytes - c->at) / GGUF_KEY_MIN_BYTES)
        return lh_err_set(reterr, LH_EINPUT, "'%s' claims %llu keys, more than fit (or than %u)",
                          c->path, (unsigned long long)n, GGUF_KEYS_MAX);
    f->values = calloc(n + 1, sizeof(*f->values));
    if (!f->values)
        return lh_err_set(reterr, -ENOMEM, "open '%s'", c->path);
    for (; f->n_values < n; f->n_values++) {
        rc = take_value(c, &f->values[f->n_values], reterr);
        if (rc < 0)
            return rc;
    }
    qsort(f->values, f->n_values, sizeof(*f->values), gguf_by_key);
    for (unsigned i = 1; i < f->n_values; i++) {
        if (strcmp(f->values[i - 1].key, f->values[i].key) == 0)
            return lh_err_set(reterr, LH_EINPUT, "'%s': key '%.100s' stands twice", c->path,
                              f->values[i].key);
    }
    return 0;
}

/* Gives every tensor its place, once the start of the data is known. offsets are as read. */
static int place_tensors(struct gguf_cursor *c, struct gguf_file *f, const uint64_t *offsets,
                         struct lh_err *reterr)
{
    int64_t align = 32;
    uint64_t start;
    int rc = gguf_i64(f, "general.alignment", &align, reterr);

    if (rc < 0)
        return rc;
    if (align < 8 || align > GGUF_ALIGN_MAX || (align & (align - 1)) != 0)
        return lh_err_set(reterr, LH_EINPUT,
                          "'%s': general.alignment is %lld, not a power of two from 8 to %u",
                          c->path, (long long)align, GGUF_ALIGN_MAX);
    start = (c->at + (uint64_t)align - 1) / (uint64_t)align * (uint64_t)align;
    for (unsigned i = 0; i < f->n_tensors; i++) {
        struct gguf_tensor *t = &f->tensors[i];

        if (offsets[i] % (uint64_t)align != 0)
            return lh_err_set(reterr, LH_EINPUT,
                              "'%s': tensor '%.100s' is at offset %llu, no multiple of %lld",
                              c->path, t->name, (unsigned long long)offsets[i], (long long)align);
        if (start > f->map.bytes || offsets[i] > f->map.bytes - start ||
            t->bytes > f->map.bytes - start - offsets[i])
            return lh_err_set(
                reterr, LH_EINPUT,
                "'%s': tensor '%.100s' (%llu bytes at offset %llu) lies beyond the end of "
                "the file; it is cut short or damaged, fetch it again",
                c->path, t->name, (unsigned long long)t->bytes, (unsigned long long)offsets[i]);
        t->data = f->map.data + start + offsets[i];
    }
    return 0;
}

static int check_tensors(struct gguf_cursor *c, struct gguf_file *f, struct lh_err *reterr)
{
    for (unsigned i = 0; i < f->n_tensors; i++)
        f->by_name[i] = i;
    qsort_r(f->by_name, f->n_tensors, sizeof(*f->by_name), by_place, f->tensors);
    for (unsigned i = 1; i < f->n_tensors; i++) {
        const struct gguf_tensor *a = &f->tensors[f->by_name[i - 1]],
                                 *b = &f->tensors[f->by_name[i]];

        if (a->bytes > (uint64_t)(b->data - a->data))
            return lh_err_set(reterr, LH_EINPUT, "'%s': tensors '%.100s' and '%.100s' overlap",
                              c->path, a->name, b->name);
    }
    qsort_r(f->by_name, f->n_tensors, sizeof(*f->by_name), by_name, f->tensors);
    for (unsigned i = 1; i < f->n_tensors; i++) {
        const char *name = f->tensors[f->by_name[i]].name;

        if (strcmp(f->tensors[f->by_name[i - 1]].name, name) == 0)
            return lh_err_set(reterr, LH_EINPUT, "'%s': tensor '%.100s' stands twice", c->path,
                              name);
    }
    return 0;
}

static int read_tensors(struct gguf_cursor *c, struct gguf_file *f, uint64_t n,
                        struct lh_err *reterr)
{
    uint64_t *offsets;
    int rc = 0;

    if (n > GGUF_TENSORS_MAX || n > (f->map.bytes - c->at) / GGUF_TENSOR_MIN_BYTES)
        return lh_err_set(reterr, LH_EINPUT, "'%s' claims %llu tensors, more than fit (or than %u)",
                          c->path, (unsigned long long)n, GGUF_TENSORS_MAX);
    f->tensors = calloc(n + 1, sizeof(*f->tensors));
    f->by_name = calloc(n + 1, sizeof(*f->by_name));
    offsets = calloc(n + 1, sizeof(*offsets));
    if (!f->tensors || !f->by_name || !offsets)
        rc = lh_err_set(reterr, -ENOMEM, "open '%s'", c->path);
    while (rc == 0 && f->n_tensors < n) {
        rc = take_tensor(c, &f->tensors[f->n_tensors], &offsets[f->n_tensors], reterr);
        if (rc == 0)
            f->n_tensors++;
    }
    if (rc == 0)
        rc = place_tensors(c, f, offsets, reterr);
    free(offsets);
    return rc < 0 ? rc : check_tensors(c, f, reterr);
}

static int read_header(struct gguf_file *f, const char *path, struct lh_err *reterr)
{
    struct gguf_cursor c = {f, path, 0};
    uint64_t n_tensors, n_keys;
    uint32_t version;
    int rc;

    if (f->map.bytes < 24 || memcmp(f->map.data, "GGUF", 4) != 0)
        return lh_err_set(reterr, LH_EINPUT, "'%s' is not a GGUF file", path);
    version = le32_at(f->map.data + 4);
    if (version != 2 && version != 3)
        return lh_err_set(reterr, LH_EINPUT,
                          version & 0xffffu
                              ? "'%s' is a GGUF file of version %u, versions 2 and 3 are read"
                              : "'%s' is a big-endian GGUF file (version field %u), little-"
                                "endian ones are read",
                          path, version);
    c.at = 24;
    n_tensors = le64_at(f->map.data + 8);
    n_keys = le64_at(f->map.data + 16);
    rc = read_values(&c, f, n_keys, reterr);
    return rc < 0 ? rc : read_tensors(&c, f, n_tensors, reterr);
}

int gguf_open(const char *path, struct gguf_file **ret_file, struct lh_err *reterr)
{
    LH_CLEANUP(gguf_closep) struct gguf_file *f = calloc(1, sizeof(*f));
    int rc;

    if (!f)
        return lh_err_set(reterr, -ENOMEM, "open '%s'", path);
    lh_arena_init(&f->names, GGUF_NAMES_BYTES_MAX);
    rc = mapping_open(path, &f->map, reterr);
    if (rc == 0)
        rc = read_header(f, path, reterr);
    if (rc < 0)
        return rc;
    *ret_file = f;
    f = NULL;
    return 0;
}
