/* merge.c - see merge.h. */
#include "worker/model/merge.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HEAD_KEY PEFT_PREFIX "lm_head.weight"
#define EMBED_KEY PEFT_PREFIX "model.embed_tokens.weight"
#define COMPARE_AT_ONCE 4096

static bool is_lora(const struct param *p)
{
    return p->role == PARAM_LORA_A || p->role == PARAM_LORA_B;
}

static bool in_adapter(const struct param *p)
{
    return strncmp(p->key, PEFT_PREFIX, strlen(PEFT_PREFIX)) == 0;
}

/* With a tied head PEFT writes the embedding a second time as lm_head: only as long as it is the
 * same may the merged head stay tied. */
static int check_head(const struct merge *m, const struct st_tensor *head, struct lh_err *reterr)
{
    const struct st_tensor *embed = st_find(m->adapter->weights, EMBED_KEY);
    float a[COMPARE_AT_ONCE], b[COMPARE_AT_ONCE];
    bool same = model_source_config(m->source)->tied && embed && embed->n == head->n;

    for (int64_t i = 0, n; same && i < head->n; i += n) {
        n = LH_MIN((int64_t)COMPARE_AT_ONCE, head->n - i);
        peft_values(embed, i, n, KN_F32, a);
        peft_values(head, i, n, KN_F32, b);
        same = memcmp(a, b, (size_t)n * sizeof(*a)) == 0;
    }
    return same ? 0
                : lh_err_at(reterr, LH_EINPUT, "/model/adapter",
                            "the adapter holds a head (lm_head.weight) that is not the embedding; "
                            "adapters that train the head by itself are not supported");
}

static int check_adapter(const struct merge *m, struct lh_err *reterr)
{
    const struct st_file *f = m->adapter->weights;
    const struct st_tensor *found;
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < m->params.n; i++) {
        const struct param *p = &m->params.at[i];

        if (in_adapter(p))
            rc = peft_find(m->adapter, p->key, p->rows, p->cols, &found, reterr);
    }
    for (unsigned i = 0; rc == 0 && i < st_count(f); i++) {
        const struct st_tensor *t = st_at(f, i);

        if (strcmp(t->name, HEAD_KEY) == 0)
            rc = check_head(m, t, reterr);
        else if (!params_find(&m->params, t->name))
            rc = lh_err_at(reterr, LH_EINPUT, "/model/adapter",
                           "the adapter holds '%.120s', which is neither a LoRA factor of its "
                           "target modules nor the embedding nor a norm; it cannot be merged",
                           t->name);
    }
    return rc;
}

int merge_open(const struct model_source *source, const struct peft_adapter *adapter,
               const struct params_spec *spec, struct merge *ret_merge, struct lh_err *reterr)
{
    struct merge m = {.source = source, .adapter = adapter, .spec = spec};
    int rc = params_init(model_source_config(source), spec, &m.params, reterr);

    if (rc < 0)
        return rc;
    m.at = calloc(m.params.n, sizeof(*m.at));
    if (!m.at)
        rc = lh_err_set(reterr, -ENOMEM, "the table of the merged model");
    for (unsigned i = 0; rc == 0 && i < m.params.n; i++) {
        const struct param *p = &m.params.at[i];

        if (is_lora(p))
            continue;
        m.at[m.n++] = p;
        if (!adapter || !in_adapter(p))
            rc = model_source_check(source, p->name, p->rows, p->cols, reterr);
    }
    if (rc == 0 && adapter)
        rc = check_adapter(&m, reterr);
    if (rc < 0) {
        merge_close(&m);
        return rc;
    }
    *ret_merge = m;
    return 0;
}

void merge_close(struct merge *m)
{
    free(m->at);
    params_release(&m->params);
    *m = (struct merge){0};
}

/* out[rows, cols] += scale * (B[r0.., R] A[R, cols]); a (R, cols) and b (rows, R) as fp32, delta
 * has room for a row. The update is summed apart: added to a large weight bit by bit it would lose
 * its end. */
static void add_product(float *out, const float *a, const float *b, float *restrict delta,
                        int64_t rows, int64_t cols, int64_t R, float scale)
{
    for (int64_t r = 0; r < rows; r++) {
        float *restrict to = out + r * cols;

        memset(delta, 0, (size_t)cols * sizeof(*delta));
        for (int64_t k = 0; k < R; k++) {
            const float *restrict from = a + k * cols;
            float factor = b[r * R + k];

            for (int64_t c = 0; c < cols; c++)
                delta[c] += factor * from[c];
        }
        for (int64_t c = 0; c < cols; c++)
            to[c] += scale * delta[c];
    }
}

static int add_lora(const struct merge *m, const struct param *w, int64_t r0, int64_t rows,
                    float *out, struct lh_err *reterr)
{
    const struct param *pa = params_role(&m->params, PARAM_LORA_A, w->role, w->layer);
    const struct param *pb = params_role(&m->params, PARAM_LORA_B, w->role, w->layer);
    const struct st_tensor *ta = NULL, *tb = NULL;
    char module[sizeof(w->name)];
    float *a, *b, *delta;
    int rc;

    if (!pa)
        return 0;
    assert(pb);
    rc = peft_find(m->adapter, pa->key, pa->rows, pa->cols, &ta, reterr);
    if (rc == 0)
        rc = peft_find(m->adapter, pb->key, pb->rows, pb->cols, &tb, reterr);
    if (rc < 0)
        return rc;
    memcpy(module, w->name, sizeof(module));
    module[strlen(module) - strlen(".weight")] = '\0';
    a = malloc((size_t)pa->n * sizeof(*a));
    b = malloc((size_t)(rows * pb->cols) * sizeof(*b));
    delta = malloc((size_t)w->cols * sizeof(*delta));
    if (a && b && delta) {
        peft_values(ta, 0, pa->n, KN_F32, a);
        peft_values(tb, r0 * pb->cols, rows * pb->cols, KN_F32, b);
        add_product(out, a, b, delta, rows, w->cols, pa->rows,
                    (float)params_scale(m->spec, module));
    } else {
        rc = lh_err_set(reterr, -ENOMEM, "LoRA factors of %s", module);
    }
    free(a);
    free(b);
    free(delta);
    return rc;
}

int merge_read(const struct merge *m, unsigned i, int64_t r0, int64_t rows, float *out,
               struct lh_err *reterr)
{
    const struct param *p = m->at[i];
    int64_t cols = p->cols > 0 ? p->cols : 1;
    const struct st_tensor *t;
    int rc;

    assert(i < m->n);
    assert(r0 >= 0 && rows <= p->rows - r0);
    if (m->adapter && in_adapter(p)) {
        rc = peft_find(m->adapter, p->key, p->rows, p->cols, &t, reterr);
        if (rc == 0)
            peft_values(t, r0 * cols, rows * cols, KN_F32, out);
        return rc;
    }
    rc = model_source_read(m->source, p->name, r0, rows, KN_F32, out, reterr);
    return rc < 0 || !m->adapter ? rc : add_lora(m, p, r0, rows, out, reterr);
}
