# Fuzz targets: fuzz_NAME over corpus/NAME. tests/fuzz/run builds them with clang in a folder of its own (LH_FUZZ) and runs
# the real fuzzer: 5 s each in the tests of the tier full. Elsewhere each file of the corpus is run once (label quick).
option(LH_FUZZ "Build fuzz targets with libFuzzer (needs clang)" OFF)
if(LH_FUZZ AND NOT CMAKE_C_COMPILER_ID MATCHES Clang)
  message(FATAL_ERROR "LH_FUZZ needs clang: configure a folder of its own with -DCMAKE_C_COMPILER=clang-14")
endif()
if(LH_FUZZ)
  target_compile_options(lh_flags INTERFACE $<$<COMPILE_LANGUAGE:C>:-fsanitize=fuzzer-no-link>)
endif()

# lh_fuzz(NAME LINK library...)
function(lh_fuzz name)
  cmake_parse_arguments(A "" "" "LINK" ${ARGN})
  add_executable(fuzz_${name} ${CMAKE_SOURCE_DIR}/tests/fuzz/fuzz_${name}.c)
  if(LH_FUZZ)
    target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
  else()
    target_sources(fuzz_${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests/fuzz/replay.c)
    add_test(NAME fuzz_${name} COMMAND fuzz_${name} ${CMAKE_SOURCE_DIR}/tests/fuzz/corpus/${name})
    set_tests_properties(fuzz_${name} PROPERTIES LABELS quick TIMEOUT 60)
  endif()
  target_link_libraries(fuzz_${name} PRIVATE lh_flags ${A_LINK})
  set_target_properties(fuzz_${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
endfunction()

lh_fuzz(job LINK lh_proto)
lh_fuzz(manifest LINK lh_proto)

if(NOT LH_FUZZ)
  foreach(tier full soak)
    set(seconds 5)
    if(tier STREQUAL soak)
      set(seconds 300) # of each of a dozen: an hour
    endif()
    add_test(NAME fuzz_every_reader_${tier}
             COMMAND ${CMAKE_SOURCE_DIR}/tests/fuzz/run --seconds ${seconds} --build ${CMAKE_BINARY_DIR}/fuzz)
    set_tests_properties(fuzz_every_reader_${tier} PROPERTIES LABELS ${tier} TIMEOUT 60000 SKIP_RETURN_CODE 77 RUN_SERIAL ON)
  endforeach()
endif()
