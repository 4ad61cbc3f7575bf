/* comm.h - what ranks say to each other. comm_self (one rank) and comm_mpi are the two implementations.
 *
 * Every call is collective: all ranks make the same calls in the same order. Reductions add in rank order, so the
 * result has the same bits on every rank and in every run with as many ranks.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <stdint.h>

struct comm;

struct comm_ops {
    void (*free)(struct comm *c); /* finalises MPI too */
    /* x[0..n) on every rank becomes the sum over ranks, added in rank order. */
    int (*sum_f32)(struct comm *c, float *x, int64_t n, struct lh_err *reterr);
    int (*sum_f64)(struct comm *c, double *x, int64_t n, struct lh_err *reterr);
    int (*max_i64)(struct comm *c, int64_t *x, int64_t n, struct lh_err *reterr);
    int (*broadcast)(struct comm *c, void *bytes, int64_t n, int root, struct lh_err *reterr);
    int (*barrier)(struct comm *c, struct lh_err *reterr);
    void (*abort)(struct comm *c, int code); /* ends every rank; does not return */
};

struct comm {
    const struct comm_ops *ops;
    int rank, size;
    int local_rank, local_size; /* among the ranks of this machine */
};

/* What a rank of so many takes when it sums `bytes`, for values of the others: at most 4 MiB from each, large enough that latency (some 20 us a
 * message) is below 2 % of a slice's copy, small enough that 64 ranks need 256 MiB. */
#define COMM_SLICE_BYTES (4 << 20)
static inline uint64_t comm_bytes(int size, uint64_t bytes)
{
    return size > 1 ? LH_MIN((uint64_t)size * COMM_SLICE_BYTES, bytes) : 0;
}

LH_MUST_CHECK int comm_self_new(struct comm **ret_comm, struct lh_err *reterr);

/* MPI_Init; with one rank and no mpirun around it comm_self is returned instead. Errors are returned, never fatal. */
LH_MUST_CHECK int comm_mpi_new(int *argc, char ***argv, struct comm **ret_comm, struct lh_err *reterr);
