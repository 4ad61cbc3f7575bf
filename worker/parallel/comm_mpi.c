/* comm_mpi.c - the communicator over MPI; the only file that sees mpi.h.
 *
 * Sums and gathers of parts are our own, of plain messages: MPI_Allreduce would choose its order by
 * message size and topology, and the bits of a run would depend on where it runs. For a sum each
 * rank sends every other one the values of that one's part, slice by slice, and adds what it
 * received in rank order. Slices are bounded, so memory for exchanged values is COMM_SLICE_BYTES a
 * rank, allocated by the first sum. A gather passes parts round a ring, so that between two
 * machines each goes over the wire once.
 */
#include "worker/parallel/comm.h"
#include <assert.h>
#include <errno.h>
#include <mpi.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COMM_MESSAGE_BYTES (1 << 30) /* MPI counts are int */
#define COMM_RANKS_MAX 1024          /* each takes a slice of memory on every other */
#define SLICE (COMM_SLICE_BYTES / (int64_t)sizeof(float))

struct comm_mpi {
    struct comm base;
    /* One slice from each other rank: first from the rank before this one, then from the rank
     * before that one, and so round; owned. */
    void *inbox;
};

static int mpi_error(struct lh_err *reterr, const char *what, int status)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int len = 0;

    (void)MPI_Error_string(status, text, &len);
    return lh_err_set(reterr, LH_ETRYAGAIN, "%s among the ranks failed: %s", what, text);
}

static int inbox_need(struct comm_mpi *m, struct lh_err *reterr)
{
    if (!m->inbox)
        m->inbox = aligned_alloc(64, (size_t)(m->base.size - 1) * COMM_SLICE_BYTES);
    return m->inbox ? 0
                    : lh_err_set(reterr, -ENOMEM, "buffers for sums over %d ranks", m->base.size);
}

/* The rank that is `by` after this one, or before it. */
static int rank_after(const struct comm *c, int by)
{
    return (c->rank + by) % c->size;
}

static int rank_before(const struct comm *c, int by)
{
    return (c->rank - by + c->size) % c->size;
}

static int exchange(const void *out, int64_t out_bytes, int to, void *in, int64_t in_bytes,
                    int from, const char *what, struct lh_err *reterr)
{
    int rc = MPI_Sendrecv(out, (int)out_bytes, MPI_BYTE, to, 0, in, (int)in_bytes, MPI_BYTE, from,
                          0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);

    return rc == MPI_SUCCESS ? 0 : mpi_error(reterr, what, rc);
}

/* Where slice k of a part begins, and its elements; the last slices of smaller parts are empty. */
static int64_t slice_first(const struct comm_part *part, int64_t k)
{
    return part->first + LH_MIN(k * SLICE, part->n);
}

static int64_t slice_n(const struct comm_part *part, int64_t k)
{
    return LH_MAX(LH_MIN(part->n - k * SLICE, SLICE), (int64_t)0);
}

static void add(float *restrict sum, const float *restrict in, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        sum[i] += in[i];
}

/* own[0..n) += the slices in the inbox, in rank order, in blocks that stay in the first-level
 * cache. */
static void add_slices(const struct comm_mpi *m, float *own, int64_t n)
{
    const struct comm *c = &m->base;
    float block[2048];

    for (int64_t i = 0; i < n; i += (int64_t)LH_ARRAY_LEN(block)) {
        int64_t len = LH_MIN((int64_t)LH_ARRAY_LEN(block), n - i);

        for (int r = 0; r < c->size; r++) {
            int by = (c->rank - r + c->size) % c->size; /* r is the rank so many before this one */
            const float *v = by == 0 ? own + i : (const float *)m->inbox + (by - 1) * SLICE + i;

            if (r == 0)
                memcpy(block, v, (size_t)len * sizeof(float));
            else
                add(block, v, len);
        }
        memcpy(own + i, block, (size_t)len * sizeof(float));
    }
}

