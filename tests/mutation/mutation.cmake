# Faults planted in the sources, one at a time: each must make a test fail.
add_test(NAME every_planted_fault_is_found COMMAND ${CMAKE_SOURCE_DIR}/tests/mutation/run --build ${CMAKE_BINARY_DIR}/mutation)
set_tests_properties(every_planted_fault_is_found PROPERTIES LABELS soak TIMEOUT 10000 RUN_SERIAL ON)
