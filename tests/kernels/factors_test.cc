// Gradients of factors against their sums in double, in every instruction set that this processor has.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/cpu/factor_ops.h"
#include "kernels/ops.h"
#include "tests/kernels/halves.h"
#include "tests/kernels/variants.h"

namespace strata::kernels {
namespace {

std::vector<Variant<FactorOps>> Variants() {
  return VariantsOf(BaselineFactorOps(), Avx2FactorOps(), Avx512FactorOps(), &Avx512Bf16FactorOps());
}

std::vector<float> Values(int64_t count, double phase) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(std::sin(static_cast<double>(i) * 0.7310001 + phase));
  return values;
}

struct Shape {
  int64_t tokens, cols, rank;
};

// Both forms of one gradient; memory behind the last element of either operand is not theirs.
class Case {
 public:
  Case(const Shape& s, bool along_rank, Type type = Type::kF32)
      : shape_(s),
        wide_stored_(Values((s.tokens - 1) * (s.cols + 3) + s.cols, 0.1), type),
        narrow_stored_(Values((s.tokens - 1) * (s.rank + 5) + s.rank, 0.5), type),
        wide_(wide_stored_.values()),
        narrow_(narrow_stored_.values()),
        before_(Values(s.cols * s.rank, 0.9)),
        out_(before_) {
    gradient_ = {.wide = wide_stored_.View(s.tokens, s.cols, s.cols + 3),
                 .narrow = narrow_stored_.View(s.tokens, s.rank, s.rank + 5),
                 .out = out_.data(),
                 .wide_step = along_rank ? s.rank : 1,
                 .narrow_step = along_rank ? 1 : s.cols,
                 .scale = 1.75F};
  }
  Case(const Case&) = delete;
  Case& operator=(const Case&) = delete;

  const FactorGradient& gradient() const { return gradient_; }
  const std::vector<float>& out() const { return out_; }

  // Values of at most one in magnitude: one rounding an addition.
  void Check() const {
    const double tolerance = 2e-7 * static_cast<double>(shape_.tokens + 2);
    for (int64_t c = 0; c < shape_.cols; ++c) {
      for (int64_t r = 0; r < shape_.rank; ++r) {
        const auto place = static_cast<size_t>(c * gradient_.wide_step + r * gradient_.narrow_step);
        double sum = 0;
        for (int64_t t = 0; t < shape_.tokens; ++t) {
          sum += static_cast<double>(wide_[static_cast<size_t>(t * gradient_.wide.stride + c)]) *
                 static_cast<double>(narrow_[static_cast<size_t>(t * gradient_.narrow.stride + r)]);
        }
        ASSERT_NEAR(static_cast<double>(out_[place]), static_cast<double>(before_[place]) + 1.75 * sum, tolerance)
            << "column " << c << ", rank " << r;
      }
    }
  }

 private:
  Shape shape_;
  Stored wide_stored_, narrow_stored_;
  std::vector<float> wide_, narrow_, before_, out_;
  FactorGradient gradient_;
};

// Below, at and past the edges of strips, ranks taken together and blocks of tokens of every variant.
constexpr Shape kShapes[] = {{1, 1, 1}, {5, 23, 3}, {256, 96, 4}, {257, 100, 16}, {600, 77, 9}, {3, 200, 64}};

class FactorsTest : public ::testing::TestWithParam<Variant<FactorOps>> {};

TEST_P(FactorsTest, EqualTheSums) {
  const FactorOps& ops = *GetParam().table;
  std::vector<float> scratch(static_cast<size_t>(ops.scratch_floats));
  for (const Shape& shape : kShapes) {
    for (const Type type : {Type::kF32, Type::kBF16}) {
      for (const bool along_rank : {false, true}) {
        SCOPED_TRACE(testing::Message() << shape.tokens << " tokens, " << shape.cols << " columns, rank " << shape.rank
                                        << ", type " << static_cast<int>(type));
        Case c(shape, along_rank, type);
        for (int64_t col = 0; col < shape.cols; col += ops.strip_columns) ops.strip(c.gradient(), col, scratch.data());
        c.Check();
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, FactorsTest, ::testing::ValuesIn(Variants()),
                         [](const ::testing::TestParamInfo<Variant<FactorOps>>& info) { return info.param.name; });

TEST(FactorsThreadsTest, SeveralAtOnceAreTheSameBytesForAnyThreads) {
  std::vector<float> first;
  for (const int threads : {1, 2, 3, 64}) {
    Case a({300, 500, 8}, false);
    Case b({300, 77, 16}, true);
    Case c({300, 1, 4}, true);
    const FactorGradient gradients[] = {a.gradient(), b.gradient(), c.gradient()};
    std::vector<char> workspace(static_cast<size_t>(FactorsWorkspace(threads)));
    AccumulateFactors(gradients, 3, workspace.data(), threads);
    a.Check();
    b.Check();
    c.Check();
    std::vector<float> all = a.out();
    all.insert(all.end(), b.out().begin(), b.out().end());
    if (first.empty()) first = all;
    EXPECT_EQ(all, first) << threads << " threads";
  }
}

}  // namespace
}  // namespace strata::kernels