static int mpi_sum_part_f32(struct comm *c, float *x, int64_t n, struct lh_err *reterr)
{
    struct comm_mpi *m = (struct comm_mpi *)c;
    struct comm_part own = comm_part(n, c->size, c->rank), largest = comm_part(n, c->size, 0);
    int rc;

    if (c->size == 1)
        return 0;
    rc = inbox_need(m, reterr);
    for (int64_t k = 0; rc == 0 && k * SLICE < largest.n; k++) {
        for (int by = 1; rc == 0 && by < c->size; by++) {
            int to = rank_after(c, by);
            struct comm_part theirs = comm_part(n, c->size, to);

            rc = exchange(x + slice_first(&theirs, k), slice_n(&theirs, k) * (int64_t)sizeof(float),
                          to, (float *)m->inbox + (by - 1) * SLICE,
                          slice_n(&own, k) * (int64_t)sizeof(float), rank_before(c, by),
                          "exchanging values to be summed", reterr);
        }
        if (rc == 0)
            add_slices(m, x + slice_first(&own, k), slice_n(&own, k));
    }
    return rc;
}

/* Bytes of piece k of a part, when parts are cut to what a message holds. */
static int64_t piece_bytes(int64_t bytes, int64_t k)
{
    return LH_MAX(LH_MIN(bytes - k * COMM_MESSAGE_BYTES, (int64_t)COMM_MESSAGE_BYTES), (int64_t)0);
}

static int mpi_gather_parts(struct comm *c, void *x, int64_t n, int64_t element,
                            struct lh_err *reterr)
{
    int64_t largest = comm_part(n, c->size, 0).n * element;
    int rc = 0;

    /* In step `by` the rank after this one gets the part that came by steps before. */
    for (int by = 1; rc == 0 && by < c->size; by++) {
        struct comm_part out = comm_part(n, c->size, rank_before(c, by - 1));
        struct comm_part in = comm_part(n, c->size, rank_before(c, by));

        for (int64_t k = 0; rc == 0 && k * COMM_MESSAGE_BYTES < largest; k++)
            rc = exchange((char *)x + out.first * element + k * COMM_MESSAGE_BYTES,
                          piece_bytes(out.n * element, k), rank_after(c, 1),
                          (char *)x + in.first * element + k * COMM_MESSAGE_BYTES,
                          piece_bytes(in.n * element, k), rank_before(c, 1), "gathering parts",
                          reterr);
    }
    return rc;
}

static int mpi_sum_f32(struct comm *c, float *x, int64_t n, struct lh_err *reterr)
{
    int rc = mpi_sum_part_f32(c, x, n, reterr);

    return rc < 0 ? rc : mpi_gather_parts(c, x, n, sizeof(*x), reterr);
}

/* Sums in double are few (losses, norms): everyone receives everything. */
static int mpi_sum_f64(struct comm *c, double *x, int64_t n, struct lh_err *reterr)
{
    struct comm_mpi *m = (struct comm_mpi *)c;
    int64_t room = (c->size - 1) * (COMM_SLICE_BYTES / (int64_t)sizeof(double)) / c->size;
    int rc;

    if (c->size == 1)
        return 0;
    rc = inbox_need(m, reterr);
    if (rc < 0)
        return rc;
    for (int64_t at = 0; at < n; at += room) {
        int64_t len = LH_MIN(room, n - at);
        const double *in = m->inbox;

        rc = MPI_Allgather(x + at, (int)len, MPI_DOUBLE, m->inbox, (int)len, MPI_DOUBLE,
                           MPI_COMM_WORLD);
        if (rc != MPI_SUCCESS)
            return mpi_error(reterr, "gathering values to be summed", rc);
        for (int64_t i = 0; i < len; i++) {
            double sum = in[i];

            for (int r = 1; r < c->size; r++)
                sum += in[r * len + i];
            x[at + i] = sum;
        }
    }
    return 0;
}

static int mpi_max_i64(struct comm *c, int64_t *x, int64_t n, struct lh_err *reterr)
{
    int rc;

    (void)c;
    for (int64_t at = 0; at < n; at += COMM_SLICE_BYTES) {
        rc = MPI_Allreduce(MPI_IN_PLACE, x + at, (int)LH_MIN(COMM_SLICE_BYTES, n - at), MPI_INT64_T,
                           MPI_MAX, MPI_COMM_WORLD);
        if (rc != MPI_SUCCESS)
            return mpi_error(reterr, "agreeing on a maximum", rc);
    }
    return 0;
}

