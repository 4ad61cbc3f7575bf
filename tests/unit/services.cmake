# Tests of what deploy/ ships.
if(TARGET longhauld)
  pkg_check_modules(CYAML REQUIRED IMPORTED_TARGET libcyaml)
  lh_test(test_config SOURCES unit/test_config.c ${CMAKE_SOURCE_DIR}/daemon/coordinator/config.c
          ${CMAKE_SOURCE_DIR}/daemon/coordinator/config_finish.c LINK lh_proto PkgConfig::CYAML)
  target_compile_definitions(test_config PRIVATE LH_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
endif()
