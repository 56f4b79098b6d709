// AdamW over flat buffers: one thread an element, no reduction, so that the result depends on nothing but its inputs.
// The CPU truth is AdamWRange in cpu/row_ops_impl.h.
#include <cuda_runtime_api.h>

#include <algorithm>

#include "kernels/cuda_ops.h"

namespace strata::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 65536;

__global__ void AdamWKernel(float* p, float* gradient, float* m, float* v, int64_t count, AdamWStep s) {
  const float rate = s.learning_rate / s.correction1;
  const float inverse_root = 1.0F / s.root_correction2;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    const float g = gradient[i] * s.gradient_scale;
    const float first = m[i] + (1.0F - s.beta1) * (g - m[i]);
    const float second = s.beta2 * v[i] + (1.0F - s.beta2) * g * g;
    m[i] = first;
    v[i] = second;
    p[i] = p[i] * s.decay - rate * first / (sqrtf(second) * inverse_root + s.epsilon);
    gradient[i] = 0;
  }
}

}  // namespace

int AdamW(float* p, float* gradient, float* m, float* v, int64_t count, const AdamWStep& step, void* stream) {
  if (count == 0) return cudaSuccess;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>((count + kThreads - 1) / kThreads, kMaxBlocks));
  AdamWKernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(p, gradient, m, v, count, step);
  return cudaGetLastError();
}

}  // namespace strata::kernels::cuda
