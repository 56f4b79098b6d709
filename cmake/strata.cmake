# How this project declares its libraries, programs and tests. One folder = one library = one job.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g1")
find_program(STRATA_CCACHE ccache)
if(STRATA_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${STRATA_CCACHE})
endif()
# Floating-point contraction would make results depend on how the compiler fuses; kernels ask for FMA where they want it.
add_compile_options($<$<COMPILE_LANGUAGE:C,CXX>:-Wall> $<$<COMPILE_LANGUAGE:C,CXX>:-Wextra>
                    $<$<COMPILE_LANGUAGE:C,CXX>:-Werror> $<$<COMPILE_LANGUAGE:C,CXX>:-ffp-contract=off>
                    $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
if(STRATA_SANITIZE)
  add_compile_options(-fsanitize=${STRATA_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${STRATA_SANITIZE})
endif()

# strata_library(NAME SRCS a.cc .. DEPS public.. PRIVATE_DEPS ..): NAME is the folder with underscores (common_runtime).
# Without SRCS it is header-only. DEPS are what the public headers need.
function(strata_library name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS;PRIVATE_DEPS" ${ARGN})
  if(ARG_SRCS)
    add_library(strata_${name} STATIC ${ARG_SRCS})
    target_include_directories(strata_${name} PUBLIC ${CMAKE_SOURCE_DIR})
    target_link_libraries(strata_${name} PUBLIC ${ARG_DEPS} PRIVATE ${ARG_PRIVATE_DEPS})
    set_property(GLOBAL APPEND PROPERTY STRATA_LIBRARIES strata_${name})
  else()
    add_library(strata_${name} INTERFACE)
    target_include_directories(strata_${name} INTERFACE ${CMAKE_SOURCE_DIR})
    target_link_libraries(strata_${name} INTERFACE ${ARG_DEPS})
  endif()
endfunction()

# What every executable gets before main: common/runtime/short_spin.cc. A sanitizer's runtime starts before it could.
if(NOT STRATA_SANITIZE)
  add_library(strata_start OBJECT ${CMAKE_SOURCE_DIR}/common/runtime/short_spin.cc)
  set(STRATA_START $<TARGET_OBJECTS:strata_start>)
endif()

# strata_program(NAME SRCS .. DEPS ..): lands in build/bin.
function(strata_program name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SRCS} ${STRATA_START})
  target_compile_definitions(${name} PRIVATE STRATA_VERSION="${PROJECT_VERSION}")
  target_link_libraries(${name} PRIVATE ${ARG_DEPS})
endfunction()

# strata_test(NAME SRCS .. DEPS .. [LABELS ..] [TIMEOUT s]): a GoogleTest program, one CTest entry; lands in build/tests.
function(strata_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SRCS;DEPS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SRCS} ${STRATA_START})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_compile_definitions(${name} PRIVATE STRATA_SOURCE_DIR="${CMAKE_SOURCE_DIR}" STRATA_BINARY_DIR="${CMAKE_BINARY_DIR}")
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
endfunction()

# strata_link_tests(): the target link_tests links each library whole against nothing but what it declares, so that a
# dependency that is used and not declared fails here and not in whoever uses the library next.
function(strata_link_tests)
  file(WRITE ${CMAKE_BINARY_DIR}/link_test.cc "int main() { return 0; }\n")
  get_property(libraries GLOBAL PROPERTY STRATA_LIBRARIES)
  add_custom_target(link_tests)
  foreach(library ${libraries})
    add_executable(link_test_${library} EXCLUDE_FROM_ALL ${CMAKE_BINARY_DIR}/link_test.cc)
    set_target_properties(link_test_${library} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/link_tests)
    target_link_libraries(link_test_${library} PRIVATE $<LINK_LIBRARY:WHOLE_ARCHIVE,${library}>)
    add_dependencies(link_tests link_test_${library})
  endforeach()
endfunction()
