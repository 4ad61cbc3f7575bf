/* launch.h - starting mpirun (head) or orted (member), with the record of it on disk before it runs
 * (D4). */
#pragma once
#include "daemon/shim/attempt.h"
#include <sys/types.h>

/* Starts mpirun over the gang. Returns 0 with its pid. -ENOENT and the like when it cannot be run:
 * nothing is left then. */
LH_MUST_CHECK int launch_mpirun(const struct attempt *a, pid_t *ret_pid, struct lh_err *reterr);

/* Runs the command line that the head's mpirun wants here. */
LH_MUST_CHECK int launch_orted(const struct attempt *a, const char *command, pid_t *ret_pid,
                               struct lh_err *reterr);

/* Where the ranks' shared memory of this node lies; removed at the end of the attempt. */
#define LAUNCH_SHM_MAX 192
const char *launch_shm_dir(const struct attempt *a, char buf[static LAUNCH_SHM_MAX]);

/* Kills all that is in the attempt's cgroup but the shim, in one go, forks and all. False: it has
 * none. */
bool launch_kill_cgroup(const struct attempt *a);
void launch_remove_cgroup(const struct attempt *a);
