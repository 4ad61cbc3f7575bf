/* adamw.c - squares of gradients, clipping and the update over the table of parameters; see
 * optim.h. */
#include "worker/optim/optim.h"
#include <assert.h>
#include <math.h>

int optim_squares(const struct device *d, const struct params *p, double *ret_squares,
                  struct lh_err *reterr)
{
    double sum = 0;

    for (unsigned i = 0; i < p->n; i++) {
        const struct param *at = &p->at[i];
        struct params_range own;
        double squares = 0;
        int rc;

        if (!at->trains)
            continue;
        own = params_own(p, at);
        if (own.n == 0)
            continue;
        d->ops->sum_squares(d->stream, &squares, at->grad + own.first, own.n);
        rc = d->ops->sync(d->stream, reterr);
        if (rc < 0)
            return rc;
        sum += squares;
    }
    *ret_squares = sum;
    return 0;
}

double optim_clip(double clip, double norm)
{
    double scale = clip / (norm + 1e-6);

    return clip > 0 && scale < 1 ? scale : 1;
}

int optim_update(const struct device *d, const struct params *p, const struct lh_job *job,
                 double rate, double grad_scale, int64_t t, struct lh_err *reterr)
{
    assert(t >= 1);
    for (unsigned i = 0; i < p->n; i++) {
        const struct param *at = &p->at[i];
        double ratio = at->role == PARAM_LORA_B && job->optim.lora_plus_ratio > 0
                           ? job->optim.lora_plus_ratio
                           : 1;
        struct kn_adamw h = {
            .lr = (float)(rate * ratio),
            .beta1 = (float)job->optim.beta1,
            .beta2 = (float)job->optim.beta2,
            .eps = (float)job->optim.eps,
            .weight_decay = at->decays ? (float)job->optim.weight_decay : 0,
            .t = t,
            .grad_scale = (float)grad_scale,
        };
        struct params_range own;

        if (!at->trains)
            continue;
        own = params_own(p, at);
        if (own.n > 0)
            d->ops->adamw(d->stream, at->master + own.first, at->m + own.first, at->v + own.first,
                          at->grad + own.first,
                          at->w.t == KN_BF16 ? (uint16_t *)at->w.p + own.first : NULL, own.n, &h);
    }
    return d->ops->sync(d->stream, reterr);
}
