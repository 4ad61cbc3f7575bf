/* gguf_writer.c - see gguf_writer.h. The head of the file is built in memory, since its counts come
 * first; tensors are streamed. */
#include "worker/formats/gguf_writer.h"
#include "proto/base/buf.h"
#include "proto/base/fs.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ALIGN 32u
#define HEAD_MAX                                                                                   \
    ((size_t)1 << 30) /* of keys and of the directory; a vocabulary of 256k has 10 MiB */

struct gguf_writer {
    char *path;
    int fd;     /* -1 until begin */
    int failed; /* sticky, of the calls that put */
    struct lh_buf keys, directory;
    uint64_t n_keys, n_tensors, n_open; /* open: elements of an array that are still to come */
    uint64_t *sizes;                    /* owned: bytes of each tensor */
    uint64_t sizes_cap, at;             /* offset of the next tensor, padded */
    uint64_t tensor, written;           /* the one being written, its bytes so far */
};

static void writer_free(struct gguf_writer *w)
{
    if (!w)
        return;
    if (w->fd >= 0)
        (void)close(w->fd);
    lh_buf_release(&w->keys);
    lh_buf_release(&w->directory);
    free(w->sizes);
    free(w->path);
    free(w);
}

int gguf_writer_new(const char *path, struct gguf_writer **ret_writer, struct lh_err *reterr)
{
    struct gguf_writer *w = calloc(1, sizeof(*w));

    if (w)
        w->path = strdup(path);
    if (!w || !w->path) {
        free(w);
        return lh_err_set(reterr, -ENOMEM, "create '%s'", path);
    }
    w->fd = -1;
    lh_buf_init(&w->keys, HEAD_MAX);
    lh_buf_init(&w->directory, HEAD_MAX);
    *ret_writer = w;
    return 0;
}

static void put(struct gguf_writer *w, struct lh_buf *b, const void *bytes, size_t n)
{
    int rc = w->failed || n == 0 ? 0 : lh_buf_append(b, bytes, n);

    if (rc < 0)
        w->failed = rc;
}

static void put_le(struct gguf_writer *w, struct lh_buf *b, uint64_t value, unsigned bytes)
{
    uint8_t le[8];

    for (unsigned i = 0; i < bytes; i++)
        le[i] = (uint8_t)(value >> (8 * i));
    put(w, b, le, bytes);
}

static void put_text(struct gguf_writer *w, struct lh_buf *b, const char *text, size_t len)
{
    put_le(w, b, len, 8);
    put(w, b, text, len);
}

static void put_key(struct gguf_writer *w, const char *key, enum gguf_type type)
{
    assert(w->n_open == 0);
    put_text(w, &w->keys, key, strlen(key));
    put_le(w, &w->keys, type, 4);
    w->n_keys++;
}

void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t value)
{
    put_key(w, key, GGUF_U32);
    put_le(w, &w->keys, value, 4);
}

static void put_float(struct gguf_writer *w, float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    put_le(w, &w->keys, bits, 4);
}

void gguf_put_f32(struct gguf_writer *w, const char *key, double value)
{
    put_key(w, key, GGUF_F32);
    put_float(w, (float)value);
}

void gguf_put_bool(struct gguf_writer *w, const char *key, bool value)
{
    put_key(w, key, GGUF_BOOL);
    put_le(w, &w->keys, value, 1);
}

void gguf_put_str(struct gguf_writer *w, const char *key, const char *value)
{
    put_key(w, key, GGUF_STRING);
    put_text(w, &w->keys, value, strlen(value));
}

void gguf_put_array(struct gguf_writer *w, const char *key, enum gguf_type element, uint64_t n)
{
    assert(element == GGUF_STRING || element == GGUF_I32 || element == GGUF_F32);
    put_key(w, key, GGUF_ARRAY);
    put_le(w, &w->keys, element, 4);
    put_le(w, &w->keys, n, 8);
    w->n_open = n;
}

void gguf_add_str(struct gguf_writer *w, const char *value, size_t len)
{
    assert(w->n_open > 0);
    w->n_open--;
    put_text(w, &w->keys, value, len);
}

void gguf_add_i32(struct gguf_writer *w, int32_t value)
{
    assert(w->n_open > 0);
    w->n_open--;
    put_le(w, &w->keys, (uint32_t)value, 4);
}

void gguf_add_f32(struct gguf_writer *w, float value)
{
    assert(w->n_open > 0);
    w->n_open--;
    put_float(w, value);
}

