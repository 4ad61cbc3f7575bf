/* source.c - see source.h. Both kinds of files end in one table: a name, a shape, a type, where the
 * bytes lie.
 *
 * Always true of an open source: every tensor of the model that its config describes is in the
 * table with the shape it must have. The files are read by source_hf.c and source_gguf.c; this is
 * what they share.
 */
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/sha256.h"
#include "proto/base/str.h"
#include "worker/formats/source_files.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void model_source_close(struct model_source *s)
{
    if (!s)
        return;
    for (unsigned i = 0; i < s->n_weights; i++)
        st_close(s->weights[i]);
    free(s->weights);
    gguf_close(s->gguf);
    json_decref(s->config.raw);
    lh_arena_release(&s->arena);
    free(s->tensors);
    free(s->files);
    free(s);
}
LH_DEFINE_FREEP(struct model_source *, model_source_close)

const struct model_config *model_source_config(const struct model_source *s)
{
    return &s->config;
}

const char *model_source_path(const struct model_source *s)
{
    return s->path;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct source_tensor *)a)->name, ((const struct source_tensor *)b)->name);
}

static const struct source_tensor *find(const struct model_source *s, const char *name)
{
    struct source_tensor wanted = {.name = name};

    return bsearch(&wanted, s->tensors, s->n_tensors, sizeof(*s->tensors), by_name);
}

bool model_source_has(const struct model_source *s, const char *name)
{
    return find(s, name) != NULL;
}

int model_source_check(const struct model_source *s, const char *name, int64_t rows, int64_t cols,
                       struct lh_err *reterr)
{
    const struct source_tensor *t = find(s, name);

    if (!t)
        return lh_err_set(reterr, LH_EINPUT, "'%s' has no tensor '%s'; is the model complete?",
                          s->path, name);
    if (t->rows != rows || t->cols != cols)
        return lh_err_set(
            reterr, LH_EINPUT,
            "'%s': tensor '%s' is %lld x %lld where the config asks for %lld x %lld (0: a "
            "vector); config and weights are not of one model",
            s->path, name, (long long)t->rows, (long long)t->cols, (long long)rows,
            (long long)cols);
    return 0;
}

/* Where row r of a head-wise permuted matrix lies: GGUF has the two halves of a head interleaved.
 */
static int64_t row_in_file(const struct source_tensor *t, int64_t r)
{
    int64_t head_rows, half, i;

    if (t->pair_heads == 0)
        return r;
    head_rows = t->rows / t->pair_heads;
    half = head_rows / 2;
    i = r % head_rows;
    return r - i + (i < half ? 2 * i : 2 * (i - half) + 1);
}

int model_source_read(const struct model_source *s, const char *name, int64_t r0, int64_t rows,
                      enum kn_dtype dtype, void *out, struct lh_err *reterr)
{
    const struct source_tensor *t = find(s, name);
    const struct quant_info *info;
    int64_t cols;

    if (!t)
        return lh_err_set(reterr, LH_EINPUT, "'%s' has no tensor '%s'", s->path, name);
    if (r0 < 0 || rows < 0 || r0 > t->rows || rows > t->rows - r0)
        return lh_err_set(reterr, LH_EINTERNAL, "rows [%lld, %lld) asked of '%s', which has %lld",
                          (long long)r0, (long long)(r0 + rows), name, (long long)t->rows);
    info = quant_info(t->type);
    cols = t->cols ? t->cols : 1;
    if (t->pair_heads == 0) { /* one run of blocks */
        quant_expand(t->type, t->data + (uint64_t)(r0 * cols / info->block) * info->block_bytes,
                     rows * cols, dtype, out);
        return 0;
    }
    for (int64_t r = 0; r < rows; r++) {
        uint64_t from = (uint64_t)row_in_file(t, r0 + r) * (uint64_t)(cols / info->block);

        quant_expand(t->type, t->data + from * info->block_bytes, cols, dtype,
                     (char *)out + (size_t)(r * cols) * kn_dtype_bytes(dtype));
    }
    return 0;
}

