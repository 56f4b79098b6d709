// Gradients of factors on a CUDA device against sums in double.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "kernels/cuda_ops.h"
#include "tests/kernels/device_matrix.h"

namespace strata::kernels {
namespace {

struct Part {
  int64_t first_wide, cols, first_narrow, rank;
  bool along_rank;  // out [cols, rank], else [rank, cols]
};

struct Case {
  int64_t tokens, cols, rank;
  std::vector<Part> parts;
};

class FactorGradientsCuda : public ::testing::TestWithParam<std::tuple<Type, Case>> {};

TEST_P(FactorGradientsCuda, AreTheSums) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) GTEST_SKIP() << "no CUDA device here";
  const auto& [type, c] = GetParam();
  const Matrix wide(type, c.tokens, c.cols, c.cols + 16, 0.1);
  const Matrix narrow(type, c.tokens, c.rank, c.rank + 8, 0.5);
  std::vector<float*> outs;
  std::vector<FactorGradient> tasks;
  for (const Part& p : c.parts) {
    const auto bytes = static_cast<size_t>(p.cols * p.rank) * sizeof(float);
    float* out = nullptr;
    ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&out), bytes), cudaSuccess);
    ASSERT_EQ(cudaMemset(out, 0, bytes), cudaSuccess);
    outs.push_back(out);
    tasks.push_back({.wide = wide.View(p.first_wide, p.cols),
                     .narrow = narrow.View(p.first_narrow, p.rank),
                     .out = out,
                     .wide_step = p.along_rank ? p.rank : 1,
                     .narrow_step = p.along_rank ? 1 : p.cols,
                     .scale = 0.5F});
    ASSERT_TRUE(cuda::TakesFactors(tasks.back()));
  }
  // Twice: it adds.
  for (int round = 1; round <= 2; ++round) {
    ASSERT_EQ(cuda::AccumulateFactors(tasks.data(), static_cast<int64_t>(tasks.size()), nullptr), 0);
    for (size_t i = 0; i < c.parts.size(); ++i) {
      const Part& p = c.parts[i];
      std::vector<float> got(static_cast<size_t>(p.cols * p.rank));
      ASSERT_EQ(cudaMemcpy(got.data(), outs[i], got.size() * sizeof(float), cudaMemcpyDeviceToHost), cudaSuccess);
      for (int64_t col = 0; col < p.cols; ++col) {
        for (int64_t r = 0; r < p.rank; ++r) {
          double sum = 0;
          for (int64_t t = 0; t < c.tokens; ++t)
            sum += wide.At(t, p.first_wide + col) * narrow.At(t, p.first_narrow + r);
          const auto at = static_cast<size_t>(p.along_rank ? col * p.rank + r : r * p.cols + col);
          const double size = std::sqrt(static_cast<double>(c.tokens));
          ASSERT_NEAR(got[at], 0.5 * round * sum, 2e-6 * size + 1e-5) << i << " " << col << " " << r;
        }
      }
    }
  }
  for (float* out : outs) cudaFree(out);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, FactorGradientsCuda,
    ::testing::Combine(
        ::testing::Values(Type::kBF16, Type::kF16),
        ::testing::Values(Case{50, 64, 8, {{0, 64, 0, 8, true}}},
                          Case{200, 72, 48, {{0, 24, 0, 16, true}, {24, 24, 16, 16, true}, {48, 24, 32, 16, true}}},
                          Case{700, 136, 48, {{0, 136, 0, 16, false}, {0, 136, 16, 24, false}, {0, 136, 40, 8, false}}},
                          Case{300, 96, 88, {{0, 96, 0, 40, false}, {0, 96, 40, 24, false}, {0, 96, 64, 24, false}}},
                          Case{90,
                               80,
                               64,
                               {{0, 80, 0, 8, true},
                                {0, 80, 8, 8, true},
                                {0, 40, 16, 8, false},
                                {40, 40, 24, 8, false},
                                {0, 16, 32, 8, true},
                                {16, 64, 40, 8, true},
                                {8, 72, 48, 8, false},
                                {0, 80, 0, 64, true}}},
                          Case{
                              140, 6416, 48, {{0, 6416, 0, 16, true}, {0, 6408, 16, 32, false}, {8, 40, 0, 48, false}}},
                          Case{2048, 256, 64, {{0, 256, 0, 64, true}, {0, 256, 0, 64, false}}})));

TEST(FactorGradients, RaggedOnesAreLeftToOthers) {
  uint16_t memory[64] = {};
  const Rows even = {.data = memory, .type = Type::kBF16, .rows = 1, .cols = 16, .stride = 16};
  Rows odd = even;
  odd.cols = 12;
  EXPECT_FALSE(cuda::TakesFactors({.wide = even, .narrow = odd}));
  odd = even;
  odd.data = memory + 1;
  EXPECT_FALSE(cuda::TakesFactors({.wide = odd, .narrow = even}));
  odd = even;
  odd.type = Type::kF32;
  EXPECT_FALSE(cuda::TakesFactors({.wide = odd, .narrow = odd}));
}

}  // namespace
}  // namespace strata::kernels
