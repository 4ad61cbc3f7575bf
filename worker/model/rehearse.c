/* rehearse.c - a pass through the model that does not compute; see rehearse.h. */
#include "worker/model/rehearse.h"
#include "worker/model/cache.h"
#include <errno.h>
#include <stdlib.h>

static int look(void *arg, const struct device *d, int64_t t0, struct kn_mat logits,
                struct lh_err *reterr)
{
    (void)arg;
    (void)d;
    (void)t0;
    (void)logits;
    (void)reterr;
    return 0;
}

/* As many rows as there may be. */
static struct llama_batch largest(const struct llama *m, const int32_t *zeros, int64_t group)
{
    int64_t row = LH_MIN(m->dims.T, m->dims.positions);

    return (struct llama_batch){
        .rows = m->dims.T / row, .row_tokens = row, .ids = zeros, .labels = zeros, .group = group};
}

static int run_eval(struct llama *m, const int32_t *zeros, const struct rehearsal *r,
                    struct lh_err *reterr)
{
    struct llama_batch b = largest(m, zeros, r->eval_group);

    if (r->passes & REHEARSE_LOGITS)
        b.sink.fn = look;
    return llama_eval(m, &b, reterr);
}

static int run_train(struct llama *m, const int32_t *zeros, const struct rehearsal *r,
                     struct lh_err *reterr)
{
    struct llama_batch b = largest(m, zeros, r->train_group);
    double sum = 0;
    int rc;

    b.wrap = m->dims.wrap_T > 0;
    rc = llama_train(m, &b, 1, &sum, reterr);
    m->device.ops->sum_squares(m->device.stream, &sum, m->params.grad, m->params.n_region);
    return rc < 0 ? rc : m->device.ops->sync(m->device.stream, reterr);
}

/* The last tokens that a cache has room for see the most; and one token alone. */
static int run_cache(struct llama *m, const int32_t *zeros, struct lh_err *reterr)
{
    int64_t T = LH_MIN(m->dims.T, m->dims.cache);
    struct cache c = {.model = m, .used = m->dims.cache - T};
    float *logits = malloc((size_t)m->dims.V * sizeof(*logits));
    int rc = logits ? cache_append(&c, zeros, T, logits, reterr)
                    : lh_err_set(reterr, -ENOMEM, "logits for a rehearsal");

    if (rc == 0) {
        cache_rewind(&c, m->dims.cache - 1);
        rc = cache_append(&c, zeros, 1, logits, reterr);
    }
    free(logits);
    return rc;
}

int rehearse_scratch(struct llama *m, const struct rehearsal *r, const struct kn_ops *ops,
                     int threads, uint64_t *ret_bytes, struct lh_err *reterr)
{
    int32_t *zeros = calloc((size_t)m->dims.T, sizeof(*zeros));
    struct kn_stream *stream = NULL;
    int rc = zeros ? ops->stream_new(threads, &stream, reterr)
                   : lh_err_set(reterr, -ENOMEM, "tokens for a rehearsal");

    if (rc == 0) {
        ops->rehearse(stream);
        rc = llama_bind(m, ops, stream, reterr);
    }
    if (rc == 0 && r->passes & REHEARSE_TRAIN)
        rc = run_train(m, zeros, r, reterr);
    if (rc == 0 && r->passes & (REHEARSE_LOSS | REHEARSE_LOGITS))
        rc = run_eval(m, zeros, r, reterr);
    if (rc == 0 && r->passes & REHEARSE_CACHE)
        rc = run_cache(m, zeros, reterr);
    if (rc == 0)
        *ret_bytes = ops->scratch_bytes(stream);
    llama_unbind(m);
    if (stream)
        ops->stream_free(stream);
    free(zeros);
    return rc;
}
