/* safetensors_write.c - writing: the header first, then tensors in the order declared, then fsync.
 *
 * The caller writes to a temporary name and renames: a writer never replaces a file that is in use.
 */
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "worker/formats/safetensors.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ST_ALIGN 8 /* the buffer begins at a multiple of this, as the reference writes it */

struct st_writer {
    char *path;
    int fd;
    uint64_t declared_bytes, written_bytes;
};

static void writer_free(struct st_writer *w)
{
    if (!w)
        return;
    if (w->fd >= 0)
        (void)close(w->fd);
    free(w->path);
    free(w);
}
LH_DEFINE_FREEP(struct st_writer *, writer_free)

static int add_entry(json_t *header, const struct st_entry *e, uint64_t *at, struct lh_err *reterr)
{
    uint64_t bytes = st_dtype_bytes(e->dtype), end;
    json_t *shape;

    if (e->n_dims < 0 || e->n_dims > ST_DIMS_MAX || json_object_get(header, e->name))
        return lh_err_set(reterr, LH_EINTERNAL,
                          "tensor '%s' is declared twice or has %d dimensions", e->name, e->n_dims);
    shape = json_array();
    for (int d = 0; d < e->n_dims; d++) {
        if (e->shape[d] < 0 || __builtin_mul_overflow(bytes, (uint64_t)e->shape[d], &bytes) ||
            json_array_append_new(shape, json_integer(e->shape[d])) < 0) {
            json_decref(shape);
            return lh_err_set(reterr, LH_EINTERNAL, "tensor '%s' cannot have dimension %d = %lld",
                              e->name, d, (long long)e->shape[d]);
        }
    }
    if (__builtin_add_overflow(*at, bytes, &end) || end > INT64_MAX) {
        json_decref(shape);
        return lh_err_set(reterr, LH_EINTERNAL, "tensor '%s' is too large", e->name);
    }
    if (json_object_set_new(header, e->name,
                            json_pack("{s:s, s:o, s:[I, I]}", "dtype", st_dtype_name(e->dtype),
                                      "shape", shape, "data_offsets", (json_int_t)*at,
                                      (json_int_t)end)) < 0)
        return lh_err_set(reterr, -ENOMEM, "header of safetensors");
    *at = end;
    return 0;
}

/* The 8 bytes of length and the padded header text: malloc'ed. */
static int make_header(const struct st_entry *entries, unsigned n, const json_t *metadata,
                       char **ret_text, size_t *ret_len, uint64_t *ret_bytes, struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *header = json_object();
    char *text, *framed = NULL;
    uint64_t at = 0;
    size_t len, padded;
    int rc = 0;

    if (!header ||
        (metadata && json_object_set(header, "__metadata__", (json_t *)(uintptr_t)metadata)))
        return lh_err_set(reterr, -ENOMEM, "header of safetensors");
    for (unsigned i = 0; i < n && rc == 0; i++)
        rc = add_entry(header, &entries[i], &at, reterr);
    if (rc < 0)
        return rc;
    text = lh_json_text(header, 0);
    len = text ? strlen(text) : 0;
    padded = (len + ST_ALIGN - 1) / ST_ALIGN * ST_ALIGN;
    if (text)
        framed = malloc(8 + padded);
    if (!framed) {
        free(text);
        return lh_err_set(reterr, -ENOMEM, "header of safetensors");
    }
    for (int i = 0; i < 8; i++)
        framed[i] = (char)((uint64_t)padded >> (8 * i) & 0xff);
    memcpy(framed + 8, text, len);
    memset(framed + 8 + len, ' ', padded - len);
    free(text);
    *ret_text = framed;
    *ret_len = 8 + padded;
    *ret_bytes = at;
    return 0;
}

int st_create(const char *path, const struct st_entry *entries, unsigned n, const json_t *metadata,
              struct st_writer **ret_writer, struct lh_err *reterr)
{
    LH_CLEANUP(writer_freep) struct st_writer *w = calloc(1, sizeof(*w));
    char *header = NULL;
    size_t header_len = 0;
    int rc;

    if (!w)
        return lh_err_set(reterr, -ENOMEM, "create '%s'", path);
    w->fd = -1;
    w->path = strdup(path);
    if (!w->path)
        return lh_err_set(reterr, -ENOMEM, "create '%s'", path);
    rc = make_header(entries, n, metadata, &header, &header_len, &w->declared_bytes, reterr);
    if (rc < 0)
        return rc;
    w->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w->fd < 0) {
        rc = lh_err_set(reterr, -errno, "create '%s'", path);
    } else {
        rc = lh_write_all(w->fd, header, header_len);
        if (rc < 0) {
            lh_err_set(reterr, rc, "write '%s'", path);
            (void)unlink(path);
        }
    }
    free(header);
    if (rc < 0)
        return rc;
    *ret_writer = w;
    w = NULL;
    return 0;
}

int st_write(struct st_writer *w, const void *data, uint64_t bytes, struct lh_err *reterr)
{
    int rc;

    if (bytes > w->declared_bytes - w->written_bytes)
        return lh_err_set(reterr, LH_EINTERNAL,
                          "'%s' is given more bytes than its %llu declared ones", w->path,
                          (unsigned long long)w->declared_bytes);
    rc = lh_write_all(w->fd, data, bytes);
    if (rc < 0)
        return lh_err_set(reterr, rc, "write '%s'", w->path);
    w->written_bytes += bytes;
    return 0;
}

int st_finish(struct st_writer *w, struct lh_err *reterr)
{
    int rc;

    if (w->written_bytes == w->declared_bytes) {
        rc = lh_close_synced(w->fd, w->path, reterr);
        w->fd = -1;
    } else {
        rc = lh_err_set(reterr, LH_EINTERNAL, "'%s' was given %llu of its %llu declared bytes",
                        w->path, (unsigned long long)w->written_bytes,
                        (unsigned long long)w->declared_bytes);
    }
    writer_free(w);
    return rc;
}

void st_abort(struct st_writer *w)
{
    if (!w)
        return;
    (void)unlink(w->path);
    writer_free(w);
}
