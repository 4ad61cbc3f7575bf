# Tests of exports and of generated text.
lh_test(test_writers SOURCES unit/test_writers.c LINK lh_data m)
target_compile_definitions(test_writers PRIVATE LH_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
lh_test(test_export SOURCES unit/test_export.c unit/tiny_model.c LINK lh_kinds lh_run)
lh_test(test_generate SOURCES unit/test_generate.c unit/tiny_model.c LINK lh_kinds lh_run)
lh_worker_test(test_worker_export quick ${CMAKE_CURRENT_SOURCE_DIR}/unit/test_worker_export.py)
