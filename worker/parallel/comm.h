/* comm.h - what ranks say to each other. comm_self (one rank) and comm_mpi are the two implementations.
 *
 * Every call is collective: all ranks make the same calls in the same order. Reductions add in rank order, so the
 * result has the same bits on every rank and in every run with as many ranks.
 *
 * Large vectors are worked on in parts, one a rank (comm_part): a rank receives the values of its part alone
 * (sum_part_f32), does with the sums what is to be done, and hands the outcome to all others (gather_parts).
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <stdint.h>

struct comm;

struct comm_ops {
    void (*free)(struct comm *c); /* finalises MPI too */
    /* This rank's part of x[0..n) becomes the sum over ranks, added in rank order; the rest of x stays as it is. */
    int (*sum_part_f32)(struct comm *c, float *x, int64_t n, struct lh_err *reterr);
    /* Of the n elements at x, `element` bytes each, every rank has its part; afterwards every rank has them all. */
    int (*gather_parts)(struct comm *c, void *x, int64_t n, int64_t element, struct lh_err *reterr);
    /* x[0..n) on every rank becomes the sum over ranks, added in rank order: the two above. */
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

/* Elements of a vector that are one rank's: runs of one length, but for the last ones. */
struct comm_part {
    int64_t first, n;
};

#define COMM_PART_ALIGN 16 /* elements at which a part begins, as its tensors and vectors do */

static inline int64_t comm_part_first(int64_t n, int size, int rank)
{
    int64_t units = (n + COMM_PART_ALIGN - 1) / COMM_PART_ALIGN;
    int64_t first = units / size * rank + LH_MIN(units % size, (int64_t)rank);

    return LH_MIN(first * COMM_PART_ALIGN, n);
}

static inline struct comm_part comm_part(int64_t n, int size, int rank)
{
    int64_t first = comm_part_first(n, size, rank);

    return (struct comm_part){first, comm_part_first(n, size, rank + 1) - first};
}

/* What a rank of so many takes when it sums `bytes`, for values of the others: at most 512 KiB from each, large enough that latency (some 20 us a
 * message) is little beside a slice's copy, small enough to be added before it has left the second-level cache. */
#define COMM_SLICE_BYTES (512 << 10)
static inline uint64_t comm_bytes(int size, uint64_t bytes)
{
    return size > 1 ? LH_MIN((uint64_t)(size - 1) * COMM_SLICE_BYTES, bytes) : 0;
}

LH_MUST_CHECK int comm_self_new(struct comm **ret_comm, struct lh_err *reterr);

/* MPI_Init; with one rank and no mpirun around it comm_self is returned instead. Errors are returned, never fatal. */
LH_MUST_CHECK int comm_mpi_new(int *argc, char ***argv, struct comm **ret_comm, struct lh_err *reterr);
