/* hf_writer.c - see hf_writer.h. Tensors pass through two buffers of bounded size: fp32 values, and
 * the same packed. */
#include "worker/formats/hf_writer.h"
#include "proto/base/json.h"
#include "worker/formats/safetensors.h"
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct piece {
    float *values;
    uint8_t *packed;
};

static void piece_release(struct piece *p)
{
    free(p->values);
    free(p->packed);
}

json_t *hf_writer_config(const struct model_config *base, const json_t *rope, int64_t max_positions,
                         const char *dtype)
{
    json_t *config = json_deep_copy(base->raw);
    const char *type = lh_json_str(rope, "rope_type", "default");
    json_t *scaling = json_null();

    if (!config)
        return NULL;
    /* transformers 4 reads rope_scaling and rope_theta, 5 reads rope_parameters; "type" is how 4
     * said rope_type before 4.45. */
    if (strcmp(type, "default") != 0) {
        scaling = json_deep_copy(rope);
        (void)json_object_del(scaling, "rope_theta");
        (void)json_object_set_new(scaling, "type", json_string(type));
    }
    if (json_object_set_new(config, "rope_scaling", scaling) < 0 ||
        json_object_set_new(config, "rope_parameters", json_deep_copy(rope)) < 0 ||
        json_object_set_new(config, "rope_theta",
                            json_real(lh_json_num(rope, "rope_theta", base->rope.theta))) < 0 ||
        json_object_set_new(config, "max_position_embeddings", json_integer(max_positions)) < 0) {
        json_decref(config);
        return NULL;
    }
    /* Read from rope_parameters from here on: a second value beside it could only disagree. */
    (void)json_object_del(config, "original_max_position_embeddings");
    if (dtype) {
        (void)json_object_del(config, "dtype");
        (void)json_object_set_new(config, "torch_dtype", json_string(dtype));
    }
    return config;
}

const char *hf_writer_dtype(enum quant_type type)
{
    switch (type) {
    case QUANT_F32:
        return "float32";
    case QUANT_F16:
        return "float16";
    default:
        assert(type == QUANT_BF16);
        return "bfloat16";
    }
}

static enum st_dtype st_of(enum quant_type type)
{
    switch (type) {
    case QUANT_F32:
        return ST_F32;
    case QUANT_F16:
        return ST_F16;
    default:
        assert(type == QUANT_BF16);
        return ST_BF16;
    }
}

static uint64_t entry_bytes(const struct weights_entry *e, enum quant_type type)
{
    return (uint64_t)e->rows * (uint64_t)weights_cols(e) * quant_info(type)->block_bytes;
}

static int64_t piece_rows(const struct weights_entry *e)
{
    return LH_MIN(e->rows, LH_MAX(WEIGHTS_PIECE / weights_cols(e), (int64_t)1));
}

static int write_tensor(struct st_writer *out, const struct weights *w, unsigned i,
                        enum quant_type type, const struct piece *p, struct lh_err *reterr)
{
    const struct weights_entry *e = &w->at[i];
    int64_t cols = weights_cols(e), rows, bad;
    int rc = 0;

    for (int64_t r0 = 0; rc == 0 && r0 < e->rows; r0 += rows) {
        rows = LH_MIN(piece_rows(e), e->rows - r0);
        rc = w->read(w->arg, i, r0, rows, p->values, reterr);
        if (rc < 0)
            return rc;
        bad = quant_pack(type, p->values, rows * cols, p->packed);
        if (bad >= 0)
            return lh_err_at(reterr, LH_EJOB, "/export/dtype",
                             "%s[%" PRId64 "] is %g, which is beyond the range of %s; export as "
                             "bf16 or f32",
                             e->name, r0 * cols + bad, (double)p->values[bad],
                             quant_info(type)->name);
        rc = st_write(out, p->packed, (uint64_t)(rows * cols) * quant_info(type)->block_bytes,
                      reterr);
    }
    return rc;
}

static int piece_init(struct piece *p, const struct weights *w, unsigned first, unsigned n,
                      enum quant_type type, struct lh_err *reterr)
{
    size_t most = 1;

