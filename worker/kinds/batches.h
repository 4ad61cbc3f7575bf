/* batches.h - which rows of a step a rank computes: pure functions of the job, the rank and the
 * number of ranks.
 *
 * A step has optim.batch_sequences rows, in micro-batches: those listed in resources.micro_batches,
 * else runs of resources.micro_batch_rows rows, or of as many rows as there are ranks when that is
 * more (each rank then holds no more rows than were asked for). Each micro-batch is cut into
 * contiguous runs over the ranks; the lower ranks get the longer ones, and a rank may get none.
 */
#pragma once
#include "proto/job.h"

int64_t batches_count(const struct lh_job *job, int ranks);

/* Rows of micro-batch `batch` for a rank: places [*ret_first, *ret_first + *ret_n) in it. */
void batches_part(const struct lh_job *job, int64_t batch, int rank, int ranks, int64_t *ret_first,
                  int64_t *ret_n);

/* The row of the step at a place of a micro-batch. */
int64_t batches_row(const struct lh_job *job, int64_t batch, int64_t place, int ranks);

/* The most rows that any rank holds at once. */
int64_t batches_most_rows(const struct lh_job *job, int ranks);
