// The aggregator against fp64 results of independent code (tests/golden/aggregate).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "server/aggregate/aggregate.h"
#include "tests/server/aggregate/golden_case.h"

namespace strata::aggregate {
namespace {

using testing::GoldenCase;

class AggregateGolden : public ::testing::TestWithParam<std::string> {
 protected:
  // f(module, out, in, largest of ||G|| and the gauge)
  template <typename F>
  void ForEachModule(const F& f) {
    for (const auto& [module, entry] : golden_.json()["modules"].items()) {
      SCOPED_TRACE(module);
      const std::vector<double> dense = golden_.expected("dense." + module);
      f(module, int64_t{entry["shape"][0]}, int64_t{entry["shape"][1]},
        std::max(GoldenCase::Norm(dense), golden_.Gauge(module)));
    }
  }
  // Counts a deviation relative to the unit that the tolerance is in, and reports the worst.
  void Near(double deviation, double unit, double tolerance) {
    if (unit > 0) worst_ = std::max(worst_, deviation / unit);
    EXPECT_LE(deviation, tolerance * unit);
  }
  void TearDown() override { RecordProperty("worst", std::to_string(std::log10(worst_))); }

  GoldenCase golden_{GetParam()};
  double worst_ = 0;
};

TEST_P(AggregateGolden, ExactSum) {
  ForEachModule([&](const std::string& module, int64_t out, int64_t in, double unit) {
    const auto factored = FactorModule(golden_.members(), module, {});
    ASSERT_TRUE(factored.ok()) << factored.status();
    const std::vector<double> dense = golden_.expected("dense." + module);
    Near(GoldenCase::Distance(GoldenCase::Multiply(factored->b, factored->a, out, in), dense), unit, 1e-12);
    Near(GoldenCase::Distance(DenseSum(golden_.members(), module, out, in), dense), unit, 1e-12);
  });
  std::printf("largest deviation %.1e\n", worst_);
}

TEST_P(AggregateGolden, SingularValuesAndRanks) {
  ForEachModule([&](const std::string& module, int64_t, int64_t, double unit) {
    const auto factored = FactorModule(golden_.members(), module, {});
    ASSERT_TRUE(factored.ok());
    const std::vector<double> expected = golden_.expected("singular_values." + module);
    std::vector<double> found = factored->singular_values;
    found.resize(std::max(expected.size(), found.size()));
    for (size_t i = 0; i < expected.size(); ++i) Near(std::abs(found[i] - expected[i]), unit, 1e-12);
    const auto& entry = golden_.json()["modules"][module];
    EXPECT_EQ(factored->rank, entry["numeric_rank"].get<int64_t>());
    for (const auto& [energy, rank] : entry["energy_rank"].items()) {
      if (rank.is_null()) continue;
      AggregateOptions options;
      options.compression = {.kind = Compression::Kind::kEnergy, .energy = std::stod(energy)};
      EXPECT_EQ(FactorModule(golden_.members(), module, options)->rank, rank.get<int64_t>()) << energy;
    }
  });
}

TEST_P(AggregateGolden, TruncationErrors) {
  ForEachModule([&](const std::string& module, int64_t out, int64_t in, double unit) {
    const std::vector<double> dense = golden_.expected("dense." + module);
    const std::vector<double> errors = golden_.expected("truncation_error." + module);
    for (size_t rank = 1; rank < errors.size(); ++rank) {
      AggregateOptions options;
      options.compression = {.kind = Compression::Kind::kMaxRank, .max_rank = static_cast<int64_t>(rank)};
      const auto factored = FactorModule(golden_.members(), module, options);
      ASSERT_TRUE(factored.ok());
      const double error = GoldenCase::Distance(GoldenCase::Multiply(factored->b, factored->a, out, in), dense);
      Near(std::abs(error - errors[rank]), unit, 1e-9);
      const std::string flex = "flex" + std::to_string(rank) + "." + module;
      if (golden_.has(flex)) {
        Near(GoldenCase::Distance(GoldenCase::Multiply(factored->b, factored->a, out, in), golden_.expected(flex)),
             unit, 1e-9);
      }
    }
  });
}

TEST_P(AggregateGolden, Renormalised) {
  AggregateOptions options;
  options.renormalise_absent = true;
  ForEachModule([&](const std::string& module, int64_t out, int64_t in, double unit) {
    if (!golden_.has("dense_renormalised." + module)) return;
    const std::vector<double> expected = golden_.expected("dense_renormalised." + module);
    const auto factored = FactorModule(golden_.members(), module, options);
    ASSERT_TRUE(factored.ok());
    Near(GoldenCase::Distance(GoldenCase::Multiply(factored->b, factored->a, out, in), expected),
         std::max(unit, GoldenCase::Norm(expected)), 1e-12);
  });
}

// What is emitted: fp32 factors. The error that is reported must be the one that they have.
TEST_P(AggregateGolden, EmittedFactorsAndTheirReportedErrors) {
  for (const auto kind : {Compression::Kind::kExact, Compression::Kind::kRawStack, Compression::Kind::kMaxRank,
                          Compression::Kind::kEnergy}) {
    AggregateOptions options;
    options.compression = {.kind = kind, .energy = 0.9, .max_rank = 3};
    const auto result = Aggregate(golden_.members(), options, nullptr);
    ASSERT_TRUE(result.ok()) << result.status();
    size_t index = 0;
    ForEachModule([&](const std::string& module, int64_t out, int64_t in, double unit) {
      const ModuleResult& reported = result->modules[index++];
      ASSERT_EQ(reported.module, module);
      const std::vector<double> dense = golden_.expected("dense." + module);
      const double norm = GoldenCase::Norm(dense);
      const double error = GoldenCase::Distance(GoldenCase::Product(result->sum, module, out, in), dense);
      const adapter::Factors* factors = result->sum.Find(module);
      EXPECT_EQ(reported.rank_out, factors == nullptr ? 0 : factors->rank);
      Near(std::abs(reported.norm - norm), unit, 1e-12);
      if (norm == 0) {
        EXPECT_EQ(reported.error, 0);
      } else {
        EXPECT_NEAR(reported.error, error / norm, 1e-5 * error / norm + 1e-12 * unit / norm);
      }
      if (kind == Compression::Kind::kExact) Near(error, norm, 2e-7);
      if (kind == Compression::Kind::kRawStack) Near(error, unit, 2e-7);
    });
    EXPECT_EQ(index, result->modules.size());
  }
}

TEST_P(AggregateGolden, AveragingAndItsDistance) {
  AggregateOptions options;
  options.compare_methods = true;
  const auto exact = Aggregate(golden_.members(), options, nullptr);
  ASSERT_TRUE(exact.ok()) << exact.status();
  options.method = config::AggregationMethod::kZeroPad;
  const auto padded = Aggregate(golden_.members(), options, nullptr);
  ASSERT_TRUE(padded.ok()) << padded.status();
  double unit_of_all = golden_.json()["total_norm"];
  double residual = 0;
  ForEachModule([&](const std::string& module, int64_t out, int64_t in, double) {
    const std::vector<double> mean_a = golden_.expected("mean_a." + module);
    const std::vector<double> mean_b = golden_.expected("mean_b." + module);
    const double size = GoldenCase::Norm(mean_a) * GoldenCase::Norm(mean_b);
    Near(GoldenCase::Distance(GoldenCase::Product(padded->sum, module, out, in),
                              GoldenCase::Multiply(mean_b, mean_a, out, in)),
         size, 3e-7);
    if (unit_of_all > 0) {
      const double part = GoldenCase::Norm(golden_.expected("fedex_residual." + module)) / unit_of_all;
      residual += part * part;
    }
  });
  EXPECT_NEAR(exact->zero_pad_distance, std::sqrt(residual), 1e-9 * std::max(1.0, std::sqrt(residual)));
  EXPECT_NEAR(padded->error, std::sqrt(residual), 1e-6 * std::max(1.0, std::sqrt(residual)));
  options.method = config::AggregationMethod::kFedit;
  const auto fedit = Aggregate(golden_.members(), options, nullptr);
  if (exact->fedit_distance < 0) {
    EXPECT_EQ(fedit.status().code(), absl::StatusCode::kInvalidArgument);
  } else {
    EXPECT_EQ(exact->fedit_distance, exact->zero_pad_distance);
    EXPECT_EQ(fedit->error, padded->error);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, AggregateGolden, ::testing::ValuesIn(testing::AggregateCases()), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace strata::aggregate
