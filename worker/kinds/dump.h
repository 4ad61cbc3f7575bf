/* dump.h - what `--dump DIR` writes: the tensors that a golden result is compared with, in one
 * safetensors file.
 *
 * Every rank opens a dump and fills in the rows that it computed; dump_write adds them up over the
 * ranks (others hold zeros there), and rank 0 writes DIR/results.safetensors, renamed into place.
 */
#pragma once
#include "worker/formats/safetensors.h"
#include "worker/model/llama.h"
#include "worker/run.h"

struct dump;

/* Makes DIR. Errors: -errno. dir NULL: *ret_dump is NULL, and all functions here do nothing for
 * NULL. */
LH_MUST_CHECK int dump_open(const char *dir, struct dump **ret_dump, struct lh_err *reterr);
void dump_free(struct dump *d); /* accepts NULL */

/* A new tensor of zeros: its elements (float, or int64_t for ST_I64). over_ranks: ranks hold parts
 * of it that are added up (F32 only); otherwise rank 0's counts. Errors: LH_EJOB when the dump
 * would grow beyond DUMP_BYTES_MAX, -ENOMEM. */
LH_MUST_CHECK int dump_add(struct dump *d, const char *key, enum st_dtype dtype, int n_dims,
                           const int64_t *shape, bool over_ranks, void **ret_data,
                           struct lh_err *reterr);

/* Sets the first dimension of a tensor to what was really filled in (fewer steps were made). */
void dump_shorten(struct dump *d, const char *key, int64_t first_dim);

/* Copies of all gradients under "grad.KEY", of all masters under "final.KEY". */
LH_MUST_CHECK int dump_grads(struct dump *d, const struct device *device, const struct params *p,
                             struct lh_err *reterr);
LH_MUST_CHECK int dump_finals(struct dump *d, const struct device *device, const struct params *p,
                              struct lh_err *reterr);

/* rope.inv_freq and rope.attention_scaling. */
LH_MUST_CHECK int dump_rope(struct dump *d, const double *inv_freq, int64_t n, double scaling,
                            struct lh_err *reterr);

/* A sink that copies logits into `to` (F32 [rows, row_tokens, V]); rows[i] is where row i of the
 * micro-batch goes. */
struct dump_logits {
    float *to;
    int64_t row_tokens, V;
    int64_t *rows; /* not owned here */
};
struct head_sink dump_logits_sink(struct dump_logits *logits);

/* Collective. */
LH_MUST_CHECK int dump_write(struct dump *d, struct run *r, struct lh_err *reterr);
