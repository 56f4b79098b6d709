// Row kernels against their formulas in double, in every instruction set that this processor has, in fp32 and bf16.
#include "kernels/cpu/row_ops.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numbers>
#include <string>
#include <vector>

#include "common/runtime/random.h"
#include "kernels/ops.h"
#include "tests/kernels/variants.h"

namespace strata::kernels {
namespace {

struct TypedVariant {
  std::string name;
  const RowOps* table;
  Type type;
};

std::vector<TypedVariant> Variants() {
  std::vector<TypedVariant> all;
  for (const Type type : {Type::kF32, Type::kBF16}) {
    const std::string suffix = type == Type::kF32 ? "_f32" : "_bf16";
    for (const auto& variant : VariantsOf(BaselineRowOps(), Avx2RowOps(), Avx512RowOps()))
      all.push_back({variant.name + suffix, variant.table, type});
  }
  return all;
}

class RowOpsTest : public ::testing::TestWithParam<TypedVariant> {
 protected:
  // A matrix of the variant's type; values are exact in bf16.
  struct Matrix {
    Matrix(Type type, int64_t rows, int64_t cols, double scale, uint32_t seed) : type(type), rows(rows), cols(cols) {
      floats.resize(static_cast<size_t>(rows * cols));
      halves.resize(floats.size());
      for (float& value : floats) {
        seed = seed * 1664525 + 1013904223;
        value = static_cast<float>(scale * (static_cast<int>(seed >> 16 & 0xFF) - 128) / 128);
      }
      RoundToBf16(floats.data(), halves.data(), static_cast<int64_t>(floats.size()));
      if (type == Type::kBF16) {
        for (size_t i = 0; i < floats.size(); ++i)
          floats[i] = static_cast<float>(at(static_cast<int64_t>(i) / cols, static_cast<int64_t>(i) % cols));
      }
    }
    Rows view() {
      return {.data = type == Type::kF32 ? static_cast<void*>(floats.data()) : halves.data(),
              .type = type,
              .rows = rows,
              .cols = cols,
              .stride = cols};
    }
    double at(int64_t r, int64_t c) const {
      const auto i = static_cast<size_t>(r * cols + c);
      if (type == Type::kF32) return static_cast<double>(floats[i]);
      const uint32_t wide = static_cast<uint32_t>(halves[i]) << 16;
      float value = 0;
      std::memcpy(&value, &wide, sizeof value);
      return static_cast<double>(value);
    }
    Type type;
    int64_t rows, cols;
    std::vector<float> floats;
    std::vector<uint16_t> halves;
  };
  Matrix Make(int64_t rows, int64_t cols, double scale, uint32_t seed) const {
    return {GetParam().type, rows, cols, scale, seed};
  }
  // Half a unit in the last place of the type, plus what fp32 arithmetic may lose.
  double Limit(double value) const {
    return std::abs(value) * (GetParam().type == Type::kF32 ? 1e-6 : 1.0 / 256) + 2e-6;
  }
  const RowOps& ops() const { return *GetParam().table; }
  static constexpr int64_t kRows = 5, kCols = 83;
};

double Silu(double x) { return x / (1 + std::exp(-x)); }

// A norm over pieces of a row, in double.
struct ExpectedNorm {
  ExpectedNorm(const std::vector<double>& x, bool centred) {
    const auto n = static_cast<double>(x.size());
    if (centred) {
      for (const double value : x) mean += value / n;
    }
    double squares = 0;
    for (const double value : x) squares += (value - mean) * (value - mean);
    rstd = 1 / std::sqrt(squares / n + 1e-5);
  }
  // Of Sum(dy * y) with respect to x.
  std::vector<double> Gradient(const std::vector<double>& x, const std::vector<double>& g, bool centred) const {
    double dot = 0;
    double total = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      dot += g[i] * (x[i] - mean) * rstd / static_cast<double>(x.size());
      total += centred ? g[i] / static_cast<double>(x.size()) : 0;
    }
    std::vector<double> out;
    for (size_t i = 0; i < x.size(); ++i) out.push_back(rstd * (g[i] - total - (x[i] - mean) * rstd * dot));
    return out;
  }
  double mean = 0, rstd = 0;
};

class NormTest : public RowOpsTest {
 protected:
  void Check(bool centred, int64_t heads, bool accumulate) {
    const int64_t size = kCols;
    Matrix x = Make(kRows, heads * size, 3, 1);
    Matrix delta = Make(kRows, heads * size, 2, 2);
    Matrix sum = Make(kRows, heads * size, 0, 3);
    Matrix out = Make(kRows, heads * size, 0, 4);
    Matrix dy = Make(kRows, heads * size, 1, 5);
    const Matrix dy_before = dy;
    Matrix dx = Make(kRows, heads * size, 1, 6);
    const Matrix dx_before = dx;
    std::vector<float> weight(static_cast<size_t>(size));
    std::vector<float> bias(weight.size());
    for (size_t i = 0; i < weight.size(); ++i) {
      weight[i] = 0.5F + static_cast<float>(i % 7) / 4;
      bias[i] = static_cast<float>(i % 5) / 8 - 0.25F;
    }
    const NormWeights norm{
        .weight = weight.data(), .bias = centred ? bias.data() : nullptr, .epsilon = 1e-5F, .heads = heads};
    std::vector<float> rstd(static_cast<size_t>(kRows * heads));
    const Rows delta_view = delta.view();
    const Rows sum_view = sum.view();
    ops().norm(x.view(), &delta_view, &sum_view, norm, out.view(), rstd.data(), 0, kRows);
    // Without accumulation the gradient may replace dy.
    Matrix& result = accumulate ? dx : dy;
    ops().norm_backward(dy.view(), sum.view(), norm, rstd.data(), result.view(), accumulate, 0, kRows);
    for (int64_t t = 0; t < kRows; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        std::vector<double> piece;
        std::vector<double> g;
        for (int64_t i = h * size; i < (h + 1) * size; ++i) {
          EXPECT_NEAR(sum.at(t, i), x.at(t, i) + delta.at(t, i), Limit(sum.at(t, i)));
          piece.push_back(sum.at(t, i));
          g.push_back(dy_before.at(t, i) * static_cast<double>(weight[static_cast<size_t>(i % size)]));
        }
        const ExpectedNorm expected(piece, centred);
        const std::vector<double> gradient = expected.Gradient(piece, g, centred);
        for (size_t i = 0; i < piece.size(); ++i) {
          const int64_t c = h * size + static_cast<int64_t>(i);
          const double shift = centred ? static_cast<double>(bias[i]) : 0;
          const double want = (piece[i] - expected.mean) * expected.rstd * static_cast<double>(weight[i]) + shift;
          EXPECT_NEAR(out.at(t, c), want, Limit(want));
          const double d = gradient[i] + (accumulate ? dx_before.at(t, c) : 0);
          EXPECT_NEAR(result.at(t, c), d, Limit(d));
        }
      }
    }
  }
};

