# Tests of the worker's shell: ranks, run, checkpoints, kinds check and prepare, the command line.
set(LH_MPIRUN mpirun --allow-run-as-root --bind-to none --oversubscribe
    --mca mpi_yield_when_idle 1 --mca btl self,vader)

lh_test(test_comm SOURCES unit/test_comm.c LINK lh_comm m)
if(LH_MPI)
  foreach(ranks 2 4)
    add_test(NAME test_comm_${ranks}_ranks
             COMMAND ${LH_MPIRUN} -np ${ranks} $<TARGET_FILE:test_comm>)
    set_tests_properties(test_comm_${ranks}_ranks PROPERTIES LABELS quick TIMEOUT 120)
  endforeach()
endif()
lh_test(test_ckpt SOURCES unit/test_ckpt.c LINK lh_ckpt lh_run kn_reference)
