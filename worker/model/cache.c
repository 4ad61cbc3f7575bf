/* cache.c - see cache.h. */
#include "worker/model/cache.h"
#include "proto/base/attr.h"
#include <assert.h>

static void put_tokens(struct llama *m, const int32_t *ids, int64_t q0, int64_t T)
{
    for (int64_t t = 0; t < T; t++)
        m->pos[t] = (int32_t)(q0 + t);
    m->device.ops->upload(m->device.stream, m->work.pos, m->pos, (uint64_t)T * sizeof(*m->pos));
    m->device.ops->upload(m->device.stream, m->work.ids, ids, (uint64_t)T * sizeof(*ids));
}

/* Embedding and layers of one chunk; what goes into the head is in the first block of kept. */
static int chunk(struct llama *m, const int32_t *ids, int64_t q0, int64_t T, struct lh_err *reterr)
{
    const struct param *embed = params_role(&m->params, PARAM_EMBED, PARAM_EMBED, -1);
    struct attention_past a = {.T = T, .q0 = q0, .eps = (float)m->config.norm_eps};
    struct kn_mat x = work_kept(&m->work, 0, T);

    put_tokens(m, ids, q0, T);
    m->device.ops->embed_fwd(m->device.stream, x, embed->w, m->work.ids);
    for (int64_t l = 0; l < m->dims.L; l++) {
        int rc;

        work_enter(&m->work, l);
        a.k = work_cached(&m->work, m->work.keys, l, q0 + T);
        a.v = work_cached(&m->work, m->work.values, l, q0 + T);
        attention_forward_cached(&m->device, &m->layers[l].attention, &m->work, &a, x);
        mlp_forward(&m->device, &m->layers[l].mlp, &m->work, x,
                    work_mat(&m->work, m->work.room.x1, T, m->dims.C), a.eps);
        rc = m->device.ops->sync(m->device.stream, reterr);
        if (rc < 0)
            return rc;
        if (m->beat)
            m->beat(m->beat_arg);
    }
    return 0;
}

int cache_append(struct cache *c, const int32_t *ids, int64_t n, float *logits,
                 struct lh_err *reterr)
{
    struct llama *m = c->model;
    struct kn_mat last;
    int64_t T = 0;
    int rc;

    assert(n > 0);
    assert(n <= m->dims.cache - c->used);
    assert(m->dims.cache <= m->dims.positions);
    for (int64_t t0 = 0; t0 < n; t0 += T) {
        T = LH_MIN(m->dims.T, n - t0);
        rc = chunk(m, ids + t0, c->used, T, reterr);
        if (rc < 0)
            return rc;
        c->used += T;
    }
    if (!logits)
        return 0;
    last = head_logits(&m->device, &m->head, &m->work, kn_rows(work_kept(&m->work, 0, T), T - 1, 1),
                       (float)m->config.norm_eps);
    m->device.ops->download(m->device.stream, logits, last.p,
                            (uint64_t)m->dims.V * sizeof(*logits));
    return m->device.ops->sync(m->device.stream, reterr);
}

void cache_rewind(struct cache *c, int64_t tokens)
{
    assert(tokens >= 0 && tokens <= c->used);
    c->used = tokens;
}
