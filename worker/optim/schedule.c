/* schedule.c - the learning rate as a pure function of the step; see optim.h. */
#include "worker/optim/optim.h"
#include <math.h>

double optim_rate(const struct lh_job *job, int64_t step, int64_t steps)
{
    double lr = job->optim.lr, s = (double)step, W = (double)job->optim.warmup_steps, done;

    if (s < W)
        return lr * s / W;
    done = (double)steps > W ? (s - W) / ((double)steps - W) : 1;
    switch (job->optim.schedule) {
    case LH_SCHEDULE_LINEAR:
        return lr * fmax(0, 1 - done);
    case LH_SCHEDULE_COSINE:
        return lr * 0.5 * (1 + cos(M_PI * fmin(1, done)));
    case LH_SCHEDULE_CONSTANT:
        break;
    }
    return lr;
}
