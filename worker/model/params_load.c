/* params_load.c - putting values into the table of parameters: from the base, from an adapter, or
 * fresh.
 *
 * Values pass through one staging buffer of bounded size, so loading a large tensor takes no second
 * copy of it, and the device may be one whose memory the host cannot reach.
 */
#include "worker/model/counter.h"
#include "worker/model/params.h"
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define STAGING_BYTES ((size_t)16 << 20)

struct loader {
    const struct model_source *source;
    const struct peft_adapter *adapter;
    const struct kn_ops *ops;
    struct kn_stream *stream;
    void *staging;
    size_t staging_bytes;
};

static void staging_freep(struct loader *l)
{
    free(l->staging);
}

/* Rows of a matrix that fit into the staging buffer. */
static int64_t chunk_rows(const struct loader *l, const struct param *p, size_t element)
{
    size_t row_bytes = (size_t)(p->cols > 0 ? p->cols : 1) * element;

    return (int64_t)LH_MAX(l->staging_bytes / row_bytes, (size_t)1);
}

/* The base's tensor into `to`, as dtype. */
static int load_base(struct loader *l, const struct param *p, enum kn_dtype dtype, void *to,
                     struct lh_err *reterr)
{
    int64_t cols = p->cols > 0 ? p->cols : 1, rows;
    size_t row_bytes = (size_t)cols * kn_dtype_bytes(dtype);
    int rc = model_source_check(l->source, p->name, p->rows, p->cols, reterr);

    if (rc < 0)
        return rc;
    for (int64_t r0 = 0; r0 < p->rows; r0 += rows) {
        rows = LH_MIN(p->rows - r0, chunk_rows(l, p, kn_dtype_bytes(dtype)));
        rc = model_source_read(l->source, p->name, r0, rows, dtype, l->staging, reterr);
        if (rc < 0)
            return rc;
        l->ops->upload(l->stream, (char *)to + (size_t)r0 * row_bytes, l->staging,
                       (size_t)rows * row_bytes);
        rc = l->ops->sync(l->stream, reterr);
        if (rc < 0)
            return rc;
    }
    model_source_forget(l->source, p->name); /* else the file stays in memory beside the model */
    return 0;
}

/* Element i of a LoRA factor that no adapter gives. */
static float fresh_value(const struct param *p, uint64_t seed, uint64_t place, int64_t i)
{
    float bound;

    if (p->role == PARAM_LORA_B)
        return 0;
    /* kaiming_uniform with a = sqrt(5), as PEFT: bound = sqrt(6 / ((1 + 5) in)). */
    bound = (float)(1.0 / sqrt((double)p->cols));
    return (2 * counter_uniform(seed, place, (uint64_t)i) - 1) * bound;
}

static void fresh_values(const struct param *p, uint64_t seed, uint64_t place, int64_t from,
                         int64_t n, enum kn_dtype dtype, void *out)
{
    for (int64_t i = 0; i < n; i++) {
        float x = fresh_value(p, seed, place, from + i);

        if (dtype == KN_F32)
            ((float *)out)[i] = x;
        else
            ((uint16_t *)out)[i] = kn_f32_to_bf16(x);
    }
}

static int load_adapter(struct loader *l, const struct param *p, uint64_t seed, uint64_t place,
                        enum kn_dtype dtype, void *to, struct lh_err *reterr)
{
    const struct st_tensor *t = NULL;
    int64_t chunk = (int64_t)(l->staging_bytes / sizeof(float)), n;

