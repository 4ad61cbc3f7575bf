/* gguf_llama.h - a Llama in GGUF's words: its keys, its tensors, and the rows of q and k as
 * neighbour pairs.
 *
 * The inverse of source_gguf.c and gguf_config.c. The tokenizer's keys are put by
 * worker/text/tokenizer_export.h between gguf_llama_keys and gguf_llama_tensors.
 */
#pragma once
#include "worker/formats/gguf_writer.h"
#include "worker/formats/source.h"
#include "worker/formats/weights.h"

struct gguf_llama {
    const struct model_config *config; /* the sizes */
    const struct rope_config *rope;    /* the positions in force, and what they come to: */
    const double *inv_freq;            /* head_dim / 2 */
    double scaling;                    /* of cosines and sines */
    int64_t context;                   /* llama.context_length */
    enum quant_type type;              /* of matrices */
    const char *name;                  /* general.name */
    const struct gguf_file *base;      /* NULL, or where the other general.* keys come from */
};

/* LH_EJOB at /export/format for positions that GGUF has no keys for. */
LH_MUST_CHECK int gguf_llama_keys(struct gguf_writer *w, const struct gguf_llama *m,
                                  struct lh_err *reterr);

/* Declares the tensors, begins the file and writes them. LH_EJOB at /export/dtype when a value does
 * not fit the type. */
LH_MUST_CHECK int gguf_llama_tensors(struct gguf_writer *w, const struct gguf_llama *m,
                                     const struct weights *weights, struct lh_err *reterr);