static void forget(const struct source_tensor *t)
{
    const struct quant_info *info = quant_info(t->type);
    int64_t n = t->rows * (t->cols ? t->cols : 1);
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = (uintptr_t)t->data / page * page; /* a neighbour's part of it comes back */
    uintptr_t end = (uintptr_t)t->data + (uint64_t)(n / info->block) * info->block_bytes;

    (void)madvise((void *)begin, end - begin, MADV_DONTNEED);
}

void model_source_forget(const struct model_source *s, const char *name)
{
    const struct source_tensor *t = name ? find(s, name) : NULL;

    if (t)
        forget(t);
    for (unsigned i = 0; !name && i < s->n_tensors; i++)
        forget(&s->tensors[i]);
}

int source_add(struct model_source *s, const struct source_tensor *t, struct lh_err *reterr)
{
    const struct quant_info *info = quant_info(t->type);

    if (t->cols == 0 && info->block > 1)
        return lh_err_set(reterr, LH_EINPUT,
                          "'%s': vector '%s' is quantised (%s), which no Llama has", s->path,
                          t->name, info->name);
    if (s->n_tensors == s->tensors_cap) {
        unsigned cap = s->tensors_cap ? 2 * s->tensors_cap : 64;
        struct source_tensor *more = realloc(s->tensors, cap * sizeof(*more));

        if (!more)
            return lh_err_set(reterr, -ENOMEM, "open '%s'", s->path);
        s->tensors = more;
        s->tensors_cap = cap;
    }
    s->tensors[s->n_tensors++] = *t;
    return 0;
}

int source_add_file(struct model_source *s, const char *path, struct lh_err *reterr)
{
    const char **more = realloc(s->files, (s->n_files + 1) * sizeof(*more));

    if (!more)
        return lh_err_set(reterr, -ENOMEM, "open '%s'", s->path);
    s->files = more;
    s->files[s->n_files] = lh_arena_strdup(&s->arena, path);
    if (!s->files[s->n_files])
        return lh_err_set(reterr, -ENOMEM, "open '%s'", s->path);
    s->n_files++;
    return 0;
}

struct param {
    const char *suffix; /* behind "model.layers.N.", or the whole name */
    int64_t rows, cols;
};

/* Nine a layer, then the three of the whole model. */
static unsigned list_params(const struct model_config *c, struct param p[static 12])
{
    int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    const struct param all[] = {
        {"input_layernorm.weight", c->hidden, 0},
        {"post_attention_layernorm.weight", c->hidden, 0},
        {"self_attn.q_proj.weight", q, c->hidden},
        {"self_attn.k_proj.weight", kv, c->hidden},
        {"self_attn.v_proj.weight", kv, c->hidden},
        {"self_attn.o_proj.weight", c->hidden, q},
        {"mlp.gate_proj.weight", c->ff, c->hidden},
        {"mlp.up_proj.weight", c->ff, c->hidden},
        {"mlp.down_proj.weight", c->hidden, c->ff},
        {"model.embed_tokens.weight", c->vocab, c->hidden},
        {"model.norm.weight", c->hidden, 0},
        {"lm_head.weight", c->vocab, c->hidden},
    };

    memcpy(p, all, sizeof(all));
    return c->tied ? 11 : 12;
}

static int check_params(const struct model_source *s, struct lh_err *reterr)
{
    struct param p[12];
    unsigned n = list_params(&s->config, p);
    char name[128];
    int rc = 0;

    for (unsigned i = 9; i < n && rc == 0; i++)
        rc = model_source_check(s, p[i].suffix, p[i].rows, p[i].cols, reterr);
    for (int64_t l = 0; l < s->config.n_layers && rc == 0; l++) {
        for (unsigned i = 0; i < 9 && rc == 0; i++) {
            (void)snprintf(name, sizeof(name), "model.layers.%lld.%s", (long long)l, p[i].suffix);
            rc = model_source_check(s, name, p[i].rows, p[i].cols, reterr);
        }
    }
    return rc;
}

