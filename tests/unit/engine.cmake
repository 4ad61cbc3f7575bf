# Tests of the training engine: plan, parameters, positions, optimizer, the whole model.
lh_test(test_llama SOURCES unit/test_llama.c unit/tiny_model.c LINK lh_model kn)
lh_test(test_engine SOURCES unit/test_engine.c unit/tiny_model.c
        ${CMAKE_SOURCE_DIR}/worker/kinds/batches.c LINK lh_optim lh_model kn)
lh_test(test_rope SOURCES unit/test_rope.c LINK lh_model)
target_compile_definitions(test_rope PRIVATE GOLDEN_DEFAULT="${CMAKE_SOURCE_DIR}/../shared/golden")