TEST_P(NormTest, RmsNormAndItsGradient) { Check(/*centred=*/false, /*heads=*/1, /*accumulate=*/true); }
TEST_P(NormTest, RmsNormOfHeadsAndItsGradientInPlace) { Check(false, 3, false); }
TEST_P(NormTest, LayerNormAndItsGradient) { Check(true, 1, true); }
TEST_P(NormTest, LayerNormOfHeadsAndItsGradientInPlace) { Check(true, 2, false); }

TEST_P(RowOpsTest, DropoutMasksAreTheGenerators) {
  constexpr uint64_t kKey = 0x123456789abcdef1;
  constexpr double kProbability = 0.3;
  constexpr auto kLimit = static_cast<uint32_t>(kProbability * (1 << 24));
  const runtime::Philox philox(kKey);
  for (const int64_t cols : {1, 5, 64, 90, 577}) {
    constexpr int64_t kRows = 11, kCut = 4;  // two threads' shares
    Matrix x(GetParam().type, kRows, cols, 2, 3);
    Matrix out(GetParam().type, kRows, cols, 2, 4);
    GetParam().table->dropout(x.view(), kKey, kProbability, out.view(), 0, kCut);
    GetParam().table->dropout(x.view(), kKey, kProbability, out.view(), kCut, kRows);
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        const bool kept = philox.Word(static_cast<uint64_t>(r * cols + c)) >> 8 >= kLimit;
        const double expected = kept ? x.at(r, c) / (1 - kProbability) : 0;
        const double limit = std::abs(expected) * (GetParam().type == Type::kF32 ? 2e-7 : 1.0 / 256);
        ASSERT_NEAR(out.at(r, c), expected, limit) << r << " " << c << " of " << cols;
      }
    }
  }
}

