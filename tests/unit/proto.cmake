# Tests of proto/: the base vocabulary, jobs, states, events, manifests.
foreach(name base fs state event manifest job job_spec job_memory)
  lh_test(test_${name} SOURCES unit/test_${name}.c LINK lh_proto)
  target_compile_definitions(test_${name} PRIVATE LH_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
endforeach()
target_link_options(test_job_memory PRIVATE -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc)
