/* dump.c - collecting and writing the tensors of `--dump`; see dump.h. */
#include "worker/kinds/dump.h"
#include "proto/base/fs.h"
#include "proto/base/str.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DUMP_BYTES_MAX                                                                             \
    ((uint64_t)4 << 30) /* a dump is for small models; whole logits of a large one are a mistake   \
                         */
#define DUMP_TENSORS_MAX 32768u

struct tensor {
    struct st_entry entry; /* name owned */
    void *data;            /* owned */
    uint64_t bytes;
    bool over_ranks;
};

struct dump {
    char dir[1024];
    struct tensor *at;
    unsigned n;
    uint64_t bytes;
};

int dump_open(const char *dir, struct dump **ret_dump, struct lh_err *reterr)
{
    struct dump *d;
    int rc;

    *ret_dump = NULL;
    if (!dir)
        return 0;
    rc = lh_mkdir_p(dir, reterr);
    if (rc < 0)
        return rc;
    d = calloc(1, sizeof(*d));
    if (!d || strlen(dir) >= sizeof(d->dir)) {
        free(d);
        return lh_err_set(reterr, d ? -ENAMETOOLONG : -ENOMEM, "--dump '%s'", dir);
    }
    (void)snprintf(d->dir, sizeof(d->dir), "%s", dir);
    *ret_dump = d;
    return 0;
}

void dump_free(struct dump *d)
{
    if (!d)
        return;
    for (unsigned i = 0; i < d->n; i++) {
        free((char *)(uintptr_t)d->at[i].entry.name);
        free(d->at[i].data);
    }
    free(d->at);
    free(d);
}

static int grow(struct dump *d, struct lh_err *reterr)
{
    struct tensor *at;

    if (d->n % 64 != 0)
        return 0;
    at = d->n < DUMP_TENSORS_MAX ? realloc(d->at, (d->n + 64) * sizeof(*at)) : NULL;
    if (!at)
        return lh_err_set(reterr, -ENOMEM, "the dump's list of tensors");
    d->at = at;
    return 0;
}

int dump_add(struct dump *d, const char *key, enum st_dtype dtype, int n_dims, const int64_t *shape,
             bool over_ranks, void **ret_data, struct lh_err *reterr)
{
    struct tensor t = {.entry = {.dtype = dtype, .n_dims = n_dims},
                       .bytes = st_dtype_bytes(dtype),
                       .over_ranks = over_ranks};
    char room[32];
    int rc;

    *ret_data = NULL;
    if (!d)
        return 0;
    assert(!over_ranks || dtype == ST_F32);
    for (int i = 0; i < n_dims; i++) {
        t.entry.shape[i] = shape[i];
        if (shape[i] > 0 && t.bytes > DUMP_BYTES_MAX / (uint64_t)shape[i])
            t.bytes = DUMP_BYTES_MAX;
        else
            t.bytes *= (uint64_t)shape[i];
    }
    if (d->bytes + t.bytes >= DUMP_BYTES_MAX)
        return lh_err_set(
            reterr, LH_EJOB,
            "--dump would hold more than %s with '%s'; take fewer or shorter sequences",
            lh_bytes_text(DUMP_BYTES_MAX, room), key);
    rc = grow(d, reterr);
    if (rc < 0)
        return rc;
    t.data = calloc(1, LH_MAX(t.bytes, (uint64_t)1));
    t.entry.name = strdup(key);
    if (!t.data || !t.entry.name) {
        free(t.data);
        free((char *)(uintptr_t)t.entry.name);
        return lh_err_set(reterr, -ENOMEM, "tensor '%s' of the dump", key);
    }
    d->at[d->n++] = t;
    d->bytes += t.bytes;
    *ret_data = t.data;
    return 0;
}

void dump_shorten(struct dump *d, const char *key, int64_t first_dim)
{
    for (unsigned i = 0; d && i < d->n; i++) {
        struct tensor *t = &d->at[i];

        if (strcmp(t->entry.name, key) != 0 || t->entry.shape[0] <= first_dim)
            continue;
        t->bytes = t->bytes / (uint64_t)t->entry.shape[0] * (uint64_t)first_dim;
        t->entry.shape[0] = first_dim;
    }
}