TEST_P(RowOpsTest, RopeTurnsAndTurnsBack) {
  constexpr int64_t kHeads = 3;
  constexpr int64_t kHead = 10;
  for (const int64_t pairs : {int64_t{5}, int64_t{3}}) {  // whole heads, a part of each
    Matrix x = Make(kRows, kHeads * kHead + 4, 2, 7);
    const Matrix before = x;
    std::vector<float> cos(static_cast<size_t>(kRows * pairs));
    std::vector<float> sin(cos.size());
    for (size_t i = 0; i < cos.size(); ++i) {
      cos[i] = std::cos(static_cast<float>(i));
      sin[i] = std::sin(static_cast<float>(i));
    }
    const Turns turns{.cos = cos.data(), .sin = sin.data(), .pairs = pairs};
    ops().rope(x.view(), kHeads, kHead, turns, false, 0, kRows);
    const auto c = static_cast<double>(cos[static_cast<size_t>(pairs + 2)]);
    const auto s = static_cast<double>(sin[static_cast<size_t>(pairs + 2)]);
    const double u = before.at(1, kHead + 2);
    const double v = before.at(1, kHead + 2 + pairs);
    EXPECT_NEAR(x.at(1, kHead + 2), u * c - v * s, Limit(2));
    EXPECT_NEAR(x.at(1, kHead + 2 + pairs), v * c + u * s, Limit(2));
    for (int64_t i = 2 * pairs; i < kHead; ++i) EXPECT_EQ(x.at(1, kHead + i), before.at(1, kHead + i));
    ops().rope(x.view(), kHeads, kHead, turns, true, 0, kRows);
    for (int64_t t = 0; t < kRows; ++t) {
      for (int64_t i = 0; i < x.cols; ++i) EXPECT_NEAR(x.at(t, i), before.at(t, i), 2 * Limit(3));
    }
  }
}

double Gelu(double x) { return x / 2 * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x))); }

TEST_P(RowOpsTest, UnitsAndTheirGradients) {
  for (const Unit unit : {Unit::kSwiglu, Unit::kGeglu, Unit::kGelu}) {
    const auto value = [&](double x) { return unit == Unit::kSwiglu ? Silu(x) : Gelu(x); };
    // Central differences of the formula: independent of how its slope is written.
    const auto slope = [&](double x) { return (value(x + 1e-5) - value(x - 1e-5)) / 2e-5; };
    Matrix in = Make(kRows, IsGated(unit) ? 2 * kCols : kCols, 6, 8);
    const Matrix before = in;
    Matrix out = Make(kRows, kCols, 0, 9);
    Matrix dout = Make(kRows, kCols, 1, 10);
    const Matrix dy = dout;
    ops().activate(unit, in.view(), out.view(), 0, kRows);
    ops().activate_backward(unit, in.view(), dout.view(), 0, kRows);
    for (int64_t t = 0; t < kRows; ++t) {
      for (int64_t i = 0; i < kCols; ++i) {
        const double g = before.at(t, i);
        const double u = IsGated(unit) ? before.at(t, kCols + i) : 1;
        EXPECT_NEAR(out.at(t, i), value(g) * u, Limit(value(g) * u));
        EXPECT_NEAR(dout.at(t, i), out.at(t, i), Limit(out.at(t, i)));
        EXPECT_NEAR(in.at(t, i), dy.at(t, i) * u * slope(g), Limit(dy.at(t, i) * u * slope(g)));
        if (!IsGated(unit)) continue;
        EXPECT_NEAR(in.at(t, kCols + i), dy.at(t, i) * value(g), Limit(dy.at(t, i) * value(g)));
      }
    }
  }
}

TEST_P(RowOpsTest, CrossEntropyAndItsGradient) {
  for (const double cap : {0.0, 6.0}) {
    Matrix logits = Make(kRows, kCols, 20, 11);
    const std::vector<int32_t> targets = {0, 82, 41, 7, 8};
    std::vector<float> nll(kRows);
    LossOptions options{.scale = 0.25F, .softcap = static_cast<float>(cap)};
    // The logits as they count: capped and rounded to the type.
    Matrix counts = logits;
    ops().cross_entropy(counts.view(), targets.data(), options, nll.data(), 0, kRows);
    options.gradient = true;
    ops().cross_entropy(logits.view(), targets.data(), options, nll.data(), 0, kRows);
    for (int64_t t = 0; t < kRows; ++t) {
      double sum = 0;
      for (int64_t i = 0; i < kCols; ++i) sum += std::exp(counts.at(t, i));
      const int64_t target = targets[static_cast<size_t>(t)];
      EXPECT_NEAR(nll[static_cast<size_t>(t)], std::log(sum) - counts.at(t, target), 1e-5);
      for (int64_t i = 0; i < kCols; ++i) {
        const double slope = cap > 0 ? 1 - counts.at(t, i) * counts.at(t, i) / (cap * cap) : 1;
        const double gradient = 0.25 * slope * (std::exp(counts.at(t, i)) / sum - (i == target ? 1 : 0));
        EXPECT_NEAR(logits.at(t, i), gradient, Limit(gradient));
      }
    }
  }
}

