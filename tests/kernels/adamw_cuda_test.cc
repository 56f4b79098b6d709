// AdamW on a CUDA device against its CPU truth.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/cuda_ops.h"

namespace strata::kernels {
namespace {

// Four buffers in one: values, gradients, first and second moments.
std::vector<float> Buffers(int64_t count) {
  std::vector<float> all(static_cast<size_t>(4 * count));
  for (size_t i = 0; i < all.size(); ++i) all[i] = std::sin(static_cast<float>(i) * 0.37F);
  for (size_t i = 3 * all.size() / 4; i < all.size(); ++i) all[i] = std::abs(all[i]);
  return all;
}

TEST(AdamWCuda, EqualsTheProcessors) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) GTEST_SKIP() << "no CUDA device here";
  constexpr int64_t kCount = 100'003;
  std::vector<float> host = Buffers(kCount);
  const size_t bytes = host.size() * sizeof(float);
  float* device = nullptr;
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&device), bytes), cudaSuccess);
  ASSERT_EQ(cudaMemcpy(device, host.data(), bytes, cudaMemcpyHostToDevice), cudaSuccess);
  const AdamWStep step{.learning_rate = 1e-3F, .decay = 0.999F, .correction1 = 0.1F, .root_correction2 = 0.0316F};
  ASSERT_EQ(cuda::AdamW(device, device + kCount, device + 2 * kCount, device + 3 * kCount, kCount, step, nullptr), 0);
  std::vector<float> result(host.size());
  ASSERT_EQ(cudaMemcpy(result.data(), device, bytes, cudaMemcpyDeviceToHost), cudaSuccess);
  cudaFree(device);
  AdamW(host.data(), host.data() + kCount, host.data() + 2 * kCount, host.data() + 3 * kCount, kCount, step, 1);
  // A handful of roundings each, in another order of fusing.
  for (size_t i = 0; i < host.size(); ++i) ASSERT_NEAR(result[i], host[i], 1e-6 * (1 + std::abs(host[i]))) << i;
}

}  // namespace
}  // namespace strata::kernels
