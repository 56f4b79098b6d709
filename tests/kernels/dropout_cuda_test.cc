// Dropout's masks on a CUDA device are those of common/runtime's generator.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <tuple>
#include <vector>

#include "common/runtime/random.h"
#include "kernels/cuda_ops.h"

namespace strata::kernels {
namespace {

TEST(DropoutCuda, MasksAreTheGenerators) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) GTEST_SKIP() << "no CUDA device here";
  constexpr uint64_t kBase = 0x123456789abcdef1, kFactor = 0x9E3779B97F4A7C15, kAddend = 77;
  constexpr double kProbability = 0.3;
  constexpr auto kLimit = static_cast<uint32_t>(kProbability * (1 << 24));
  uint64_t* base = nullptr;
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&base), sizeof kBase), cudaSuccess);
  ASSERT_EQ(cudaMemcpy(base, &kBase, sizeof kBase, cudaMemcpyHostToDevice), cudaSuccess);
  const runtime::Philox philox(kBase * kFactor + kAddend);
  for (const auto& [rows, cols, stride] :
       {std::tuple<int64_t, int64_t, int64_t>{3, 5, 8}, {7, 64, 64}, {130, 90, 91}, {1, 1, 1}}) {
    std::vector<float> x;
    for (int64_t i = 0; i < rows * stride; ++i) x.push_back(static_cast<float>(i % 97) + 1);
    float* memory = nullptr;
    ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&memory), x.size() * sizeof(float)), cudaSuccess);
    ASSERT_EQ(cudaMemcpy(memory, x.data(), x.size() * sizeof(float), cudaMemcpyHostToDevice), cudaSuccess);
    const Rows there = {.data = memory, .type = Type::kF32, .rows = rows, .cols = cols, .stride = stride};
    ASSERT_EQ(cuda::Dropout(there, {base, kFactor, kAddend, kProbability}, there, nullptr), 0);
    std::vector<float> got(x.size());
    ASSERT_EQ(cudaMemcpy(got.data(), memory, x.size() * sizeof(float), cudaMemcpyDeviceToHost), cudaSuccess);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < stride; ++c) {
        const auto i = static_cast<size_t>(r * stride + c);
        const bool kept = c >= cols || (philox.Word(static_cast<uint64_t>(r * cols + c)) >> 8) >= kLimit;
        const float expected = c >= cols ? x[i] : kept ? x[i] * static_cast<float>(1 / (1 - kProbability)) : 0;
        ASSERT_EQ(got[i], expected) << r << " " << c << " of " << cols;
      }
    }
    cudaFree(memory);
  }
  cudaFree(base);
}

}  // namespace
}  // namespace strata::kernels
