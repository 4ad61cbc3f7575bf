/* comm_mpi.c - the communicator over MPI; the only file that sees mpi.h.
 *
 * A sum is a reduce-scatter of our own and a gather: each rank receives everyone's values of its
 * slice, adds them in rank order, and the slices are gathered again. MPI_Allreduce would choose its
 * order by message size and topology, and the bits of a run would depend on where it runs. Slices
 * are bounded, so memory for exchanged values is COMM_SLICE_BYTES a rank, allocated by the first
 * sum.
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

#define COMM_BCAST_BYTES (1 << 30) /* MPI counts are int */
#define COMM_RANKS_MAX 1024        /* so that offsets into COMM_RANKS_MAX slices fit an int */

struct comm_mpi {
    struct comm base;
    void *inbox;          /* size slices, one from each rank; owned */
    int *counts, *starts; /* size each: elements of each rank's slice in the chunk at hand; owned */
    int *in_counts, *in_starts; /* the same for what this rank receives; owned */
};

static int mpi_error(struct lh_err *reterr, const char *what, int status)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int len = 0;

    (void)MPI_Error_string(status, text, &len);
    return lh_err_set(reterr, LH_ETRYAGAIN, "%s among the ranks failed: %s", what, text);
}

static int buffers_need(struct comm_mpi *m, struct lh_err *reterr)
{
    size_t size = (size_t)m->base.size;

    if (m->inbox)
        return 0;
    m->counts = calloc(size * 4, sizeof(int));
    m->inbox = aligned_alloc(64, size * COMM_SLICE_BYTES);
    if (!m->counts || !m->inbox) {
        free(m->counts);
        free(m->inbox);
        m->counts = m->inbox = NULL;
        return lh_err_set(reterr, -ENOMEM, "buffers for sums over %d ranks", m->base.size);
    }
    m->starts = m->counts + size;
    m->in_counts = m->starts + size;
    m->in_starts = m->in_counts + size;
    return 0;
}

/* Cuts n elements into one slice a rank, as even as can be; fills both pairs of count arrays. */
static void slices_cut(struct comm_mpi *m, int64_t n)
{
    int size = m->base.size, start = 0;
    int each = (int)(n / size), more = (int)(n % size);

    for (int r = 0; r < size; r++) {
        m->counts[r] = each + (r < more);
        m->starts[r] = start;
        start += m->counts[r];
    }
    for (int r = 0; r < size; r++) {
        m->in_counts[r] = m->counts[m->base.rank];
        m->in_starts[r] = r * m->in_counts[r];
    }
}

/* Adds the slices of all ranks in rank order, in blocks that stay in the first-level cache. */
static void add_f32(float *sum, const float *in, int64_t n, int size)
{
    for (int64_t i0 = 0; i0 < n; i0 += 2048) {
        int64_t len = LH_MIN(2048, n - i0);
        float *s = sum + i0;

        memcpy(s, in + i0, (size_t)len * sizeof(float));
        for (int r = 1; r < size; r++) {
            const float *v = in + r * n + i0;

            for (int64_t i = 0; i < len; i++)
                s[i] += v[i];
        }
    }
}

static int mpi_sum_f32(struct comm *c, float *x, int64_t n, struct lh_err *reterr)
{
    struct comm_mpi *m = (struct comm_mpi *)c;
    int64_t chunk = (int64_t)c->size * (COMM_SLICE_BYTES / (int64_t)sizeof(float));
    int rc = buffers_need(m, reterr);

    if (rc < 0)
        return rc;
    for (int64_t at = 0; at < n; at += chunk) {
        float *part = x + at, *own;

        slices_cut(m, LH_MIN(chunk, n - at));
        rc = MPI_Alltoallv(part, m->counts, m->starts, MPI_FLOAT, m->inbox, m->in_counts,
                           m->in_starts, MPI_FLOAT, MPI_COMM_WORLD);
        if (rc != MPI_SUCCESS)
            return mpi_error(reterr, "exchanging values to be summed", rc);
        own = part + m->starts[c->rank];
        add_f32(own, m->inbox, m->counts[c->rank], c->size);
        rc = MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, part, m->counts, m->starts,
                            MPI_FLOAT, MPI_COMM_WORLD);
        if (rc != MPI_SUCCESS)
            return mpi_error(reterr, "gathering sums", rc);
    }
    return 0;
}

/* Sums in double are few (losses, norms): everyone receives everything. */
static int mpi_sum_f64(struct comm *c, double *x, int64_t n, struct lh_err *reterr)
{
    struct comm_mpi *m = (struct comm_mpi *)c;
    int64_t chunk = COMM_SLICE_BYTES / (int64_t)sizeof(double);
    int rc = buffers_need(m, reterr);

    if (rc < 0)
        return rc;
    for (int64_t at = 0; at < n; at += chunk) {
        int64_t len = LH_MIN(chunk, n - at);
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
    for (int64_t at = 0; at < n; at += COMM_BCAST_BYTES) {
        rc = MPI_Bcast((char *)bytes + at, (int)LH_MIN(COMM_BCAST_BYTES, n - at), MPI_BYTE, root,
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
    free(m->counts);
    free(m->inbox);
    free(m);
}

static const struct comm_ops mpi_ops = {
    .free = mpi_free,
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