    for (unsigned i = first; i < first + n; i++)
        most = LH_MAX(most, (size_t)(piece_rows(&w->at[i]) * weights_cols(&w->at[i])));
    p->values = malloc(most * sizeof(*p->values));
    p->packed = malloc(most * quant_info(type)->block_bytes);
    return p->values && p->packed ? 0 : lh_err_set(reterr, -ENOMEM, "a buffer for weights");
}

int hf_writer_file(const char *path, const struct weights *w, unsigned first, unsigned n,
                   enum quant_type type, struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *metadata = json_pack("{s:s}", "format", "pt");
    LH_CLEANUP(piece_release) struct piece p = {0};
    struct st_entry *entries = calloc(n, sizeof(*entries));
    struct st_writer *out = NULL;
    int rc = piece_init(&p, w, first, n, type, reterr);

    assert(n > 0);
    if (rc == 0 && !entries)
        rc = lh_err_set(reterr, -ENOMEM, "names of weights");
    for (unsigned i = 0; rc == 0 && i < n; i++) {
        const struct weights_entry *e = &w->at[first + i];

        entries[i] = (struct st_entry){.name = e->name,
                                       .dtype = st_of(type),
                                       .n_dims = e->cols > 0 ? 2 : 1,
                                       .shape = {e->rows, e->cols}};
    }
    if (rc == 0)
        rc = st_create(path, entries, n, metadata, &out, reterr);
    for (unsigned i = 0; rc == 0 && i < n; i++)
        rc = write_tensor(out, w, first + i, type, &p, reterr);
    if (rc == 0)
        rc = st_finish(out, reterr);
    else
        st_abort(out);
    free(entries);
    return rc;
}

/* How many tensors from `first` on go into one file. */
static unsigned shard_end(const struct weights *w, unsigned first, enum quant_type type,
                          uint64_t shard_bytes)
{
    uint64_t bytes = entry_bytes(&w->at[first], type);
    unsigned end = first + 1;

    while (end < w->n && bytes + entry_bytes(&w->at[end], type) <= shard_bytes)
        bytes += entry_bytes(&w->at[end++], type);
    return end;
}

static int write_index(const char *dir, const struct weights *w, json_t *map, enum quant_type type,
                       struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *index = NULL;
    char path[1400];
    uint64_t total = 0;

    for (unsigned i = 0; i < w->n; i++)
        total += entry_bytes(&w->at[i], type);
    index =
        json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    if (!index)
        return lh_err_set(reterr, -ENOMEM, "index of weights");
    (void)snprintf(path, sizeof(path), "%s/model.safetensors.index.json", dir);
    return lh_json_save(path, index, reterr);
}

int hf_writer_weights(const char *dir, const struct weights *w, enum quant_type type,
                      uint64_t shard_bytes, unsigned *ret_files, struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *map = json_object();
    unsigned files = 0, file = 0;
    char path[1400], name[64];
    int rc = 0;

    assert(w->n > 0);
    for (unsigned i = 0; i < w->n; i = shard_end(w, i, type, shard_bytes))
        files++;
    if (files > HF_SHARDS_MAX)
        return lh_err_at(reterr, LH_EJOB, "/export/shard_bytes",
                         "export.shard_bytes %" PRIu64 " gives %u files; at most %d are "
                         "written, give more bytes",
                         shard_bytes, files, HF_SHARDS_MAX);
    for (unsigned i = 0, end; rc == 0 && i < w->n; i = end) {
        end = shard_end(w, i, type, shard_bytes);
        if (files == 1)
            (void)snprintf(name, sizeof(name), "model.safetensors");
        else
            (void)snprintf(name, sizeof(name), "model-%05u-of-%05u.safetensors", ++file, files);
        (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
        rc = hf_writer_file(path, w, i, end - i, type, reterr);
        for (unsigned k = i; k < end; k++)
            (void)json_object_set_new(map, w->at[k].name, json_string(name));
    }
    if (rc == 0 && files > 1)
        rc = write_index(dir, w, map, type, reterr);
    if (rc == 0)
        *ret_files = files;
    return rc;
}
