# How the tests run when they are built with sanitizers. Stacks of allocations are unwound in full: those of Open MPI's
# plug-ins, unloaded when leaks are looked for, are known by the libraries below them alone.
if(LH_SANITIZE STREQUAL "address")
  get_property(all DIRECTORY PROPERTY TESTS)
  set_property(TEST ${all} APPEND PROPERTY ENVIRONMENT
    "ASAN_OPTIONS=fast_unwind_on_malloc=0"
    "LSAN_OPTIONS=suppressions=${CMAKE_CURRENT_SOURCE_DIR}/sanitizers/leaks.txt:print_suppressions=0"
    "UBSAN_OPTIONS=print_stacktrace=1")
endif()
