/* share.c - the exchanges of parts before and after an update; see share.h. */
#include "worker/optim/share.h"

void share_split(struct params *p, const struct comm *c)
{
    for (int s = 0; s < PARAMS_STRETCHES; s++) {
        struct comm_part part = comm_part(p->stretch[s].n, c->size, c->rank);

        p->own[s] = (struct params_range){p->stretch[s].first + part.first, part.n};
    }
}

/* Of a region of floats, every rank gets what the others have of one stretch. */
static int gather(const struct params *p, struct comm *c, float *region,
                  enum params_stretch stretch, struct lh_err *reterr)
{
    const struct params_range *s = &p->stretch[stretch];

    return c->ops->gather_parts(c, region + s->first, s->n, sizeof(*region), reterr);
}

static int gather_all(const struct params *p, struct comm *c, float *region, struct lh_err *reterr)
{
    int rc = gather(p, c, region, PARAMS_EXACT, reterr);

    return rc < 0 ? rc : gather(p, c, region, PARAMS_LOW, reterr);
}

int share_sum(const struct params *p, struct comm *c, struct lh_err *reterr)
{
    int rc = 0;

    for (int s = 0; s < PARAMS_STRETCHES && rc == 0; s++)
        rc = c->ops->sum_part_f32(c, p->grad + p->stretch[s].first, p->stretch[s].n, reterr);
    return rc;
}

int share_gradients(const struct params *p, struct comm *c, struct lh_err *reterr)
{
    return gather_all(p, c, p->grad, reterr);
}

int share_weights(const struct params *p, struct comm *c, struct lh_err *reterr)
{
    int rc = gather(p, c, p->master, PARAMS_EXACT, reterr); /* ops read the masters themselves */

    return rc < 0
               ? rc
               : c->ops->gather_parts(c, p->low, p->stretch[PARAMS_LOW].n, sizeof(*p->low), reterr);
}

int share_state(const struct params *p, struct comm *c, struct lh_err *reterr)
{
    int rc = gather(p, c, p->master, PARAMS_LOW, reterr);

    if (rc == 0)
        rc = gather_all(p, c, p->m, reterr);
    return rc < 0 ? rc : gather_all(p, c, p->v, reterr);
}
