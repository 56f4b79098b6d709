#!/usr/bin/env bash
# Compiles the trainer and the kernels with CUDA (sm_75 to sm_90a, PTX) and links them with LibTorch's CUDA libraries, where
# a toolkit is installed. Nothing runs on a GPU here.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v nvcc >/dev/null; then echo "cuda: SKIPPED: no nvcc on PATH, so the CUDA build was not compiled"; exit 0; fi
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
log=build/cuda.log
if ! { cmake -S . -B build/cuda -G Ninja -DCMAKE_BUILD_TYPE=Release -DSTRATA_CUDA=ON &&
       ninja -C build/cuda link_test_strata_client_train kernels_adamw_cuda_test kernels_attention_cuda_test \
         kernels_decode_cuda_test kernels_dropout_cuda_test kernels_factor_gradients_cuda_test kernels_row_ops_cuda_test \
         client_train_cuda_step_test client_train_cuda_trainer_test; } > "$log" 2>&1; then
  tail -n 40 "$log"
  exit 1
fi
if ! readelf -d build/cuda/link_tests/link_test_strata_client_train | grep -q 'NEEDED.*libtorch_cuda\.so'; then
  echo "cuda: the trainer does not load libtorch_cuda.so"
  exit 1
fi
code=$(grep -ohE 'code=\[?(sm|compute)_[0-9]+a?' build/cuda/build.ninja | sed -E 's/.*=\[?//' | sort -u | xargs)
[ "$code" = "compute_90 sm_75 sm_80 sm_86 sm_89 sm_90 sm_90a" ] || { echo "cuda: compiled for other targets than meant: $code"; exit 1; }
echo "cuda: the trainer links against LibTorch's CUDA; kernels compiled for $code"
