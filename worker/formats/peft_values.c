/* peft_values.c - the numbers in an adapter's file; see peft.h. */
#include "worker/formats/peft.h"
#include "worker/formats/quant.h"
#include <assert.h>
#include <inttypes.h>

int peft_find(const struct peft_adapter *a, const char *key, int64_t rows, int64_t cols,
              const struct st_tensor **ret_tensor, struct lh_err *reterr)
{
    const struct st_tensor *t = st_find(a->weights, key);
    int dims = cols > 0 ? 2 : 1;

    if (!t)
        return lh_err_at(reterr, LH_EINPUT, "/model/adapter",
                         "the adapter has no tensor '%s', which its config and the other tensors "
                         "ask for",
                         key);
    if (t->n_dims != dims || t->shape[0] != rows || (dims == 2 && t->shape[1] != cols))
        return lh_err_at(reterr, LH_EINPUT, "/model/adapter",
                         "the adapter's tensor '%s' is %" PRId64 " x %" PRId64
                         ", and must be %" PRId64 " x %" PRId64 " for this base and rank",
                         key, t->shape[0], t->n_dims > 1 ? t->shape[1] : 0, rows, cols);
    if (t->dtype != ST_F32 && t->dtype != ST_F64 && t->dtype != ST_BF16 && t->dtype != ST_F16)
        return lh_err_at(reterr, LH_EINPUT, "/model/adapter",
                         "the adapter's tensor '%s' has type %s, not a float", key,
                         st_dtype_name(t->dtype));
    *ret_tensor = t;
    return 0;
}

static enum quant_type quant_of(enum st_dtype dtype)
{
    switch (dtype) {
    case ST_F64:
        return QUANT_F64;
    case ST_BF16:
        return QUANT_BF16;
    case ST_F16:
        return QUANT_F16;
    default:
        assert(dtype == ST_F32);
        return QUANT_F32;
    }
}

void peft_values(const struct st_tensor *t, int64_t from, int64_t n, enum kn_dtype dtype, void *out)
{
    quant_expand(quant_of(t->dtype),
                 (const uint8_t *)t->data + (uint64_t)from * st_dtype_bytes(t->dtype), n, dtype,
                 out);
}
