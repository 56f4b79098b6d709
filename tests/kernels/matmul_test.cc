// The bf16 matrix products against sums in double.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/ops.h"

namespace strata::kernels {
namespace {

float FromBf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value = 0;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// Rows inside a wider buffer whose other columns hold NaN: what lies beside a matrix must not be read into it.
struct Matrix {
  Matrix(int64_t rows, int64_t cols, uint32_t seed)
      : stride(cols + 5), bits(static_cast<size_t>(rows * stride), 0x7FC1) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        seed = seed * 1664525 + 1013904223;
        const float value = static_cast<float>(static_cast<int>(seed >> 16 & 0xFF) - 128) / 128;  // exact in bf16
        RoundToBf16(&value, &bits[static_cast<size_t>(r * stride + c)], 1);
      }
    }
    view = {.data = bits.data(), .type = Type::kBF16, .rows = rows, .cols = cols, .stride = stride};
  }
  double at(int64_t r, int64_t c) const {
    return static_cast<double>(FromBf16(bits[static_cast<size_t>(r * stride + c)]));
  }
  int64_t stride;
  std::vector<uint16_t> bits;
  Rows view;
};

class MatMul : public ::testing::TestWithParam<std::array<int64_t, 3>> {
 protected:
  void SetUp() override {
    if (!HasBf16MatMul()) GTEST_SKIP() << "no matrix tiles on this processor";
  }
};

// fp32 sums of k products of size <= 1 are off by less than k * sqrt(k) * 2^-24 here.
double Limit(int64_t k) { return 1e-6 * static_cast<double>(k); }

TEST_P(MatMul, AllThreeForms) {
  const auto [m, n, k] = GetParam();
  const Matrix x(m, k, 1);
  const Matrix w(n, k, 2);
  const Matrix w_rows(k, n, 3);
  const Matrix x_rows(k, m, 4);
  for (const int threads : {1, 3}) {
    std::vector<float> nt(static_cast<size_t>(m * n), 1);
    std::vector<float> nn(nt.size(), 1);
    std::vector<float> tn(nt.size(), 1);
    const auto rows = [&](std::vector<float>& v) {
      return Rows{.data = v.data(), .type = Type::kF32, .rows = m, .cols = n, .stride = n};
    };
    MatMulNT(rows(nt), x.view, w.view, /*accumulate=*/true, threads);
    MatMulNN(rows(nn), x.view, w_rows.view, /*accumulate=*/false, threads);
    MatMulTN(rows(tn), x_rows.view, w_rows.view, 0.5F, threads);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double a = 1;
        double b = 0;
        double c = 1;
        for (int64_t q = 0; q < k; ++q) {
          a += x.at(i, q) * w.at(j, q);
          b += x.at(i, q) * w_rows.at(q, j);
          c += 0.5 * x_rows.at(q, i) * w_rows.at(q, j);
        }
        const auto at = static_cast<size_t>(i * n + j);
        ASSERT_NEAR(nt[at], a, Limit(k)) << i << ", " << j;
        ASSERT_NEAR(nn[at], b, Limit(k)) << i << ", " << j;
        ASSERT_NEAR(tn[at], c, Limit(k)) << i << ", " << j;
      }
    }
  }
}

TEST_P(MatMul, Bf16ResultIsRoundedOnceAlsoWhenItAdds) {
  const auto [m, n, k] = GetParam();
  const Matrix x(m, k, 5);
  const Matrix w(n, k, 6);
  Matrix y(m, n, 7);
  const Matrix before = y;
  MatMulNT(y.view, x.view, w.view, /*accumulate=*/true, 2);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = before.at(i, j);
      for (int64_t q = 0; q < k; ++q) sum += x.at(i, q) * w.at(j, q);
      ASSERT_NEAR(FromBf16(static_cast<uint16_t*>(y.view.data)[i * y.stride + j]), sum, std::abs(sum) / 256 + Limit(k));
    }
    ASSERT_EQ(static_cast<uint16_t*>(y.view.data)[i * y.stride + n], 0x7FC1) << "wrote beside the matrix";
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, MatMul,
                         ::testing::Values(std::array<int64_t, 3>{1, 1, 1}, std::array<int64_t, 3>{16, 16, 32},
                                           std::array<int64_t, 3>{37, 50, 70}, std::array<int64_t, 3>{5, 300, 4},
                                           std::array<int64_t, 3>{100, 17, 1700}, std::array<int64_t, 3>{64, 576, 96},
                                           std::array<int64_t, 3>{130, 8, 512}, std::array<int64_t, 3>{33, 290, 3100}));

}  // namespace
}  // namespace strata::kernels
