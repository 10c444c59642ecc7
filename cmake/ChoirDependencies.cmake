# Everything that Choir takes from the system, as imported targets.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(SQLite3 REQUIRED)
find_package(Protobuf REQUIRED)
find_package(absl REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
if(CHOIR_WITH_GRPC)
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
  target_link_libraries(
    choir_torch_import INTERFACE ${CHOIR_TORCH_LIBRARY}
                                 ${CHOIR_TORCH_CPU_LIBRARY}
                                 ${CHOIR_C10_LIBRARY})
  if(CHOIR_TORCH_CUDA_LIBRARY AND CHOIR_C10_CUDA_LIBRARY)
    # The CUDA backend registers itself when loaded; nothing of it is named.
    target_link_libraries(
      choir_torch_import
      INTERFACE "-Wl,--no-as-needed" ${CHOIR_TORCH_CUDA_LIBRARY}
                ${CHOIR_C10_CUDA_LIBRARY} "-Wl,--as-needed")
  endif()
endif()
if(CHOIR_WITH_TESTS)
  find_package(GTest REQUIRED)
  find_package(benchmark REQUIRED)
  find_package(rapidcheck REQUIRED)
endif()
