/* ropes.c - see ropes.h. */
#include "worker/kinds/ropes.h"
#include "worker/model/rope.h"
#include <assert.h>
#include <stdio.h>

unsigned ropes_count(const struct lh_job *job)
{
    return LH_MAX(job->eval.n_ropes, 1u);
}

/* The job as if context.rope were setting i; owns nothing. */
static struct lh_job wished(const struct lh_job *job, unsigned i)
{
    const struct lh_rope_wish *wish = &job->eval.ropes[i];
    struct lh_job copy = *job;

    assert(i < job->eval.n_ropes);
    copy.context.rope.has_type = wish->has_type;
    copy.context.rope.type = wish->type;
    copy.context.rope.factor = wish->factor;
    return copy;
}

static int compose(const struct lh_job *job, const struct engine *e, unsigned i,
                   struct rope_config *ret_rope, struct lh_err *reterr)
{
    const struct lh_job wish = wished(job, i);
    int rc = rope_compose(&wish, e->config, ret_rope, reterr);

    if (rc < 0 && reterr) /* it knows the member as context.rope */
        (void)snprintf(reterr->pointer, sizeof(reterr->pointer), "/eval/ropes/%u", i);
    return rc;
}

int ropes_check(const struct lh_job *job, const struct engine *e, struct lh_err *reterr)
{
    struct rope_config rope;
    int rc = 0;

    for (unsigned i = 0; i < job->eval.n_ropes && rc == 0; i++)
        rc = compose(job, e, i, &rope, reterr);
    return rc;
}

int ropes_turn(const struct lh_job *job, struct engine *e, unsigned i, struct lh_err *reterr)
{
    int rc;

    if (job->eval.n_ropes == 0)
        return 0;
    rc = compose(job, e, i, &e->rope, reterr);
    if (rc == 0)
        rc = rope_frequencies(&e->rope, e->config, e->length, e->inv_freq, &e->scaling, reterr);
    return rc < 0 ? rc : llama_angles(&e->model, e->inv_freq, e->scaling, reterr);
}

void ropes_label(const struct lh_job *job, const struct engine *e, unsigned i,
                 char ret_label[static ROPES_LABEL])
{
    const struct lh_job wish = job->eval.n_ropes > 0 ? wished(job, i) : *job;
    double factor = rope_job_factor(&wish, e->config);
    enum lh_rope own = e->config->rope.type;
    enum lh_rope type = wish.context.rope.has_type ? wish.context.rope.type
                        : own == LH_ROPE_DEFAULT   ? LH_ROPE_LINEAR
                                                   : own;

    /* Dynamic positions depend on the length; their factor may be 1. */
    if (factor == 1 && !(wish.context.rope.has_type && type == LH_ROPE_DYNAMIC))
        (void)snprintf(ret_label, ROPES_LABEL, "as shipped");
    else
        (void)snprintf(ret_label, ROPES_LABEL, "%s x %g", lh_rope_name(type), factor);
}