static int mpi_broadcast(struct comm *c, void *bytes, int64_t n, int root, struct lh_err *reterr)
{
    int rc;

    assert(root >= 0 && root < c->size);
    for (int64_t at = 0; at < n; at += COMM_MESSAGE_BYTES) {
        rc = MPI_Bcast((char *)bytes + at, (int)LH_MIN(COMM_MESSAGE_BYTES, n - at), MPI_BYTE, root,
                       MPI_COMM_WORLD);
        if (rc != MPI_SUCCESS)
            return mpi_error(reterr, "a broadcast", rc);
    }
    return 0;
}

static int mpi_barrier(struct comm *c, struct lh_err *reterr)
{
    int rc = MPI_Barrier(MPI_COMM_WORLD);

    (void)c;
    return rc == MPI_SUCCESS ? 0 : mpi_error(reterr, "a barrier", rc);
}

static void mpi_abort(struct comm *c, int code)
{
    (void)c;
    (void)fflush(NULL);
    (void)MPI_Abort(MPI_COMM_WORLD, code);
    _exit(code); /* MPI_Abort came back: its daemon is gone */
}

static void mpi_free(struct comm *c)
{
    struct comm_mpi *m = (struct comm_mpi *)c;

    if (!m)
        return;
    (void)MPI_Finalize();
    free(m->inbox);
    free(m);
}

static const struct comm_ops mpi_ops = {
    .free = mpi_free,
    .sum_part_f32 = mpi_sum_part_f32,
    .gather_parts = mpi_gather_parts,
    .sum_f32 = mpi_sum_f32,
    .sum_f64 = mpi_sum_f64,
    .max_i64 = mpi_max_i64,
    .broadcast = mpi_broadcast,
    .barrier = mpi_barrier,
    .abort = mpi_abort,
};

/* Started by mpirun, srun or the like? MPI_Init alone would start a daemon of its own and take half
 * a second. */
static bool launched(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"};

    for (size_t i = 0; i < LH_ARRAY_LEN(names); i++)
        if (getenv(names[i]))
            return true;
    return false;
}

int comm_mpi_new(int *argc, char ***argv, struct comm **ret_comm, struct lh_err *reterr)
{
    struct comm_mpi *m;
    MPI_Comm local = MPI_COMM_NULL;
    int rc, level;

    if (!launched())
        return comm_self_new(ret_comm, reterr);
    m = calloc(1, sizeof(*m));
    if (!m)
        return lh_err_set(reterr, -ENOMEM, "communicator");
    m->base.ops = &mpi_ops;
    rc = MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &level);
    if (rc != MPI_SUCCESS) {
        free(m);
        return lh_err_set(reterr, LH_ETRYAGAIN, "MPI_Init_thread failed with code %d", rc);
    }
    rc = MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    if (rc == MPI_SUCCESS)
        rc = MPI_Comm_rank(MPI_COMM_WORLD, &m->base.rank);
    if (rc == MPI_SUCCESS)
        rc = MPI_Comm_size(MPI_COMM_WORLD, &m->base.size);
    if (rc == MPI_SUCCESS)
        rc = MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, m->base.rank, MPI_INFO_NULL,
                                 &local);
    if (rc == MPI_SUCCESS)
        rc = MPI_Comm_rank(local, &m->base.local_rank);
    if (rc == MPI_SUCCESS)
        rc = MPI_Comm_size(local, &m->base.local_size);
    if (local != MPI_COMM_NULL)
        (void)MPI_Comm_free(&local);
    if (rc != MPI_SUCCESS)
        rc = mpi_error(reterr, "setting up the communicator", rc);
    else if (m->base.size > COMM_RANKS_MAX)
        rc = lh_err_at(reterr, LH_EJOB, "/resources/slots",
                       "%d ranks; at most %d can work together", m->base.size, COMM_RANKS_MAX);
    if (rc < 0) {
        mpi_free(&m->base);
        return rc;
    }
    *ret_comm = &m->base;
    return 0;
}
