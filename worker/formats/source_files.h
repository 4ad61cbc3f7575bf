/* source_files.h - inside of source.h: the table that the two kinds of model files fill. */
#pragma once
#include "proto/base/arena.h"
#include "worker/formats/gguf.h"
#include "worker/formats/quant.h"
#include "worker/formats/safetensors.h"
#include "worker/formats/source.h"

#define SOURCE_ARENA_MAX ((size_t)64 << 20) /* names of a million tensors */
#define SOURCE_FILES_MAX 1024               /* shards of one model */

struct source_tensor {
    const char *name;   /* Hugging Face's */
    int64_t rows, cols; /* cols 0: a vector of rows */
    enum quant_type type;
    const uint8_t *data;
    int64_t pair_heads; /* not 0: the rows of so many heads are interleaved, see row_in_file */
};

struct model_source {
    struct lh_arena arena; /* path, names */
    const char *path;
    struct model_config config;
    struct source_tensor *tensors; /* sorted by name once open */
    unsigned n_tensors, tensors_cap;
    struct st_file **weights; /* a directory's */
    unsigned n_weights;
    struct gguf_file *gguf; /* or the one file */
    const char **files;     /* everything the digest covers */
    unsigned n_files;
    char digest[65]; /* "" until asked for */
};

/* Each fills config, tensors and files; the caller closes s on failure. */
LH_MUST_CHECK int source_open_hf(struct model_source *s, struct lh_err *reterr);
LH_MUST_CHECK int source_open_gguf(struct model_source *s, struct lh_err *reterr);

LH_MUST_CHECK int source_add(struct model_source *s, const struct source_tensor *t,
                             struct lh_err *reterr);
LH_MUST_CHECK int source_add_file(struct model_source *s, const char *path, struct lh_err *reterr);
