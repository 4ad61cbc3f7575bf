# Tests of the training engine: plan, parameters, positions, optimizer, the whole model.
lh_test(test_llama SOURCES unit/test_llama.c unit/tiny_model.c LINK lh_model kn)
lh_test(test_keep SOURCES unit/test_keep.c unit/tiny_model.c LINK lh_model kn)
lh_test(test_lora_dropout SOURCES unit/test_lora_dropout.c unit/tiny_model.c LINK lh_model kn)
lh_test(test_wrap SOURCES unit/test_wrap.c unit/tiny_model.c LINK kn_test lh_model)
lh_test(test_engine SOURCES unit/test_engine.c unit/tiny_model.c
        ${CMAKE_SOURCE_DIR}/worker/kinds/batches.c LINK lh_optim lh_model kn)
lh_test(test_step_time SOURCES unit/test_step_time.c unit/tiny_model.c LINK lh_kinds lh_run)
lh_test(test_rope SOURCES unit/test_rope.c LINK lh_model)
target_compile_definitions(test_rope PRIVATE GOLDEN_DEFAULT="${CMAKE_SOURCE_DIR}/../shared/golden")
lh_test(test_train SOURCES unit/test_train.c unit/tiny_model.c LINK lh_kinds lh_run)
target_link_options(test_train PRIVATE -Wl,--wrap=plan_machine_total,--wrap=plan_machine_free)
if(LH_MPI)
  foreach(ranks 2 3)
    add_test(NAME test_train_${ranks}_ranks
             COMMAND ${LH_MPIRUN} -np ${ranks} $<TARGET_FILE:test_train>)
    set_tests_properties(test_train_${ranks}_ranks PROPERTIES LABELS quick TIMEOUT 120)
  endforeach()
endif()
lh_test(test_steady SOURCES unit/test_steady.c unit/tiny_model.c LINK lh_kinds lh_run)
target_link_options(test_steady PRIVATE
  -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=step_run)
