# Everything that Choir takes from the system, as imported targets.
find_package(Threads REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(SQLite3 REQUIRED)
# LibTorch may hold a Protocol Buffers of its own: a static one, whose symbols
# stay inside our programs, never meets it.
option(CHOIR_STATIC_PROTOBUF "Link Protocol Buffers statically" OFF)
if(CHOIR_STATIC_PROTOBUF)
  set(Protobuf_USE_STATIC_LIBS ON)
  add_link_options("LINKER:--exclude-libs,libprotobuf.a")
endif()
find_package(Protobuf REQUIRED)
find_package(absl REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
if(CHOIR_WITH_GRPC)
  find_package(PkgConfig REQUIRED)
  pkg_check_modules(GRPCPP REQUIRED IMPORTED_TARGET grpc++)
  find_program(CHOIR_GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)
endif()
if(CHOIR_WITH_TORCH)
  # LibTorch is linked by library name: Debian's CMake package asks for
  # development files that it does not need, and every other LibTorch lays its
  # folders out in the same way.
  find_path(CHOIR_TORCH_INCLUDE torch/csrc/api/include/torch/torch.h
            HINTS ${TORCH_ROOT}/include REQUIRED)
  find_library(CHOIR_TORCH_LIBRARY torch HINTS ${TORCH_ROOT}/lib REQUIRED)
  find_library(CHOIR_TORCH_CPU_LIBRARY torch_cpu HINTS ${TORCH_ROOT}/lib
               REQUIRED)
  find_library(CHOIR_C10_LIBRARY c10 HINTS ${TORCH_ROOT}/lib REQUIRED)
  find_library(CHOIR_TORCH_CUDA_LIBRARY torch_cuda HINTS ${TORCH_ROOT}/lib)
  find_library(CHOIR_C10_CUDA_LIBRARY c10_cuda HINTS ${TORCH_ROOT}/lib)
  add_library(choir_torch_import INTERFACE)
  target_include_directories(
    choir_torch_import SYSTEM
    INTERFACE ${CHOIR_TORCH_INCLUDE}
              ${CHOIR_TORCH_INCLUDE}/torch/csrc/api/include)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION
                                              VERSION_GREATER_EQUAL 14)
    # Takes reference counts in LibTorch's headers for writes to address zero.
    target_compile_options(choir_torch_import
                           INTERFACE -Wno-stringop-overflow)
  endif()
  target_link_libraries(
    choir_torch_import INTERFACE ${CHOIR_TORCH_LIBRARY}
                                 ${CHOIR_TORCH_CPU_LIBRARY}
                                 ${CHOIR_C10_LIBRARY})
  if(CHOIR_TORCH_CUDA_LIBRARY AND CHOIR_C10_CUDA_LIBRARY)
    # The CUDA backend registers itself when loaded; nothing of it is named. One
    # argument, so that the libraries stay between the flags. What CUDA's own
    # libraries need is found when a program starts, by LibTorch's run path.
    target_link_libraries(
      choir_torch_import
      INTERFACE
        "-Wl,--push-state,--no-as-needed,${CHOIR_TORCH_CUDA_LIBRARY},${CHOIR_C10_CUDA_LIBRARY},--pop-state,--allow-shlib-undefined"
    )
  endif()
  # LibTorch's headers ask for C++20 from 2.14 on; clang 14 reads those of 1.13
  # only as C++17.
  set(CHOIR_TORCH_CXX_STANDARD 17)
  # Newer ones say their version in another file, which the first includes.
  set(torch_version_file ${CHOIR_TORCH_INCLUDE}/torch/headeronly/version.h)
  if(NOT EXISTS ${torch_version_file})
    set(torch_version_file
        ${CHOIR_TORCH_INCLUDE}/torch/csrc/api/include/torch/version.h)
  endif()
  file(STRINGS ${torch_version_file} torch_version_lines
       REGEX "define TORCH_VERSION_M(AJOR|INOR) ")
  string(REGEX MATCHALL "[0-9]+" torch_version "${torch_version_lines}")
  list(JOIN torch_version "." torch_version)
  if(torch_version VERSION_GREATER_EQUAL 2.14)
    set(CHOIR_TORCH_CXX_STANDARD 20)
  endif()
  message(STATUS "LibTorch ${torch_version}: ${CHOIR_TORCH_LIBRARY}")
endif()
if(CHOIR_WITH_TESTS)
  find_package(GTest REQUIRED)
  find_package(benchmark REQUIRED)
  find_package(rapidcheck REQUIRED)
endif()