/* More tensors than the config has would be silently left out of the computation: refuse them. */
static int check_count(const struct model_source *s, struct lh_err *reterr)
{
    unsigned expected = (unsigned)(9 * s->config.n_layers) + (s->config.tied ? 2u : 3u);

    if (s->n_tensors == expected)
        return 0;
    for (unsigned i = 0; i < s->n_tensors; i++) {
        const char *name = s->tensors[i].name;
        struct param p[12];
        unsigned n = list_params(&s->config, p);
        long long layer = -1;
        int used = 0;
        bool known = false;

        if (sscanf(name, "model.layers.%lld.%n", &layer, &used) == 1 && used > 0 &&
            layer < s->config.n_layers) {
            for (unsigned k = 0; k < 9; k++)
                known = known || strcmp(name + used, p[k].suffix) == 0;
        } else {
            for (unsigned k = 9; k < n; k++)
                known = known || strcmp(name, p[k].suffix) == 0;
        }
        if (!known)
            return lh_err_set(
                reterr, LH_EINPUT,
                "'%s': tensor '%.100s' is no part of the Llama that the config describes%s",
                s->path, name, lh_ends_with(name, ".bias") ? "; biases are not supported" : "");
    }
    return lh_err_set(reterr, LH_EINPUT, "'%s' has %u tensors where the config asks for %u",
                      s->path, s->n_tensors, expected);
}

void model_source_resolve(const char *path, char ret_path[static 1100])
{
    char config[1100];

    (void)snprintf(config, sizeof(config), "%.1023s/config.json", path);
    (void)snprintf(ret_path, 1100, "%.1023s/%s", path, MODEL_GGUF_NAME);
    if (!lh_is_dir(path) || lh_path_exists(config) || !lh_path_exists(ret_path))
        (void)snprintf(ret_path, 1100, "%.1099s", path);
}

int model_source_open(const char *given, struct model_source **ret_source, struct lh_err *reterr)
{
    LH_CLEANUP(model_source_closep) struct model_source *s = calloc(1, sizeof(*s));
    char path[1100];
    int rc;

    if (!s)
        return lh_err_set(reterr, -ENOMEM, "open model '%s'", given);
    if (strlen(given) >= 1024)
        return lh_err_set(reterr, -ENAMETOOLONG, "open model '%s'", given);
    model_source_resolve(given, path);
    lh_arena_init(&s->arena, SOURCE_ARENA_MAX);
    s->path = lh_arena_strdup(&s->arena, path);
    if (!s->path)
        return lh_err_set(reterr, -ENOMEM, "open model '%s'", path);
    if (!lh_path_exists(path))
        return lh_err_set(reterr, LH_EINPUT, "there is no model at '%s'", path);
    if (lh_is_dir(path))
        rc = source_open_hf(s, reterr);
    else if (lh_ends_with(path, ".gguf"))
        rc = source_open_gguf(s, reterr);
    else
        rc = lh_err_set(reterr, LH_EINPUT,
                        "'%s' is neither a directory with config.json nor a .gguf file", path);
    if (rc < 0)
        return rc;
    qsort(s->tensors, s->n_tensors, sizeof(*s->tensors), by_name);
    rc = check_params(s, reterr);
    if (rc == 0)
        rc = check_count(s, reterr);
    if (rc < 0)
        return rc;
    *ret_source = s;
    s = NULL;
    return 0;
}

static int by_string(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The digest of the list that sha256sum would print for the files, sorted by name. */
int model_source_digest(struct model_source *s, char ret_hex[static 65], struct lh_err *reterr)
{
    struct lh_sha256 h;
    int rc = 0;

    if (s->digest[0]) {
        memcpy(ret_hex, s->digest, 65);
        return 0;
    }
    if (lh_sha256_init(&h) < 0)
        return lh_err_set(reterr, -ENOMEM, "digest of '%s'", s->path);
    qsort(s->files, s->n_files, sizeof(*s->files), by_string);
    for (unsigned i = 0; i < s->n_files && rc == 0; i++) {
        const char *slash = strrchr(s->files[i], '/');
        const char *base = slash ? slash + 1 : s->files[i];
        char hex[LH_SHA256_HEX];

        rc = lh_sha256_file(s->files[i], hex, NULL, reterr);
        if (rc < 0)
            break;
        lh_sha256_update(&h, hex, 64);
        lh_sha256_update(&h, "  ", 2);
        lh_sha256_update(&h, base, strlen(base));
        lh_sha256_update(&h, "\n", 1);
    }
    lh_sha256_final(&h, s->digest);
    if (rc < 0) {
        s->digest[0] = '\0';
        return rc;
    }
    memcpy(ret_hex, s->digest, 65);
    return 0;
}
