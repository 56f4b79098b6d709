// Tiles of frozen matrices on a CUDA device against the processor's: the same bits before the last rounding.
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cuda_ops.h"
#include "tests/kernels/halves.h"
#include "tests/kernels/quantised_matrix.h"

namespace strata::kernels {
namespace {

class DecodeCuda : public ::testing::TestWithParam<Type> {
 protected:
  static constexpr int64_t kRows = 37;

  void SetUp() override {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) GTEST_SKIP() << "no CUDA device here";
  }
  void TearDown() override {
    for (void* memory : taken_) cudaFree(memory);
  }
  template <typename T>
  T* There(const std::vector<T>& values) {
    void* memory = nullptr;
    EXPECT_EQ(cudaMalloc(&memory, values.size() * sizeof(T)), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(memory, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
    taken_.push_back(memory);
    return static_cast<T*>(memory);
  }
  static std::vector<float> Values(int64_t cols) {
    std::vector<float> out;
    for (int64_t i = 0; i < kRows * cols; ++i)
      out.push_back(static_cast<float>(std::sin(static_cast<double>(i) * 0.731) * (1 + i % 11)));
    return out;
  }
  // Every tile that starts at such rows and columns, in the type, against `decoded` [kRows, cols].
  void Check(const Rows& m, const std::vector<float>& decoded) {
    for (const int64_t first_row : {0, 5, 36}) {
      for (const int64_t first_col : {int64_t{0}, int64_t{3}, m.cols / 2}) {
        CheckTile(m, decoded, first_row, first_col);
      }
    }
  }

 private:
  void CheckTile(const Rows& m, const std::vector<float>& decoded, int64_t first_row, int64_t first_col) {
    const int64_t rows = kRows - first_row, cols = m.cols - first_col, stride = cols + 5;
    const int64_t size = GetParam() == Type::kF32 ? 4 : 2;
    const std::vector<uint8_t> blank(static_cast<size_t>(rows * stride * size), 0x7f);
    uint8_t* out = There(blank);
    const Rows tile = {.data = out, .type = GetParam(), .rows = rows, .cols = cols, .stride = stride};
    ASSERT_EQ(cuda::Decode(m, first_row, first_col, tile, nullptr), 0);
    std::vector<uint8_t> got(blank.size());
    ASSERT_EQ(cudaMemcpy(got.data(), out, got.size(), cudaMemcpyDeviceToHost), cudaSuccess);
    std::vector<uint8_t> expected = blank;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        const float value = decoded[static_cast<size_t>((first_row + r) * m.cols + first_col + c)];
        uint8_t* to = expected.data() + (r * stride + c) * size;
        if (GetParam() == Type::kF32) {
          std::memcpy(to, &value, 4);
        } else if (GetParam() == Type::kF16) {
          const __half half = __float2half_rn(value);
          std::memcpy(to, &half, 2);
        } else {
          const uint16_t half = Halves({value})[0];
          std::memcpy(to, &half, 2);
        }
      }
    }
    EXPECT_TRUE(got == expected) << "from " << first_row << ", " << first_col << " of " << m.cols << " columns";
  }

  std::vector<void*> taken_;
};

TEST_P(DecodeCuda, Nf4InOneMatrixAndInSeveral) {
  for (const int64_t cols : {int64_t{64}, int64_t{100}, int64_t{320}}) {
    const std::vector<float> values = Values(cols);
    const auto parts_of = [&](const std::vector<int64_t>& rows) {
      std::vector<Nf4> parts;
      std::vector<float> decoded;
      int64_t first = 0;
      for (const int64_t count : rows) {
        const QuantisedMatrix part(values.data() + first * cols, count, cols);
        parts.push_back({.rows = count,
                         .codes = There(part.codes()),
                         .scales = There(part.scale_codes()),
                         .scale_scales = There(part.scale_scales()),
                         .offset = part.offset()});
        const std::vector<float> own = part.Decoded();
        decoded.insert(decoded.end(), own.begin(), own.end());
        first += count;
      }
      Check({.data = parts.data(), .type = Type::kNf4, .rows = kRows, .cols = cols, .stride = cols}, decoded);
    };
    parts_of({kRows});
    parts_of({4, 1, 32});
  }
}

TEST_P(DecodeCuda, Int8) {
  constexpr int64_t kCols = 100;
  const std::vector<float> values = Values(kCols);
  std::vector<int8_t> codes(values.size());
  std::vector<float> scales;
  std::vector<float> decoded;
  for (int64_t r = 0; r < kRows; ++r) {
    scales.push_back(QuantiseInt8(values.data() + r * kCols, kCols, codes.data() + r * kCols));
    for (int64_t c = 0; c < kCols; ++c)
      decoded.push_back(static_cast<float>(codes[static_cast<size_t>(r * kCols + c)]) * scales.back());
  }
  Check({.data = There(codes),
         .type = Type::kInt8,
         .rows = kRows,
         .cols = kCols,
         .stride = kCols,
         .scales = There(scales)},
        decoded);
}

TEST_P(DecodeCuda, WiderAndNarrowerTypes) {
  constexpr int64_t kCols = 96;
  const std::vector<float> values = Values(kCols);
  Check({.data = There(values), .type = Type::kF32, .rows = kRows, .cols = kCols, .stride = kCols}, values);
  std::vector<uint16_t> halves = Halves(values);
  Check({.data = There(halves), .type = Type::kBF16, .rows = kRows, .cols = kCols, .stride = kCols}, Widened(halves));
}

INSTANTIATE_TEST_SUITE_P(Types, DecodeCuda, ::testing::Values(Type::kF32, Type::kBF16, Type::kF16));

TEST(DecodeParts, TooManyPartsAreRefused) {
  const std::vector<Nf4> parts(5, Nf4{.rows = 1});
  const Rows m = {.data = const_cast<Nf4*>(parts.data()), .type = Type::kNf4, .rows = 5, .cols = 8, .stride = 8};
  EXPECT_EQ(cuda::Decode(m, 0, 0, {.type = Type::kF32, .rows = 5, .cols = 8, .stride = 8}, nullptr),
            cudaErrorInvalidValue);
}

}  // namespace
}  // namespace strata::kernels
