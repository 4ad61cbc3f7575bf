# Tests of evaluation: windows of held-out texts, passkeys.
lh_test(test_held_out SOURCES unit/test_held_out.c unit/tiny_model.c LINK lh_kinds lh_run)
lh_test(test_evaluate SOURCES unit/test_evaluate.c unit/tiny_model.c LINK lh_kinds lh_run)
target_link_options(test_evaluate PRIVATE -Wl,--wrap=sampler_next)
if(LH_MPI)
  add_test(NAME test_evaluate_2_ranks COMMAND ${LH_MPIRUN} -np 2 $<TARGET_FILE:test_evaluate>)
  set_tests_properties(test_evaluate_2_ranks PROPERTIES LABELS quick TIMEOUT 120)
endif()
