// Products with a rank's few columns on a CUDA device against sums in double: what is written, where, and what is not;
// equal bits.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <tuple>
#include <vector>

#include "kernels/cuda_ops.h"
#include "tests/kernels/device_matrix.h"

namespace strata::kernels {
namespace {

int Major() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) return 0;
  int major = 0;
  EXPECT_EQ(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), cudaSuccess);
  return major;
}

// A product: columns [first_depth, first_depth + depth) of x give columns [first_col, first_col + cols) of out.
struct Part {
  int64_t first_depth, depth, first_col, cols;
};
struct Case {
  int64_t tokens;
  std::vector<Part> parts;
};

class NarrowProductCuda : public ::testing::TestWithParam<std::tuple<Type, bool, Case>> {};

TEST_P(NarrowProductCuda, IsTheSumsRoundedOnce) {
  if (Major() != cuda::kNarrowMajor) GTEST_SKIP() << "no CUDA device of compute capability 9 here";
  const auto& [type, by_rows, c] = GetParam();
  int64_t depth = 0;
  int64_t cols = 0;
  for (const Part& p : c.parts) {
    depth = std::max(depth, p.first_depth + p.depth);
    cols = std::max(cols, p.first_col + p.cols);
  }
  const Matrix x(type, c.tokens, depth, depth + 24, 0.1);
  Matrix out(type, c.tokens, cols, cols + 8, 0.2);
  Matrix copy(type, c.tokens, cols, cols + 16, 0.3);
  const Matrix out_before(type, c.tokens, cols, cols + 8, 0.2);
  const Matrix copy_before(type, c.tokens, cols, cols + 16, 0.3);
  std::vector<std::unique_ptr<Matrix>> ws;
  std::vector<cuda::NarrowProduct> products;
  for (const Part& p : c.parts) {
    const int64_t rows = by_rows ? p.cols : p.depth;
    const int64_t width = by_rows ? p.depth : p.cols;
    ws.push_back(std::make_unique<Matrix>(type, rows, width, width + 8, 0.7 + static_cast<double>(ws.size())));
    products.push_back({.x = x.View(p.first_depth, p.depth),
                        .w = ws.back()->View(0, width),
                        .out = out.View(p.first_col, p.cols),
                        .copy = copy.View(p.first_col, p.cols)});
    ASSERT_TRUE(cuda::TakesNarrowProduct(products.back()));
  }
  const auto count = static_cast<int64_t>(products.size());
  ASSERT_EQ(cuda::MultiplyNarrow(products.data(), count, by_rows, nullptr), 0);
  out.Fetch();
  copy.Fetch();
  const double half_ulp = type == Type::kBF16 ? 1.0 / 256 : 1.0 / 2048;
  for (int64_t t = 0; t < c.tokens; ++t) {
    for (size_t i = 0; i < c.parts.size(); ++i) {
      const Part& p = c.parts[i];
      for (int64_t j = 0; j < p.cols; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < p.depth; ++k)
          sum += x.At(t, p.first_depth + k) * (by_rows ? ws[i]->At(j, k) : ws[i]->At(k, j));
        const double size = std::sqrt(static_cast<double>(p.depth));
        ASSERT_NEAR(out.At(t, p.first_col + j), sum, half_ulp * std::abs(sum) + 4e-6 * size)
            << t << " " << i << " " << j;
        ASSERT_EQ(copy.At(t, p.first_col + j), out.At(t, p.first_col + j)) << t << " " << i << " " << j;
      }
    }
    for (int64_t j = cols; j < cols + 8; ++j) ASSERT_EQ(out.At(t, j), out_before.At(t, j)) << t << " " << j;
    for (int64_t j = cols; j < cols + 16; ++j) ASSERT_EQ(copy.At(t, j), copy_before.At(t, j)) << t << " " << j;
  }

  const std::vector<uint16_t> first = out.host;
  for (cuda::NarrowProduct& p : products) p.copy = {};
  ASSERT_EQ(cuda::MultiplyNarrow(products.data(), count, by_rows, nullptr), 0);
  out.Fetch();
  EXPECT_EQ(out.host, first);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, NarrowProductCuda,
    ::testing::Combine(::testing::Values(Type::kBF16, Type::kF16), ::testing::Bool(),
                       ::testing::Values(Case{1, {{0, 8, 0, 8}}}, Case{33, {{0, 72, 0, 16}}},
                                         Case{50, {{0, 2048, 0, 48}}}, Case{512, {{0, 2056, 0, 24}}},
                                         Case{70, {{0, 576, 0, 16}, {576, 192, 16, 16}, {768, 64, 32, 8}}},
                                         Case{200, {{0, 5632, 0, 16}, {5632, 5632, 16, 16}}},
                                         Case{1100, {{0, 1024, 0, 64}}}, Case{4300, {{0, 320, 0, 32}}})));

TEST(NarrowProduct, OthersAreLeftToOthers) {
  uint16_t memory[128] = {};
  const Rows even = {.data = memory, .type = Type::kBF16, .rows = 1, .cols = 16, .stride = 16};
  EXPECT_TRUE(cuda::TakesNarrowProduct({.x = even, .w = even, .out = even, .copy = {}}));
  for (const int which : {0, 1, 2, 3}) {
    std::array<Rows, 4> rows = {even, even, even, even};
    const auto takes = [&](const Rows& odd) {
      rows[static_cast<size_t>(which)] = odd;
      return cuda::TakesNarrowProduct({.x = rows[0], .w = rows[1], .out = rows[2], .copy = rows[3]});
    };
    Rows odd = even;
    odd.cols = 12;
    EXPECT_FALSE(takes(odd)) << which;
    odd = even;
    odd.data = memory + 1;
    EXPECT_FALSE(takes(odd)) << which;
    odd = even;
    odd.stride = 20;
    EXPECT_FALSE(takes(odd)) << which;
    odd = even;
    odd.type = Type::kF32;
    EXPECT_FALSE(takes(odd)) << which;
  }
  Rows wide = even;
  wide.cols = wide.stride = 72;
  EXPECT_FALSE(cuda::TakesNarrowProduct({.x = even, .w = even, .out = wide, .copy = {}}));
}

}  // namespace
}  // namespace strata::kernels
