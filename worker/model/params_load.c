/* params_load.c - putting values into the table of parameters: from the base, from an adapter, or
 * fresh.
 *
 * Values pass through one staging buffer of bounded size, so loading a large tensor takes no second
 * copy of it, and the device may be one whose memory the host cannot reach.
 */
#include "worker/model/params.h"
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
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

/* The element at `index` of tensor `place` for a seed: uniform in [0,1), 24 bits, from SplitMix64's
 * finaliser applied to a counter; any element can be made without the ones before it. */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static float uniform(uint64_t seed, uint64_t place, uint64_t index)
{
    return (float)(mix(mix(mix(seed) ^ place) ^ index) >> 40) * 0x1p-24f;
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
    return 0;
}

static float half_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 0x1fu,
             mantissa = h & 0x3ffu, bits;
    float f;

    if (exponent == 0)
        return (sign ? -1.0f : 1.0f) * (float)mantissa * 0x1p-24f;
    bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112u) << 23) | mantissa << 13;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

/* Element i of a float tensor; the mapping need not be aligned. */
static float st_value(const struct st_tensor *t, int64_t i)
{
    const char *at = (const char *)t->data + (uint64_t)i * st_dtype_bytes(t->dtype);
    uint16_t half;
    double d;
    float f;

    switch (t->dtype) {
    case ST_F32:
        memcpy(&f, at, sizeof(f));
        return f;
    case ST_F64:
        memcpy(&d, at, sizeof(d));
        return (float)d;
    case ST_BF16:
        memcpy(&half, at, sizeof(half));
        return kn_bf16_to_f32(half);
    default:
        assert(t->dtype == ST_F16);
        memcpy(&half, at, sizeof(half));
        return half_to_f32(half);
    }
}

static int find_in_adapter(const struct peft_adapter *a, const struct param *p,
                           const struct st_tensor **ret_tensor, struct lh_err *reterr)
{
    const struct st_tensor *t = st_find(a->weights, p->key);
    int dims = p->cols > 0 ? 2 : 1;

    if (!t)
        return lh_err_at(reterr, LH_EINPUT, "/model/adapter",
                         "the adapter has no tensor '%s', which this job's adapter has; give a job "
                         "with the same "
                         "adapter members, or leave model.adapter out",
                         p->key);
    if (t->n_dims != dims || t->shape[0] != p->rows || (dims == 2 && t->shape[1] != p->cols))
        return lh_err_at(reterr, LH_EINPUT, "/model/adapter",
                         "the adapter's tensor '%s' is %" PRId64 " x %" PRId64
                         ", and must be %" PRId64 " x %" PRId64 " for this base and rank",
                         p->key, t->shape[0], t->n_dims > 1 ? t->shape[1] : 0, p->rows, p->cols);
    if (t->dtype != ST_F32 && t->dtype != ST_F64 && t->dtype != ST_BF16 && t->dtype != ST_F16)
        return lh_err_at(reterr, LH_EINPUT, "/model/adapter",
                         "the adapter's tensor '%s' has type %s, not a float", p->key,
                         st_dtype_name(t->dtype));
    *ret_tensor = t;
    return 0;
}

/* An adapter's value of p, fresh (adapter NULL) or stored: element i. */
static float adapter_value(const struct st_tensor *t, const struct param *p, uint64_t seed,
                           uint64_t place, int64_t i)
{
    float bound;

    if (t)
        return st_value(t, i);
    if (p->role == PARAM_LORA_B)
        return 0;
    /* kaiming_uniform with a = sqrt(5), as PEFT: bound = sqrt(6 / ((1 + 5) in)). */
    bound = (float)(1.0 / sqrt((double)p->cols));
    return (2 * uniform(seed, place, (uint64_t)i) - 1) * bound;
}

static int load_adapter(struct loader *l, const struct param *p, uint64_t seed, uint64_t place,
                        enum kn_dtype dtype, void *to, struct lh_err *reterr)
{
    const struct st_tensor *t = NULL;
    int64_t chunk = (int64_t)(l->staging_bytes / sizeof(float)), n;

    if (l->adapter) {
        int rc = find_in_adapter(l->adapter, p, &t, reterr);

        if (rc < 0)
            return rc;
    }
    for (int64_t i0 = 0; i0 < p->n; i0 += n) {
        int rc;

        n = LH_MIN(p->n - i0, chunk);
        for (int64_t i = 0; i < n; i++) {
            float x = adapter_value(t, p, seed, place, i0 + i);

            if (dtype == KN_F32)
                ((float *)l->staging)[i] = x;
            else
                ((uint16_t *)l->staging)[i] = kn_f32_to_bf16(x);
        }
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
        if (at->trains) {
            ops->fill(stream, kn_mat(at->m, KN_F32, 1, at->n), 0);
            ops->fill(stream, kn_mat(at->v, KN_F32, 1, at->n), 0);
        }
    }
    if (rc == 0 && p->n_region > 0)
        ops->fill(stream, kn_mat(p->grad, KN_F32, 1, p->n_region), 0);
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
