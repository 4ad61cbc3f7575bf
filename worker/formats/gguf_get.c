/* gguf_get.c - looking into an open GGUF file; nothing here can fail but by the type of a value. */
#include "proto/base/str.h"
#include "worker/formats/gguf.h"
#include "worker/formats/gguf_file.h"
#include <stdlib.h>
#include <string.h>

unsigned gguf_tensor_count(const struct gguf_file *f)
{
    return f->n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf_file *f, unsigned i)
{
    return i < f->n_tensors ? &f->tensors[i] : NULL;
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf_file *f, const char *name)
{
    unsigned lo = 0, hi = f->n_tensors;

    while (lo < hi) {
        unsigned mid = lo + (hi - lo) / 2;
        const struct gguf_tensor *t = &f->tensors[f->by_name[mid]];
        int c = strcmp(name, t->name);

        if (c == 0)
            return t;
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

const struct gguf_value *gguf_find(const struct gguf_file *f, const char *key)
{
    struct gguf_value wanted = {.key = key};

    return bsearch(&wanted, f->values, f->n_values, sizeof(*f->values), gguf_by_key);
}

unsigned gguf_value_count(const struct gguf_file *f)
{
    return f->n_values;
}

const struct gguf_value *gguf_value_at(const struct gguf_file *f, unsigned i)
{
    return i < f->n_values ? &f->values[i] : NULL;
}

uint64_t gguf_value_bytes(const struct gguf_value *value)
{
    const uint8_t *cursor = NULL;
    size_t len;

    if (value->type != GGUF_ARRAY)
        return value->n;
    if (value->element != GGUF_STRING)
        return value->n * gguf_type_bytes[value->element];
    for (uint64_t i = 0; i < value->n; i++)
        (void)gguf_array_str(value, &cursor, &len);
    return cursor ? (uint64_t)(cursor - value->data) : 0;
}

/* An integer at p; 0 when the type is none. Above INT64_MAX: INT64_MAX, which no range check lets
 * through. */
static bool integer_at(enum gguf_type type, const uint8_t *p, int64_t *ret)
{
    uint64_t u = 0;

    if (type == GGUF_F32 || type == GGUF_BOOL || type == GGUF_STRING || type == GGUF_ARRAY ||
        type == GGUF_F64)
        return false;
    for (unsigned i = 0; i < gguf_type_bytes[type]; i++)
        u |= (uint64_t)p[i] << (8 * i);
    if (type == GGUF_I8)
        *ret = (int8_t)u;
    else if (type == GGUF_I16)
        *ret = (int16_t)u;
    else if (type == GGUF_I32)
        *ret = (int32_t)u;
    else if (type == GGUF_I64)
        *ret = (int64_t)u;
    else
        *ret = u > INT64_MAX ? INT64_MAX : (int64_t)u;
    return true;
}

int gguf_i64(const struct gguf_file *f, const char *key, int64_t *ret, struct lh_err *reterr)
{
    const struct gguf_value *v = gguf_find(f, key);

    if (!v)
        return 0;
    if (!integer_at(v->type, v->data, ret))
        return lh_err_set(reterr, LH_EINPUT, "key '%s' of the GGUF file is not an integer", key);
    return 1;
}

int gguf_num(const struct gguf_file *f, const char *key, double *ret, struct lh_err *reterr)
{
    const struct gguf_value *v = gguf_find(f, key);
    int64_t i;

    if (!v)
        return 0;
    if (v->type == GGUF_F32) {
        float x;

        memcpy(&x, v->data, sizeof(x));
        *ret = (double)x;
    } else if (v->type == GGUF_F64) {
        memcpy(ret, v->data, sizeof(*ret));
    } else if (integer_at(v->type, v->data, &i)) {
        *ret = (double)i;
    } else {
        return lh_err_set(reterr, LH_EINPUT, "key '%s' of the GGUF file is not a number", key);
    }
    return 1;
}

int gguf_str(const struct gguf_file *f, const char *key, char *buf, size_t cap,
             struct lh_err *reterr)
{
    const struct gguf_value *v = gguf_find(f, key);

    if (!v)
        return 0;
    if (v->type != GGUF_STRING || v->n >= cap || memchr(v->data, 0, v->n) ||
        !lh_utf8_valid(v->data, v->n))
        return lh_err_set(reterr, LH_EINPUT,
                          "key '%s' of the GGUF file is not a string of at most %zu bytes", key,
                          cap - 1);
    memcpy(buf, v->data, v->n);
    buf[v->n] = '\0';
    return 1;
}

int64_t gguf_array_i64(const struct gguf_value *array, uint64_t i)
{
    int64_t v = 0;

    (void)integer_at(array->element, array->data + i * gguf_type_bytes[array->element], &v);
    return v;
}

const char *gguf_array_str(const struct gguf_value *array, const uint8_t **cursor, size_t *ret_len)
{
    const uint8_t *p = *cursor ? *cursor : array->data;

    *ret_len = le64_at(p);
    *cursor = p + 8 + *ret_len;
    return (const char *)p + 8;
}