static int add_param(struct dump *d, const struct device *device, const char *prefix,
                     const struct param *p, const float *from, struct lh_err *reterr)
{
    int64_t shape[2] = {p->rows, p->cols};
    char key[224];
    void *data;
    int rc;

    (void)snprintf(key, sizeof(key), "%s.%s", prefix, p->key);
    rc = dump_add(d, key, ST_F32, p->cols > 0 ? 2 : 1, shape, false, &data, reterr);
    if (rc < 0)
        return rc;
    device->ops->download(device->stream, data, from, (uint64_t)p->n * sizeof(float));
    return device->ops->sync(device->stream, reterr);
}

int dump_grads(struct dump *d, const struct device *device, const struct params *p,
               struct lh_err *reterr)
{
    int rc = 0;

    for (unsigned i = 0; d && i < p->n && rc == 0; i++)
        if (p->at[i].trains)
            rc = add_param(d, device, "grad", &p->at[i], p->at[i].grad, reterr);
    return rc;
}

int dump_finals(struct dump *d, const struct device *device, const struct params *p,
                struct lh_err *reterr)
{
    int rc = 0;

    for (unsigned i = 0; d && i < p->n && rc == 0; i++)
        if (p->at[i].trains)
            rc = add_param(d, device, "final", &p->at[i], p->at[i].master, reterr);
    return rc;
}

int dump_rope(struct dump *d, const double *inv_freq, int64_t n, double scaling,
              struct lh_err *reterr)
{
    int64_t one = 1;
    void *data;
    int rc = dump_add(d, "rope.inv_freq", ST_F32, 1, &n, false, &data, reterr);

    if (rc < 0 || !d)
        return rc;
    for (int64_t i = 0; i < n; i++)
        ((float *)data)[i] = (float)inv_freq[i];
    rc = dump_add(d, "rope.attention_scaling", ST_F32, 1, &one, false, &data, reterr);
    if (rc == 0)
        ((float *)data)[0] = (float)scaling;
    return rc;
}

static int take_logits(void *arg, const struct device *d, int64_t t0, struct kn_mat logits,
                       struct lh_err *reterr)
{
    const struct dump_logits *l = arg;

    for (int64_t t = 0; t < logits.rows; t++) {
        int64_t row = l->rows[(t0 + t) / l->row_tokens], at = (t0 + t) % l->row_tokens;
        struct kn_mat from = kn_rows(logits, t, 1);

        d->ops->download(d->stream, l->to + (row * l->row_tokens + at) * l->V, from.p,
                         (uint64_t)l->V * sizeof(float));
    }
    return d->ops->sync(d->stream, reterr);
}

struct head_sink dump_logits_sink(struct dump_logits *logits)
{
    return (struct head_sink){take_logits, logits};
}

static int write_file(const struct dump *d, struct lh_err *reterr)
{
    struct st_entry *entries = calloc(d->n, sizeof(*entries));
    struct st_writer *w = NULL;
    char path[1100], tmp[1110];
    int rc;

    if (!entries)
        return lh_err_set(reterr, -ENOMEM, "the dump");
    (void)snprintf(path, sizeof(path), "%s/results.safetensors", d->dir);
    (void)snprintf(tmp, sizeof(tmp), "%s.tmp", path);
    for (unsigned i = 0; i < d->n; i++)
        entries[i] = d->at[i].entry;
    rc = st_create(tmp, entries, d->n, NULL, &w, reterr);
    free(entries);
    if (rc < 0)
        return rc;
    for (unsigned i = 0; i < d->n; i++) {
        rc = st_write(w, d->at[i].data, d->at[i].bytes, reterr);
        if (rc < 0) {
            st_abort(w);
            return rc;
        }
    }
    rc = st_finish(w, reterr);
    if (rc == 0 && rename(tmp, path) < 0)
        rc = lh_err_set(reterr, -errno, "rename '%s'", tmp);
    return rc < 0 ? rc : lh_sync_path(d->dir, reterr);
}

int dump_write(struct dump *d, struct run *r, struct lh_err *reterr)
{
    int rc = 0;

    if (!d)
        return 0;
    for (unsigned i = 0; i < d->n && rc == 0; i++)
        if (d->at[i].over_ranks)
            rc = r->comm->ops->sum_f32(r->comm, d->at[i].data,
                                       (int64_t)(d->at[i].bytes / sizeof(float)), reterr);
    if (rc == 0 && r->comm->rank == 0)
        rc = write_file(d, reterr);
    return run_agree(r, rc, reterr);
}