TEST_P(RowOpsTest, LogitsStayAsTheyCountWhereNoGradientIsWanted) {
  Matrix logits = Make(kRows, kCols, 20, 11);
  const Matrix before = logits;
  const std::vector<int32_t> targets(kRows, 0);
  std::vector<float> nll(kRows);
  ops().cross_entropy(logits.view(), targets.data(), {.softcap = 30}, nll.data(), 0, kRows);
  for (int64_t t = 0; t < kRows; ++t) {
    for (int64_t i = 0; i < kCols; ++i) {
      const double want = 30 * std::tanh(before.at(t, i) / 30);
      EXPECT_NEAR(logits.at(t, i), want, Limit(want));
    }
  }
}

// A flat distribution over a large vocabulary: every term is small beside the sum.
TEST_P(RowOpsTest, CrossEntropyOfALargeVocabulary) {
  Matrix logits = Make(1, 60'000, 2, 12);
  const Matrix before = logits;
  const int32_t target = 31'415;
  float nll = 0;
  ops().cross_entropy(logits.view(), &target, {}, &nll, 0, 1);
  double sum = 0;
  for (int64_t i = 0; i < before.cols; ++i) sum += std::exp(before.at(0, i));
  EXPECT_NEAR(nll, std::log(sum) - before.at(0, target), 2e-6);
}

TEST_P(RowOpsTest, NaNStaysNaN) {
  const std::vector<float> values = {std::nanf(""), INFINITY, -INFINITY, 3.3962e38F, 1.0F / 3, -0.0F};
  std::vector<uint16_t> out(values.size());
  ops().round_to_bf16(values.data(), out.data(), static_cast<int64_t>(values.size()));
  EXPECT_GT(out[0] & 0x7FFF, 0x7F80);
  EXPECT_EQ(out[1], 0x7F80);
  EXPECT_EQ(out[2], 0xFF80);
  EXPECT_EQ(out[3], 0x7F80) << "rounds up past the largest finite value";
  EXPECT_EQ(out[4], 0x3EAB);
  EXPECT_EQ(out[5], 0x8000);
}

INSTANTIATE_TEST_SUITE_P(Variants, NormTest, ::testing::ValuesIn(Variants()),
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Variants, RowOpsTest, ::testing::ValuesIn(Variants()),
                         [](const auto& info) { return info.param.name; });

TEST(SumSquaresTest, DoesNotDependOnThreads) {
  std::vector<float> values(100001);
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i));
  const double one = SumSquares(values.data(), static_cast<int64_t>(values.size()), 1);
  EXPECT_EQ(one, SumSquares(values.data(), static_cast<int64_t>(values.size()), 3));
  EXPECT_NEAR(one, 50000, 5);
}

TEST(AdamWTest, OneStepByHand) {
  float p = 1;
  float g = 2;
  float m = 0.5F;
  float v = 0.25F;
  AdamWStep step{
      .learning_rate = 0.1F, .decay = 0.99F, .correction1 = 0.19F, .root_correction2 = 0.5F, .gradient_scale = 0.5F};
  AdamW(&p, &g, &m, &v, 1, step, 1);
  const double m1 = 0.9 * 0.5 + 0.1 * 1;
  const double v1 = 0.999 * 0.25 + 0.001 * 1;
  EXPECT_NEAR(m, m1, 1e-7);
  EXPECT_NEAR(v, v1, 1e-7);
  EXPECT_NEAR(p, 0.99 - 0.1 / 0.19 * m1 / (std::sqrt(v1) / 0.5 + 1e-8), 1e-6);
  EXPECT_EQ(g, 0);
}

}  // namespace
}  // namespace strata::kernels