    if (l->adapter) {
        int rc = peft_find(l->adapter, p->key, p->rows, p->cols, &t, reterr);

        if (rc < 0)
            return rc;
    }
    for (int64_t i0 = 0; i0 < p->n; i0 += n) {
        int rc;

        n = LH_MIN(p->n - i0, chunk);
        if (t)
            peft_values(t, i0, n, dtype, l->staging);
        else
            fresh_values(p, seed, place, i0, n, dtype, l->staging);
        l->ops->upload(l->stream, (char *)to + (size_t)i0 * kn_dtype_bytes(dtype), l->staging,
                       (size_t)n * kn_dtype_bytes(dtype));
        rc = l->ops->sync(l->stream, reterr);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static void refresh(const struct param *p, const struct kn_ops *ops, struct kn_stream *stream)
{
    if (p->trains && p->w.p != p->master)
        ops->copy(stream, p->w, kn_mat(p->master, KN_F32, p->w.rows, p->w.cols));
}

static bool is_lora(const struct param *p)
{
    return p->role == PARAM_LORA_A || p->role == PARAM_LORA_B;
}

/* Gradients and moments of 0, and gaps of 0 between the tensors of every region. */
static void clear(const struct params *p, const struct kn_ops *ops, struct kn_stream *stream)
{
    float *const regions[] = {p->grad, p->m, p->v, p->master};

    if (p->n_region == 0)
        return;
    for (size_t i = 0; i < LH_ARRAY_LEN(regions); i++)
        ops->fill(stream, kn_mat(regions[i], KN_F32, 1, p->n_region), 0);
    if (p->low)
        ops->fill(stream, kn_mat(p->low, KN_BF16, 1, p->stretch[PARAMS_LOW].n), 0);
}

int params_load(struct params *p, const struct model_source *source,
                const struct peft_adapter *adapter, uint64_t seed, const struct kn_ops *ops,
                struct kn_stream *stream, struct lh_err *reterr)
{
    LH_CLEANUP(staging_freep) struct loader l = {source, adapter, ops, stream, NULL, STAGING_BYTES};
    int rc = 0;

    for (unsigned i = 0; i < p->n; i++)
        l.staging_bytes = LH_MAX(l.staging_bytes, (size_t)p->at[i].cols * sizeof(float));
    l.staging = malloc(l.staging_bytes);
    if (!l.staging)
        return lh_err_set(reterr, -ENOMEM, "a buffer for loading the model");
    clear(p, ops, stream);
    for (unsigned i = 0; i < p->n && rc == 0; i++) {
        const struct param *at = &p->at[i];
        enum kn_dtype dtype = at->trains ? KN_F32 : at->w.t;
        void *to = at->trains ? at->master : at->w.p;
        bool stored = adapter && strncmp(at->key, PEFT_PREFIX, strlen(PEFT_PREFIX)) == 0;

        if (is_lora(at) || stored)
            rc = load_adapter(&l, at, seed, i, dtype, to, reterr);
        else
            rc = load_base(&l, at, dtype, to, reterr);
        if (rc < 0)
            break;
        refresh(at, ops, stream);
    }
    model_source_forget(source, NULL); /* reading ahead brought back some */
    return rc < 0 ? rc : ops->sync(stream, reterr);
}

void params_refresh(struct params *p, const struct kn_ops *ops, struct kn_stream *stream)
{
    for (unsigned i = 0; i < p->n; i++)
        refresh(&p->at[i], ops, stream);
}

int params_nonfinite(const struct params *p, bool grads, const struct kn_ops *ops,
                     struct kn_stream *stream, const struct param **ret_param, int64_t *ret_index,
                     struct lh_err *reterr)
{
    for (unsigned i = 0; i < p->n; i++) {
        const struct param *at = &p->at[grads ? p->n - 1 - i : i];
        struct kn_mat x = grads ? kn_mat(at->grad, KN_F32, 1, at->n) : at->w;
        int64_t index = -1;
        int rc;

        if (grads && !at->trains)
            continue;
        ops->first_nonfinite(stream, &index, x);
        rc = ops->sync(stream, reterr);
        if (rc < 0)
            return rc;
        if (index >= 0) {
            *ret_param = at;
            *ret_index = index;
            return 0;
        }
    }
    *ret_param = NULL;
    return 0;
}
