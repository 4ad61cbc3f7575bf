# Fuzz targets: fuzz_NAME over corpus/NAME. With clang and LH_FUZZ the real fuzzer runs for 5 s (label full):
#
#     cmake -B build-fuzz -G Ninja -DCMAKE_C_COMPILER=clang-14 -DLH_FUZZ=ON -DLH_SANITIZE=address -DLH_MPI=OFF
#     build-fuzz/tests/fuzz_job -max_total_time=3600 CORPUS_COPY tests/fuzz/corpus/job
#
# Without, each file of the corpus is run once (label quick).
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
  set(corpus ${CMAKE_SOURCE_DIR}/tests/fuzz/corpus/${name})
  if(LH_FUZZ)
    add_executable(fuzz_${name} ${CMAKE_SOURCE_DIR}/tests/fuzz/fuzz_${name}.c)
    target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
    set(command fuzz_${name} -max_total_time=5 -max_len=4096 -print_final_stats=1 ${CMAKE_BINARY_DIR}/corpus-${name} ${corpus})
    file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/corpus-${name})
    set(label full)
  else()
    add_executable(fuzz_${name} ${CMAKE_SOURCE_DIR}/tests/fuzz/fuzz_${name}.c ${CMAKE_SOURCE_DIR}/tests/fuzz/replay.c)
    set(command fuzz_${name} ${corpus})
    set(label quick)
  endif()
  target_link_libraries(fuzz_${name} PRIVATE lh_flags ${A_LINK})
  set_target_properties(fuzz_${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME fuzz_${name} COMMAND ${command})
  set_tests_properties(fuzz_${name} PROPERTIES LABELS ${label} TIMEOUT 60)
endfunction()

lh_fuzz(job LINK lh_proto)
lh_fuzz(manifest LINK lh_proto)
