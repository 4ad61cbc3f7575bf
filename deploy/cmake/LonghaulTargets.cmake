# What every target of the tree shares: include root, warnings, sanitizers, definitions.
find_package(PkgConfig REQUIRED)

add_library(lh_flags INTERFACE)
target_include_directories(lh_flags INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR}/generated)
target_compile_definitions(lh_flags INTERFACE _GNU_SOURCE LH_VERSION="${PROJECT_VERSION}")
target_compile_options(lh_flags INTERFACE
  $<$<COMPILE_LANGUAGE:C>:-Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes
  -Wvla -Wformat=2 -Wundef -fno-common -fstack-protector-strong>
  $<$<AND:$<COMPILE_LANGUAGE:C>,$<BOOL:${LH_WERROR}>>:-Werror>)
# assert() stays on in release: it guards against our own mistakes, not against bad input.
foreach(lang C CXX)
  string(REPLACE "-DNDEBUG" "" CMAKE_${lang}_FLAGS_RELEASE "${CMAKE_${lang}_FLAGS_RELEASE}")
  string(REPLACE "-DNDEBUG" "" CMAKE_${lang}_FLAGS_RELWITHDEBINFO "${CMAKE_${lang}_FLAGS_RELWITHDEBINFO}")
  set(CMAKE_${lang}_FLAGS_RELEASE "${CMAKE_${lang}_FLAGS_RELEASE}" CACHE STRING "" FORCE)
endforeach()
if(LH_SANITIZE STREQUAL "address")
  target_compile_options(lh_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  target_link_options(lh_flags INTERFACE -fsanitize=address,undefined)
elseif(LH_SANITIZE STREQUAL "thread")
  target_compile_options(lh_flags INTERFACE -fsanitize=thread)
  target_link_options(lh_flags INTERFACE -fsanitize=thread)
endif()

# lh_library(NAME SOURCES ... [LINK ...]): a static library of the tree.
function(lh_library name)
  cmake_parse_arguments(A "" "" "SOURCES;LINK" ${ARGN})
  add_library(${name} STATIC ${A_SOURCES})
  target_link_libraries(${name} PUBLIC lh_flags ${A_LINK})
endfunction()

# lh_program(NAME SOURCES ... [LINK ...]): a program, put into build/bin and installed.
function(lh_program name)
  cmake_parse_arguments(A "" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${A_SOURCES})
  target_link_libraries(${name} PRIVATE lh_flags ${A_LINK})
  install(TARGETS ${name} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endfunction()

# lh_test(NAME SOURCES ... [LINK ...] [LABELS ...]): a cmocka program run by ctest; its main's exit code counts.
# Labels: quick (default) or full; each test has 120 s.
function(lh_test name)
  cmake_parse_arguments(A "" "" "SOURCES;LINK;LABELS" ${ARGN})
  if(NOT A_LABELS)
    set(A_LABELS quick)
  endif()
  add_executable(${name} ${A_SOURCES})
  target_link_libraries(${name} PRIVATE lh_flags ${A_LINK} cmocka)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS "${A_LABELS}" TIMEOUT 120)
endfunction()
