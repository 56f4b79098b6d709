# Third-party packages: Debian's, and LibTorch and Arrow as deploy/setup.sh unpacks them.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(Protobuf REQUIRED)
find_package(absl REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(GTest REQUIRED)
find_package(SQLite3 REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(spdlog REQUIRED)
find_package(CLI11 REQUIRED)
find_package(Gloo REQUIRED CONFIG)
pkg_check_modules(GRPC REQUIRED IMPORTED_TARGET grpc++)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(ICU REQUIRED IMPORTED_TARGET icu-uc)
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET libzstd)

# LibTorch from the wheel. Its own CMake package demands a CUDA toolkit, so the libraries are imported by name.
if(DEFINED ENV{STRATA_CACHE})
  set(strata_cache $ENV{STRATA_CACHE})
else()
  set(strata_cache $ENV{HOME}/.cache/strata)
endif()
set(STRATA_LIBTORCH ${strata_cache}/libtorch-2.11.0 CACHE PATH "Folder that holds torch/lib and torch/include")
if(NOT EXISTS ${STRATA_LIBTORCH}/torch/lib/libtorch_cpu.so)
  message(FATAL_ERROR "LibTorch was not found in ${STRATA_LIBTORCH}; run deploy/setup.sh, or set STRATA_LIBTORCH")
endif()
set(torch_lib ${STRATA_LIBTORCH}/torch/lib)
# libcudart and libcupti that libtorch_cpu.so asks for: an installed toolkit's, or the wheels beside LibTorch.
set(strata_torch_rpath ${torch_lib})
foreach(dir ${STRATA_LIBTORCH}/nvidia/cu13/lib ${STRATA_LIBTORCH}/nvidia/cuda_runtime/lib ${STRATA_LIBTORCH}/nvidia/cuda_cupti/lib
        /usr/local/cuda/lib64 /usr/local/cuda/extras/CUPTI/lib64)
  if(EXISTS ${dir})
    list(APPEND strata_torch_rpath ${dir})
  endif()
endforeach()
# INTERFACE on purpose: the headers come after the system's (they carry an old google/protobuf), and as system headers.
add_library(strata_torch INTERFACE)
target_compile_options(strata_torch INTERFACE
  "SHELL:-idirafter ${STRATA_LIBTORCH}/torch/include" "SHELL:-idirafter ${STRATA_LIBTORCH}/torch/include/torch/csrc/api/include"
  -Wno-unused-parameter)
target_link_libraries(strata_torch INTERFACE ${torch_lib}/libtorch_cpu.so ${torch_lib}/libc10.so)
target_link_options(strata_torch INTERFACE -Wl,--allow-shlib-undefined)
if(STRATA_CUDA)
  # LibTorch's CUDA side registers itself when it is loaded; nothing names a symbol of it.
  target_link_libraries(strata_torch INTERFACE -Wl,--no-as-needed ${torch_lib}/libtorch_cuda.so -Wl,--as-needed
                        ${torch_lib}/libc10_cuda.so)
endif()
foreach(dir ${strata_torch_rpath})
  target_link_options(strata_torch INTERFACE -Wl,-rpath,${dir} -Wl,-rpath-link,${dir})
endforeach()

# Arrow from the wheel, for Parquet. Its libraries bring what they need (codecs, ..) within them.
set(STRATA_ARROW ${strata_cache}/arrow-26.0.1/pyarrow CACHE PATH "Folder that holds libparquet.so.2600 and include")
if(NOT EXISTS ${STRATA_ARROW}/libparquet.so.2600)
  message(FATAL_ERROR "Arrow was not found in ${STRATA_ARROW}; run deploy/setup.sh, or set STRATA_ARROW")
endif()
foreach(library arrow parquet)
  add_library(strata_${library} SHARED IMPORTED)
  set_target_properties(strata_${library} PROPERTIES IMPORTED_LOCATION ${STRATA_ARROW}/lib${library}.so.2600
                        IMPORTED_SONAME lib${library}.so.2600 INTERFACE_INCLUDE_DIRECTORIES ${STRATA_ARROW}/include)
endforeach()
target_link_libraries(strata_parquet INTERFACE strata_arrow)

# By name: of the compiler's full path CMake warns for every program, since LibTorch's folder holds a file of that name.
add_library(strata_openmp INTERFACE)
target_compile_options(strata_openmp INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fopenmp>)
target_link_libraries(strata_openmp INTERFACE gomp)

# OpenBLAS and LAPACKE statically and hidden: LibTorch exports MKL's dgemm_, dgeqrf_, .. and must not answer in their place.
find_library(OPENBLAS_STATIC libopenblas.a PATHS /usr/lib/x86_64-linux-gnu/openblas-openmp REQUIRED NO_DEFAULT_PATH)
find_library(LAPACKE_STATIC liblapacke.a REQUIRED)
add_library(strata_lapack INTERFACE)
target_link_libraries(strata_lapack INTERFACE ${LAPACKE_STATIC} ${OPENBLAS_STATIC} gfortran strata_openmp m)
target_link_options(strata_lapack INTERFACE -Wl,--exclude-libs,liblapacke.a:libopenblas.a)
