/* batches.c - rows, micro-batches and ranks; see batches.h. */
#include "worker/kinds/batches.h"
#include <assert.h>

static int64_t rows_each(const struct lh_job *job, int ranks)
{
    int64_t asked = LH_MAX(job->resources.micro_batch_rows, (int64_t)1);

    return LH_MIN(LH_MAX(asked, (int64_t)ranks), LH_MAX(job->optim.batch_sequences, (int64_t)1));
}

int64_t batches_count(const struct lh_job *job, int ranks)
{
    int64_t each = rows_each(job, ranks);

    if (job->resources.n_micro_batches > 0)
        return job->resources.n_micro_batches;
    return (job->optim.batch_sequences + each - 1) / each;
}

static int64_t rows_of(const struct lh_job *job, int64_t batch, int ranks)
{
    int64_t each = rows_each(job, ranks);

    if (job->resources.n_micro_batches > 0)
        return job->resources.micro_batches[batch].n;
    return LH_MIN(each, job->optim.batch_sequences - batch * each);
}

void batches_part(const struct lh_job *job, int64_t batch, int rank, int ranks, int64_t *ret_first,
                  int64_t *ret_n)
{
    int64_t rows = rows_of(job, batch, ranks);
    int64_t first = (rows * rank + ranks - 1) / ranks,
            end = (rows * (rank + 1) + ranks - 1) / ranks;

    assert(rank >= 0);
    assert(rank < ranks);
    *ret_first = first;
    *ret_n = end - first;
}

int64_t batches_row(const struct lh_job *job, int64_t batch, int64_t place, int ranks)
{
    if (job->resources.n_micro_batches > 0)
        return job->resources.micro_batches[batch].rows[place];
    return batch * rows_each(job, ranks) + place;
}

int64_t batches_most_rows(const struct lh_job *job, int ranks)
{
    int64_t most = 1, count = batches_count(job, ranks);

    for (int64_t i = 0; i < count; i++)
        most = LH_MAX(most, (rows_of(job, i, ranks) + ranks - 1) / ranks);
    return most;
}
