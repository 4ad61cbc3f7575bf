/* merge.h - base and adapter as one: W + scale * B A in fp32, tensor by tensor, without holding a
 * model.
 *
 * What an export writes. The values are the base's where the adapter has nothing, the adapter's
 * where it holds a tensor whole (embeddings, norms).
 */
#pragma once
#include "worker/model/params.h"

struct merge {
    const struct model_source *source;
    const struct peft_adapter *adapter; /* NULL: the base alone */
    const struct params_spec *spec;
    struct params params;    /* the table, without memory */
    const struct param **at; /* owned: what the merged model has, in the order of the table */
    unsigned n;
};

/* All three must outlive *m. LH_EINPUT at /model/adapter for an adapter that holds a tensor which
 * the merged model does not take up (so nothing of it is lost in silence), or a head of its own. */
LH_MUST_CHECK int merge_open(const struct model_source *source, const struct peft_adapter *adapter,
                             const struct params_spec *spec, struct merge *ret_merge,
                             struct lh_err *reterr);
void merge_close(struct merge *m); /* of zeros: nothing happens */

/* Rows [r0, r0 + rows) of tensor i as fp32. */
LH_MUST_CHECK int merge_read(const struct merge *m, unsigned i, int64_t r0, int64_t rows,
                             float *out, struct lh_err *reterr);