void gguf_put_copy(struct gguf_writer *w, const struct gguf_value *value)
{
    uint64_t bytes = gguf_value_bytes(value);

    put_key(w, value->key, value->type);
    if (value->type == GGUF_ARRAY) {
        put_le(w, &w->keys, value->element, 4);
        put_le(w, &w->keys, value->n, 8);
    } else if (value->type == GGUF_STRING) {
        put_le(w, &w->keys, value->n, 8);
    }
    put(w, &w->keys, value->data, bytes);
}

static uint64_t padded(uint64_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

void gguf_put_tensor(struct gguf_writer *w, const char *name, enum quant_type type, int64_t rows,
                     int64_t cols)
{
    const struct quant_info *info = quant_info(type);
    int64_t width = cols > 0 ? cols : rows, height = cols > 0 ? rows : 1;

    assert(info && info->block_bytes > 0);
    assert(width % info->block == 0);
    if (w->n_tensors == w->sizes_cap) {
        uint64_t cap = w->sizes_cap ? 2 * w->sizes_cap : 64;
        uint64_t *more = realloc(w->sizes, cap * sizeof(*more));

        if (!more) {
            w->failed = -ENOMEM;
            return;
        }
        w->sizes = more;
        w->sizes_cap = cap;
    }
    w->sizes[w->n_tensors++] =
        (uint64_t)height * (uint64_t)(width / info->block) * info->block_bytes;
    put_text(w, &w->directory, name, strlen(name));
    put_le(w, &w->directory, cols > 0 ? 2 : 1, 4);
    put_le(w, &w->directory, (uint64_t)width, 8);
    if (cols > 0)
        put_le(w, &w->directory, (uint64_t)height, 8);
    put_le(w, &w->directory, type, 4);
    put_le(w, &w->directory, w->at, 8);
    w->at += padded(w->sizes[w->n_tensors - 1]);
}

static int write_all(struct gguf_writer *w, const void *data, uint64_t bytes, struct lh_err *reterr)
{
    int rc = lh_write_all(w->fd, data, bytes);

    return rc < 0 ? lh_err_set(reterr, rc, "write '%s'", w->path) : 0;
}

static int write_padding(struct gguf_writer *w, uint64_t bytes, struct lh_err *reterr)
{
    static const uint8_t zeros[ALIGN];

    return write_all(w, zeros, padded(bytes) - bytes, reterr);
}

int gguf_writer_begin(struct gguf_writer *w, struct lh_err *reterr)
{
    struct lh_buf head;
    uint64_t bytes;
    int rc;

    assert(w->fd < 0);
    assert(w->n_open == 0);
    lh_buf_init(&head, 64);
    put(w, &head, "GGUF", 4);
    put_le(w, &head, 3, 4);
    put_le(w, &head, w->n_tensors, 8);
    put_le(w, &head, w->n_keys, 8);
    if (w->failed) {
        lh_buf_release(&head);
        return lh_err_set(reterr, w->failed, "the head of '%s'", w->path);
    }
    w->fd = open(w->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    rc = w->fd < 0 ? lh_err_set(reterr, -errno, "create '%s'", w->path) : 0;
    bytes = head.len + w->keys.len + w->directory.len;
    if (rc == 0)
        rc = write_all(w, head.data, head.len, reterr);
    if (rc == 0)
        rc = write_all(w, w->keys.data, w->keys.len, reterr);
    if (rc == 0)
        rc = write_all(w, w->directory.data, w->directory.len, reterr);
    if (rc == 0)
        rc = write_padding(w, bytes, reterr);
    lh_buf_release(&head);
    return rc;
}

int gguf_writer_data(struct gguf_writer *w, const void *data, uint64_t bytes, struct lh_err *reterr)
{
    int rc;

    if (w->tensor == w->n_tensors || bytes > w->sizes[w->tensor] - w->written)
        return lh_err_set(reterr, LH_EINTERNAL, "'%s' is given more bytes than were declared",
                          w->path);
    rc = write_all(w, data, bytes, reterr);
    if (rc < 0)
        return rc;
    w->written += bytes;
    if (w->written < w->sizes[w->tensor])
        return 0;
    w->written = 0;
    return write_padding(w, w->sizes[w->tensor++], reterr);
}

int gguf_writer_finish(struct gguf_writer *w, struct lh_err *reterr)
{
    int rc;

    if (w->tensor == w->n_tensors) {
        rc = lh_close_synced(w->fd, w->path, reterr);
        w->fd = -1;
    } else {
        rc = lh_err_set(reterr, LH_EINTERNAL, "'%s' was given %llu of its %llu tensors", w->path,
                        (unsigned long long)w->tensor, (unsigned long long)w->n_tensors);
    }
    writer_free(w);
    return rc;
}

void gguf_writer_abort(struct gguf_writer *w)
{
    if (!w)
        return;
    if (w->fd >= 0)
        (void)unlink(w->path);
    writer_free(w);
}
