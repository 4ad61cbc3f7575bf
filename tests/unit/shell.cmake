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

# The worker itself: command line, bad input, stops, kills; and golden cases, ours and those of $LONGHAUL_GOLDEN.
find_package(Python3 REQUIRED COMPONENTS Interpreter)

# lh_worker_test(NAME LABEL COMMAND...): a command of the shell with LONGHAUL_BIN set; exit 77 means skipped.
function(lh_worker_test name label command)
  add_test(NAME ${name} COMMAND sh -c "exec ${Python3_EXECUTABLE} ${command}")
  set_tests_properties(${name} PROPERTIES LABELS ${label} TIMEOUT 300 SKIP_RETURN_CODE 77)
  set_property(TEST ${name} APPEND PROPERTY ENVIRONMENT "LONGHAUL_BIN=${CMAKE_RUNTIME_OUTPUT_DIRECTORY}")
  if(NOT LH_MPI)
    set_property(TEST ${name} APPEND PROPERTY ENVIRONMENT LONGHAUL_NO_MPI=1)
  endif()
endfunction()

set(golden ${CMAKE_CURRENT_SOURCE_DIR}/golden)
set(shared "\"\${LONGHAUL_GOLDEN:-${CMAKE_SOURCE_DIR}/../shared/golden}\"")
set(real "smollm2-135m tokenizer-smollm2")
lh_worker_test(test_worker quick ${CMAKE_CURRENT_SOURCE_DIR}/unit/test_worker.py)
lh_worker_test(test_journal quick ${CMAKE_CURRENT_SOURCE_DIR}/unit/test_journal.py)
set(train ${CMAKE_CURRENT_SOURCE_DIR}/unit/test_worker_train.py)
lh_worker_test(test_worker_train quick "${train} Positions Deterministic Members")
lh_worker_test(test_real_model full "${train} RealPositions RealPrecision")
set(faults ${CMAKE_CURRENT_SOURCE_DIR}/unit/test_worker_faults.py)
lh_worker_test(test_worker_faults quick "${faults} NotFinite LostInputs")
lh_worker_test(test_full_disk full "${faults} FullDisk")
lh_worker_test(test_kills full "${faults} Kills")
lh_worker_test(test_kills_many soak "${faults} Kills")
set_property(TEST test_kills APPEND PROPERTY ENVIRONMENT LONGHAUL_KILLS=10)
set_property(TEST test_kills_many APPEND PROPERTY ENVIRONMENT LONGHAUL_KILLS=50 LONGHAUL_TEST_SEED=7)
set_tests_properties(test_kills_many PROPERTIES TIMEOUT 1800)
lh_worker_test(golden_runner_can_fail quick ${golden}/self_test)
if(LH_MPI)
  set(LH_RANKS 1 2 3)
else()
  set(LH_RANKS 1)
endif()
foreach(ranks ${LH_RANKS})
  lh_worker_test(golden_own_${ranks}_ranks quick "${golden}/run ${golden}/cases --ranks ${ranks}")
  lh_worker_test(golden_shared_${ranks}_ranks quick
    "${golden}/run ${shared} --ranks ${ranks} --without smollm2-135m --without tokenizer-smollm2")
endforeach()
lh_worker_test(golden_own_bf16 quick "${golden}/run ${golden}/cases --precision bf16")
lh_worker_test(golden_shared_bf16 quick
  "${golden}/run ${shared} --precision bf16 --without smollm2-135m --without tokenizer-smollm2")
lh_worker_test(golden_real_model full "${golden}/run ${shared} ${real}")
