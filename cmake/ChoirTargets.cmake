# One place for how our own libraries, programs and tests are compiled.
include(CMakeParseArguments)

set(CHOIR_WARNINGS -Wall -Wextra -Wno-unused-parameter
                   -Wno-missing-field-initializers)
if(CHOIR_WERROR)
  list(APPEND CHOIR_WARNINGS -Werror)
endif()

function(choir_compile_options target)
  target_include_directories(${target} PUBLIC ${PROJECT_SOURCE_DIR})
  target_compile_options(${target} PRIVATE ${CHOIR_WARNINGS})
endfunction()

# choir_library(NAME SOURCES ... LIBS ...)
function(choir_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;LIBS" ${ARGN})
  add_library(${name} STATIC ${arg_SOURCES})
  choir_compile_options(${name})
  target_link_libraries(${name} PUBLIC ${arg_LIBS})
endfunction()

# choir_program(NAME SOURCES ... LIBS ...): ends up in <build>/bin/NAME.
function(choir_program name)
  cmake_parse_arguments(arg "" "" "SOURCES;LIBS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  choir_compile_options(${name})
  target_link_libraries(${name} PRIVATE ${arg_LIBS})
endfunction()

# Code that includes LibTorch: the C++ that its version asks for, and the shared
# precompiled header.
function(choir_uses_torch target)
  set_target_properties(${target} PROPERTIES CXX_STANDARD
                                           ${CHOIR_TORCH_CXX_STANDARD})
  target_link_libraries(${target} PUBLIC choir_torch_import)
  target_precompile_headers(${target} REUSE_FROM choir_torch_pch)
endfunction()

# choir_test(NAME LABEL unit SOURCES ... LIBS ... [TIMEOUT seconds] [TORCH])
# A GoogleTest program; ctest runs it whole. Tests find the repository in the
# environment variable CHOIR_SOURCE_DIR and the programs in CHOIR_BIN_DIR.
function(choir_test name)
  cmake_parse_arguments(arg "TORCH" "LABEL;TIMEOUT" "SOURCES;LIBS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  choir_compile_options(${name})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY
                                           ${PROJECT_BINARY_DIR}/tests)
  target_link_libraries(${name} PRIVATE ${arg_LIBS} GTest::gmock GTest::gtest
                                        GTest::gtest_main rapidcheck)
  if(arg_TORCH)
    choir_uses_torch_headers(${name})
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  if(CHOIR_SANITIZE)
    math(EXPR arg_TIMEOUT "${arg_TIMEOUT} * 5")
  endif()
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(
    ${name}
    PROPERTIES LABELS ${arg_LABEL} TIMEOUT ${arg_TIMEOUT} ENVIRONMENT
               "CHOIR_SOURCE_DIR=${PROJECT_SOURCE_DIR};CHOIR_BIN_DIR=${PROJECT_BINARY_DIR}/bin;RC_PARAMS=seed=20261122;TSAN_OPTIONS=ignore_noninstrumented_modules=1 suppressions=${PROJECT_SOURCE_DIR}/tests/tsan_suppressions.txt"
  )
endfunction()

# A test that itself includes LibTorch.
function(choir_uses_torch_headers target)
  set_target_properties(${target} PROPERTIES CXX_STANDARD
                                           ${CHOIR_TORCH_CXX_STANDARD})
  target_link_libraries(${target} PRIVATE choir_torch_import)
endfunction()
