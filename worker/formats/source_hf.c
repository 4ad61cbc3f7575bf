/* source_hf.c - a Hugging Face directory as a model source: config.json, one safetensors file or
 * many by an index. */
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include "worker/formats/hf_config.h"
#include "worker/formats/source_files.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_BYTES_MAX (4u << 20)
#define INDEX_BYTES_MAX (100u << 20)

static const char *file_in(struct model_source *s, const char *name)
{
    return lh_arena_printf(&s->arena, "%s/%s", s->path, name);
}

/* What is no weight of the model although some files have it. */
static bool ignored(const struct model_source *s, const char *name)
{
    return lh_ends_with(name, ".rotary_emb.inv_freq") ||
           (s->config.tied && strcmp(name, "lm_head.weight") == 0);
}

static int add_tensor(struct model_source *s, const struct st_tensor *st, const char *path,
                      struct lh_err *reterr)
{
    struct source_tensor t = {.name = st->name, .data = st->data};

    if (ignored(s, st->name))
        return 0;
    if (st->n_dims != 1 && st->n_dims != 2)
        return lh_err_set(reterr, LH_EINPUT,
                          "'%s': tensor '%.100s' has %d dimensions, a Llama's have one or two",
                          path, st->name, st->n_dims);
    t.rows = st->shape[0];
    t.cols = st->n_dims == 2 ? st->shape[1] : 0;
    if (t.rows == 0 || (st->n_dims == 2 && t.cols == 0))
        return lh_err_set(reterr, LH_EINPUT, "'%s': tensor '%.100s' is empty", path, st->name);
    switch (st->dtype) {
    case ST_F32:
        t.type = QUANT_F32;
        break;
    case ST_F16:
        t.type = QUANT_F16;
        break;
    case ST_BF16:
        t.type = QUANT_BF16;
        break;
    case ST_F64:
        t.type = QUANT_F64;
        break;
    default:
        return lh_err_set(reterr, LH_EINPUT,
                          "'%s': tensor '%.100s' is of type %s; weights must be floats", path,
                          st->name, st_dtype_name(st->dtype));
    }
    return source_add(s, &t, reterr);
}

static int open_weights(struct model_source *s, const char *path, struct st_file **ret_file,
                        struct lh_err *reterr)
{
    struct st_file **more;
    int rc;

    if (!path)
        return lh_err_set(reterr, -ENOMEM, "open model '%s'", s->path);
    more = realloc(s->weights, (s->n_weights + 1) * sizeof(struct st_file *));
    if (!more)
        return lh_err_set(reterr, -ENOMEM, "open model '%s'", s->path);
    s->weights = more;
    rc = st_open(path, &s->weights[s->n_weights], reterr);
    if (rc < 0)
        return rc;
    *ret_file = s->weights[s->n_weights++];
    return source_add_file(s, path, reterr);
}

static int read_single(struct model_source *s, const char *path, struct lh_err *reterr)
{
    struct st_file *f;
    int rc = open_weights(s, path, &f, reterr);

    for (unsigned i = 0; rc == 0 && i < st_count(f); i++)
        rc = add_tensor(s, st_at(f, i), path, reterr);
    return rc;
}

/* The opened shard of that name; an index of n tensors names few files, so a plain list does. */
static int shard(struct model_source *s, const char *name, const char *index_path,
                 const char **names, struct st_file **ret_file, struct lh_err *reterr)
{
    int rc;

    for (unsigned i = 0; i < s->n_weights; i++) {
        if (strcmp(names[i], name) == 0) {
            *ret_file = s->weights[i];
            return 0;
        }
    }
    if (strchr(name, '/') || name[0] == '.' || !lh_ends_with(name, ".safetensors"))
        return lh_err_set(
            reterr, LH_EINPUT,
            "'%s' names the file '%.100s'; only .safetensors files beside it are read", index_path,
            name);
    if (s->n_weights == SOURCE_FILES_MAX)
        return lh_err_set(reterr, LH_EINPUT, "'%s' names more than %d files", index_path,
                          SOURCE_FILES_MAX);
    names[s->n_weights] = name;
    rc = open_weights(s, file_in(s, name), ret_file, reterr);
    if (rc == -ENOENT)
        return lh_err_set(reterr, LH_EINPUT, "'%s' names the file '%.100s', which is not there",
                          index_path, name);
    return rc;
}

static int read_weight_map(struct model_source *s, const json_t *index, const char *path,
                           struct lh_err *reterr)
{
    json_t *map = json_object_get(index, "weight_map"), *file;
    const char **names = calloc(SOURCE_FILES_MAX, sizeof(*names));
    const char *key;
    int rc = 0;

    if (!names)
        return lh_err_set(reterr, -ENOMEM, "open model '%s'", s->path);
    if (!json_is_object(map))
        rc = lh_err_set(reterr, LH_EINPUT, "'%s' has no object 'weight_map'", path);
    json_object_foreach(map, key, file)
    {
        const struct st_tensor *t;
        struct st_file *f;

        if (!json_is_string(file))
            rc = lh_err_set(reterr, LH_EINPUT, "'%s': the file of '%.100s' is not a string", path,
                            key);
        else
            rc = shard(s, json_string_value(file), path, names, &f, reterr);
        if (rc < 0)
            break;
        t = st_find(f, key);
        if (!t)
            rc = lh_err_set(reterr, LH_EINPUT,
                            "'%s' says that '%.100s' is in '%.100s', but it is not there", path,
                            key, json_string_value(file));
        else
            rc = add_tensor(s, t, path, reterr);
        if (rc < 0)
            break;
    }
    free(names);
    return rc;
}

static int read_sharded(struct model_source *s, const char *path, struct lh_err *reterr)
{
    json_t *index;
    int rc = lh_json_load(path, INDEX_BYTES_MAX, &index, reterr);

    if (rc < 0)
        return rc;
    rc = read_weight_map(s, index, path, reterr);
    json_decref(index);
    return rc < 0 ? rc : source_add_file(s, path, reterr);
}

static int read_config(struct model_source *s, const char *path, struct lh_err *reterr)
{
    json_t *raw;
    int rc;

    if (!lh_path_exists(path))
        return lh_err_set(
            reterr, LH_EINPUT,
            "'%s' has no config.json; give a Hugging Face model directory or a .gguf file",
            s->path);
    rc = lh_json_load(path, CONFIG_BYTES_MAX, &raw, reterr);
    if (rc < 0)
        return rc;
    rc = hf_config_parse(raw, path, &s->config, reterr);
    json_decref(raw);
    return rc < 0 ? rc : source_add_file(s, path, reterr);
}

int source_open_hf(struct model_source *s, struct lh_err *reterr)
{
    const char *config = file_in(s, "config.json"), *single = file_in(s, "model.safetensors");
    const char *index = file_in(s, "model.safetensors.index.json"),
               *words = file_in(s, "tokenizer.json");
    int rc;

    if (!config || !single || !index || !words)
        return lh_err_set(reterr, -ENOMEM, "open model '%s'", s->path);
    rc = read_config(s, config, reterr);
    if (rc < 0)
        return rc;
    if (lh_path_exists(single))
        rc = read_single(s, single, reterr);
    else if (lh_path_exists(index))
        rc = read_sharded(s, index, reterr);
    else
        rc = lh_err_set(
            reterr, LH_EINPUT,
            "'%s' has neither model.safetensors nor model.safetensors.index.json; convert other "
            "formats to safetensors",
            s->path);
    if (rc == 0 && lh_path_exists(words))
        rc = source_add_file(s, words, reterr);
    return rc;
}
