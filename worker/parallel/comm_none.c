/* comm_none.c - comm_mpi_new of a build without MPI: one rank, or a clear refusal under a launcher.
 */
#include "worker/parallel/comm.h"
#include <stdlib.h>
#include <string.h>

int comm_mpi_new(int *argc, char ***argv, struct comm **ret_comm, struct lh_err *reterr)
{
    const char *size = getenv("OMPI_COMM_WORLD_SIZE");

    (void)argc, (void)argv;
    if (size && strcmp(size, "1") != 0)
        return lh_err_set(reterr, LH_ENOTSUP,
                          "started with %s ranks, but this longhaul-worker was built without MPI; "
                          "build it with -DLH_MPI=ON or start it without mpirun",
                          size);
    return comm_self_new(ret_comm, reterr);
}
