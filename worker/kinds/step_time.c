/* step_time.c - see step_time.h. */
#include "worker/kinds/step_time.h"
#include "worker/kinds/batches.h"

/* Times that bytes received within a machine are copied: into memory that both see, and out. */
#define COPIES 2

/* A rank's time in the sum of the gradients (comm_mpi.c): it receives everyone's values of its own
 * slice, adds them, and receives all other slices. A copy moves a byte twice, to be read and to be
 * written. */
static double sum_seconds(const struct llama *m, const struct engine_place *place,
                          const struct rates *rates)
{
    double bytes = (double)m->params.n_region * sizeof(float), ranks = place->ranks;
    double received = 2 * bytes * (ranks - 1) / ranks;
    double moved = 2 * COPIES * received + bytes * (ranks + 1) / ranks;

    if (place->ranks == 1)
        return 0;
    return moved / rates->copy +
           (place->local_ranks < place->ranks ? received / STEP_TIME_NETWORK_BYTES : 0);
}

double step_time(const struct llama *m, const struct lh_job *job, const struct engine_place *place,
                 const struct rates *rates)
{
    bool train = m->dims.backward;
    int64_t batches = train ? batches_count(job, place->ranks) : 1;
    double seconds = 0;

    if (train)
        seconds = (double)m->params.n_trainable / rates->update + sum_seconds(m, place, rates);
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
