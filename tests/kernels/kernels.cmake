# Tests of kernels/. The CPU back end's tests run once more at each lower level of vector code
# (kernels/cpu/isa.h); a level that the machine lacks is a repetition of the next lower one.
add_library(kn_test STATIC kernels/kn_test.c)
target_link_libraries(kn_test PUBLIC lh_flags kn cmocka m)

lh_test(test_segments SOURCES kernels/test_segments.c LINK kn_test)
lh_test(test_reference SOURCES kernels/test_reference.c LINK kn_test)
lh_test(test_pool SOURCES kernels/test_pool.c LINK kn_test)
lh_test(test_cpu_ops SOURCES kernels/test_cpu_ops.c LINK kn_test)
lh_test(test_dropout SOURCES kernels/test_dropout.c LINK kn_test)
lh_test(test_cpu_matmul SOURCES kernels/test_cpu_matmul.c LINK kn_test)
lh_test(test_cpu_exact SOURCES kernels/test_cpu_exact.c LINK kn_test)
lh_test(test_low_rank SOURCES kernels/test_low_rank.c LINK kn_test)
lh_test(test_cpu_attention SOURCES kernels/test_cpu_attention.c LINK kn_test)

foreach(isa base avx2 avx512 avx512_bf16)
  foreach(name test_cpu_ops test_dropout test_cpu_matmul test_cpu_exact test_low_rank test_cpu_attention)
    add_test(NAME ${name}_${isa} COMMAND ${name})
    set_tests_properties(${name}_${isa} PROPERTIES LABELS quick TIMEOUT 120 ENVIRONMENT LONGHAUL_CPU_ISA=${isa})
  endforeach()
endforeach()
