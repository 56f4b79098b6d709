// Flat fp32 buffers of factors: into other memory, and the norm of their gradients.
#include <cuda_runtime_api.h>

#include "kernels/cuda/rows.cuh"
#include "kernels/cuda_ops.h"

namespace strata::kernels::cuda {
namespace {

template <typename T>
__global__ void CopyScaledKernel(const ScaledCopy* copies) {
  const ScaledCopy copy = copies[blockIdx.y];
  const int64_t count = copy.rows * copy.cols;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    const int64_t row = i / copy.cols;
    static_cast<T*>(copy.to)[row * copy.to_stride + i - row * copy.cols] = FromFloat<T>(copy.from[i] * copy.scale);
  }
}

__device__ double DoubleOverBlock(double value) {
  __shared__ double parts[kFlatThreads];
  parts[threadIdx.x] = value;
  for (int half = kFlatThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) parts[threadIdx.x] += parts[threadIdx.x + half];
  }
  return parts[0];
}

__global__ void SumSquaresKernel(const float* values, int64_t count, double* parts) {
  double sum = 0;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride)
    sum += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  sum = DoubleOverBlock(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

__global__ void SumPartsKernel(const double* parts, int count, double* out) {
  double sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kFlatThreads) sum += parts[i];
  sum = DoubleOverBlock(sum);
  if (threadIdx.x == 0) *out = sum;
}

}  // namespace

int CopyScaled(const ScaledCopy* copies, int64_t count, Type type, void* stream) {
  if (count == 0) return cudaSuccess;
  constexpr unsigned kBlocksEach = 32;
  const dim3 grid(kBlocksEach, static_cast<unsigned>(count));
  return WithElement(type, [&](auto element) -> int {
    CopyScaledKernel<typename decltype(element)::Type><<<grid, kFlatThreads, 0, StreamOf(stream)>>>(copies);
    return cudaGetLastError();
  });
}

int SumSquares(const float* values, int64_t count, double* workspace, double* out, void* stream) {
  const int64_t wanted = (count + kFlatThreads - 1) / kFlatThreads;
  const auto blocks = static_cast<int>(std::clamp<int64_t>(wanted, 1, kSumSquaresWorkspace));
  SumSquaresKernel<<<static_cast<unsigned>(blocks), kFlatThreads, 0, StreamOf(stream)>>>(values, count, workspace);
  SumPartsKernel<<<1, kFlatThreads, 0, StreamOf(stream)>>>(workspace, blocks, out);
  return cudaGetLastError();
}

}  // namespace strata::kernels::cuda
