#include "common/linalg/factors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/common/adapter/adapters.h"
#include "tests/testing/status_matchers.h"

namespace strata::linalg {
namespace {

using ::strata::testing::StatusIs;
using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

adapter::Adapter One(int64_t rank, int64_t out, int64_t in, double scaling, std::vector<float> a,
                     std::vector<float> b) {
  adapter::AdapterBuilder builder;
  builder.Add("m", rank, out, in, 1, scaling, std::move(a), std::move(b));
  return std::move(builder).Build();
}

TEST(SingularValues, OfOrthogonalFactorsAreProductsOfLengths) {
  // B's columns 3 e1, 4 e3; A's rows e2, 2 e1.
  const adapter::Adapter adapter = One(2, 3, 4, -0.5, {0, 1, 0, 0, 2, 0, 0, 0}, {3, 0, 0, 0, 0, 4});
  ASSERT_OK_AND_ASSIGN(const std::vector<double> values, SingularValues(adapter.modules()[0]));
  EXPECT_THAT(values, ElementsAre(DoubleNear(4, 1e-15), DoubleNear(1.5, 1e-15)));
}

// The sum of squares is the squared norm of the dense product, whichever way is taken.
TEST(SingularValues, AgreeWithTheDenseProduct) {
  for (const auto& [rank, out, in] : {std::tuple(3, 20, 11), std::tuple(11, 20, 11), std::tuple(16, 5, 7)}) {
    const adapter::Adapter adapter = testing::MakeAdapter({{"m", rank, out, in, 1, 0.25}});
    const adapter::Factors& factors = adapter.modules()[0];
    ASSERT_OK_AND_ASSIGN(const std::vector<double> values, SingularValues(factors));
    EXPECT_EQ(values.size(), static_cast<size_t>(std::min({rank, out, in})));
    std::vector<double> a(rank * in);
    std::vector<double> b(out * rank);
    ASSERT_OK(format::ToDouble(factors.a, a));
    ASSERT_OK(format::ToDouble(factors.b, b));
    double dense = 0;
    for (int i = 0; i < out; ++i) {
      for (int j = 0; j < in; ++j) {
        double sum = 0;
        for (int k = 0; k < rank; ++k) sum += b[i * rank + k] * a[k * in + j];
        dense += sum * sum / 16;
      }
    }
    double squared = 0;
    for (const double value : values) squared += value * value;
    EXPECT_NEAR(squared, dense, 1e-13 * dense);
    EXPECT_TRUE(std::is_sorted(values.rbegin(), values.rend()));
  }
}

TEST(SingularValues, NothingAndNonsense) {
  EXPECT_TRUE(SingularValues(One(0, 2, 2, 1, {}, {}).modules()[0]).value().empty());
  EXPECT_THAT(SingularValues(One(1, 2, 2, 1, {1, NAN}, {1, 1}).modules()[0]),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not finite")));
  EXPECT_THAT(SingularValues(One(1, 1, 1, std::numeric_limits<double>::infinity(), {1}, {1}).modules()[0]),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not finite")));
}

}  // namespace
}  // namespace strata::linalg
