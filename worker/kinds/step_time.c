/* step_time.c - see step_time.h. */
#include "worker/kinds/step_time.h"
#include "worker/kinds/batches.h"

/* Times that bytes received within a machine are copied: into memory that both see, and out. */
#define COPIES 2

/* A rank's time in exchanges (comm_mpi.c, optim/share.c): it receives everyone's gradients of its
 * part and adds them, and receives all other parts of what the ops read. A copy moves a byte twice,
 * to be read and to be written. */
static double exchange_seconds(const struct params *p, const struct engine_place *place,
                               const struct rates *rates)
{
    double gradients = (double)p->n_region * sizeof(float), ranks = place->ranks;
    double weights = (double)p->stretch[PARAMS_EXACT].n * sizeof(float) +
                     (double)p->stretch[PARAMS_LOW].n * sizeof(uint16_t);
    double received = (gradients + weights) * (ranks - 1) / ranks;
    double moved = 2 * COPIES * received + gradients * (ranks + 1) / ranks;

    if (place->ranks == 1)
        return 0;
    return moved / rates->copy +
           (place->local_ranks < place->ranks ? received / STEP_TIME_NETWORK_BYTES : 0);
}

/* A rank's part of the update. The rate is of the update and of setting gradients to 0, and that a
 * rank does with all of them. */
static double update_seconds(const struct params *p, const struct engine_place *place,
                             const struct rates *rates)
{
    double ranks = place->ranks, gradients = (double)p->n_region * sizeof(float);

    return (double)p->n_trainable / ranks / rates->update +
           gradients * (ranks - 1) / ranks / rates->copy;
}

double step_time(const struct llama *m, const struct lh_job *job, const struct engine_place *place,
                 const struct rates *rates)
{
    bool train = m->dims.backward;
    int64_t batches = train ? batches_count(job, place->ranks) : 1;
    double seconds = 0;

    if (train)
        seconds =
            update_seconds(&m->params, place, rates) + exchange_seconds(&m->params, place, rates);
    for (int64_t batch = 0; batch < batches; batch++) {
        int64_t first, rows = 1;
        struct llama_work work;

        if (train)
            batches_part(job, batch, 0, place->ranks, &first, &rows); /* rank 0 has most */
        if (rows == 0)
            continue;
        llama_count(m, rows, job->context.length, train ? engine_group(job) : 0, &work);
        seconds += rates_seconds(rates, &work);
    }
    return seconds;
}
