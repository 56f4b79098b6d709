#include "server/aggregate/aggregate.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/linalg/linear_algebra.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/common/adapter/adapters.h"
#include "tests/server/aggregate/golden_case.h"

namespace strata::aggregate {
namespace {

using ::testing::AllOf;
using testing::GoldenCase;
using ::testing::HasSubstr;
using testing::MakeAdapter;

std::string Bytes(const AggregateResult& result) {
  return adapter::PeftTensorBytes(result.sum, {}) + adapter::PeftConfigJson(result.sum, {});
}

// On `threads` threads, from the last module to the first.
ParallelFor Backwards(int threads) {
  return [threads](int64_t count, const std::function<void(int64_t)>& work) {
    std::atomic<int64_t> next = count;
    std::vector<std::thread> pool;
    pool.reserve(threads);
    for (int t = 0; t < threads; ++t) {
      pool.emplace_back([&] {
        for (int64_t i = next.fetch_sub(1) - 1; i >= 0; i = next.fetch_sub(1) - 1) work(i);
      });
    }
    for (std::thread& thread : pool) thread.join();
  };
}

TEST(AggregateTest, ArrivalOrderAndThreadsDoNotChangeAByte) {
  for (const std::string& name : testing::AggregateCases()) {
    const GoldenCase golden(name);
    for (const auto kind : {Compression::Kind::kExact, Compression::Kind::kRawStack, Compression::Kind::kMaxRank}) {
      AggregateOptions options;
      options.compression = {.kind = kind, .max_rank = 4};
      const auto first = Aggregate(golden.members(), options, nullptr);
      ASSERT_TRUE(first.ok()) << first.status();
      std::vector<Member> members = golden.members();
      std::reverse(members.begin(), members.end());
      std::rotate(members.begin(), members.begin() + static_cast<int64_t>(members.size() / 3), members.end());
      const auto second = Aggregate(members, options, Backwards(4));
      ASSERT_TRUE(second.ok()) << second.status();
      EXPECT_EQ(Bytes(*first), Bytes(*second)) << name;
      EXPECT_EQ(first->error, second->error);
    }
  }
}

TEST(AggregateTest, LargeModulesGiveTheSameBytesOnManyThreads) {
  std::vector<testing::ModuleSpec> specs;
  specs.reserve(6);
  for (int i = 0; i < 6; ++i) specs.push_back({"m" + std::to_string(i), 24, 300 + 40 * i, 700, 24, 0.5});
  const adapter::Adapter x = MakeAdapter(specs, 1);
  const adapter::Adapter y = MakeAdapter(specs, 100);
  const std::vector<Member> members = {{.site = "x", .weight = 0.25, .adapter = &x},
                                       {.site = "y", .weight = 0.75, .adapter = &y}};
  const auto one = Aggregate(members, {}, nullptr);
  const auto many = Aggregate(members, {}, Backwards(4));
  ASSERT_TRUE(one.ok() && many.ok());
  EXPECT_EQ(Bytes(*one), Bytes(*many));
  EXPECT_EQ(one->modules[0].rank_out, 48);
  EXPECT_LT(one->error, 1e-7);
}

TEST(AggregateTest, AggregatingTheAggregateIsStable) {
  const GoldenCase golden("hetero");
  const auto first = Aggregate(golden.members(), {}, nullptr);
  const auto again = Aggregate({{.site = "x", .weight = 1, .adapter = &first->sum}}, {}, nullptr);
  ASSERT_TRUE(again.ok());
  for (const ModuleResult& module : again->modules) EXPECT_LT(module.error, 1e-7) << module.module;
}

TEST(AggregateTest, ScaleMultipliesTheSum) {
  const GoldenCase golden("unequal-alpha");
  AggregateOptions options;
  const auto plain = Aggregate(golden.members(), options, nullptr);
  for (const double scale : {0.7, -2.0, 0.0}) {
    for (const auto kind : {Compression::Kind::kExact, Compression::Kind::kRawStack}) {
      options.scale = scale;
      options.compression.kind = kind;
      const auto scaled = Aggregate(golden.members(), options, nullptr);
      ASSERT_TRUE(scaled.ok());
      for (const adapter::Factors& factors : plain->sum.modules()) {
        std::vector<double> expected = GoldenCase::Product(plain->sum, factors.module, factors.out, factors.in);
        for (double& value : expected) value *= scale;
        const std::vector<double> found = GoldenCase::Product(scaled->sum, factors.module, factors.out, factors.in);
        EXPECT_LE(GoldenCase::Distance(found, expected), 3e-7 * GoldenCase::Norm(expected));
      }
      for (const ModuleResult& module : scaled->modules) EXPECT_LT(module.error, 3e-7);
    }
  }
}

TEST(AggregateTest, TruncationIsReportedPerModuleAndInAll) {
  const GoldenCase golden("hetero");
  AggregateOptions options;
  options.compression = {.kind = Compression::Kind::kEnergy, .energy = 0.9};
  const auto result = Aggregate(golden.members(), options, nullptr);
  double error = 0;
  double norm = 0;
  double discarded = 0;
  for (const ModuleResult& module : result->modules) {
    EXPECT_LE(module.error, std::sqrt(0.1) + 1e-12);
    EXPECT_NEAR(module.discarded, module.error * module.norm, 1e-6 * module.norm);
    error += std::pow(module.error * module.norm, 2);
    norm += std::pow(module.norm, 2);
    discarded += std::pow(module.discarded, 2);
  }
  EXPECT_NEAR(result->error, std::sqrt(error / norm), 1e-12);
  EXPECT_NEAR(result->discarded, std::sqrt(discarded), 1e-12);
}

TEST(AggregateTest, KernelsFitTheProcessor) {
  if (!__builtin_cpu_supports("avx2")) GTEST_SKIP() << "a processor without AVX2";
  EXPECT_THAT(linalg::BlasKernels(),
              AllOf(::testing::Ne("Unknown"), ::testing::Ne("Prescott"), ::testing::Ne("Nehalem")));
}

class AggregateFaults : public ::testing::Test {
 protected:
  std::string Refusal(const AggregateOptions& options = {}) {
    const auto result = Aggregate(members_, options, nullptr);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(result.status().message());
  }
  adapter::Adapter x_ = MakeAdapter({{"m", 2, 3, 4}});
  adapter::Adapter y_ = MakeAdapter({{"m", 1, 3, 4}});
  std::vector<Member> members_ = {{.site = "north", .weight = 0.5, .adapter = &x_},
                                  {.site = "south", .weight = 0.5, .adapter = &y_}};
};

TEST_F(AggregateFaults, Weights) {
  members_[1].weight = -0.5;
  EXPECT_THAT(Refusal(), HasSubstr("site 'south': weight -0.5"));
  members_[1].weight = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(Refusal(), HasSubstr("weight nan"));
  members_[0].weight = members_[1].weight = 0;
  EXPECT_THAT(Refusal(), HasSubstr("sum to 0"));
  members_.clear();
  EXPECT_THAT(Refusal(), HasSubstr("no members"));
}

TEST_F(AggregateFaults, Shapes) {
  const adapter::Adapter other = MakeAdapter({{"m", 1, 4, 3}});
  members_[1].adapter = &other;
  EXPECT_THAT(Refusal(), HasSubstr("module 'm': site 'north' has it as [3, 4], site 'south' as [4, 3]"));
}

TEST_F(AggregateFaults, OptionsAndUnequalRanks) {
  AggregateOptions options;
  options.method = config::AggregationMethod::kFedit;
  EXPECT_THAT(Refusal(options), HasSubstr("module 'm': site 'north' has rank 2, site 'south' 1"));
  options = {};
  options.compression = {.kind = Compression::Kind::kEnergy, .energy = 0};
  EXPECT_THAT(Refusal(options), HasSubstr("energy"));
  options.compression = {.kind = Compression::Kind::kMaxRank, .max_rank = 0};
  EXPECT_THAT(Refusal(options), HasSubstr("rank"));
  options = {};
  options.scale = std::numeric_limits<double>::infinity();
  EXPECT_THAT(Refusal(options), HasSubstr("scale"));
}

TEST_F(AggregateFaults, ValuesThatAreNotFiniteOrTooLarge) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    adapter::AdapterBuilder builder;
    builder.Add("m", 1, 2, 2, 1, 1, {1, bad}, {1, 1});
    const adapter::Adapter poisoned = std::move(builder).Build();
    const auto result = Aggregate({{.site = "s", .weight = 1, .adapter = &poisoned}}, {}, nullptr);
    EXPECT_THAT(std::string(result.status().message()), AllOf(HasSubstr("site 's', module 'm'"), HasSubstr("finite")));
  }
  adapter::AdapterBuilder builder;
  builder.Add("m", 1, 2, 2, 1, 1e30, {3e38F, 1}, {3e38F, 1});
  const adapter::Adapter huge = std::move(builder).Build();
  const auto result = Aggregate({{.site = "s", .weight = 1, .adapter = &huge}}, {}, nullptr);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("too large to be written in fp32"));
}

class ValidateTest : public ::testing::Test {
 protected:
  std::string Refusal(const adapter::Adapter& update) {
    const absl::Status status = ValidateUpdate(update, rules_);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  }
  UpdateRules rules_ = {.modules = {{"a", 3, 4}, {"b", 5, 4}, {"c", 2, 2}}, .max_rank = {{"a", 2}, {"b", 2}}};
};

TEST_F(ValidateTest, AcceptsWhatWasAssigned) {
  EXPECT_TRUE(ValidateUpdate(MakeAdapter({{"a", 2, 3, 4}, {"b", 1, 5, 4}}), rules_).ok());
  EXPECT_TRUE(ValidateUpdate(MakeAdapter({{"a", 0, 3, 4}}), rules_).ok());
}

TEST_F(ValidateTest, NamesEveryFault) {
  adapter::AdapterBuilder builder;
  std::vector<float> a = testing::SomeFloats(12, 3);
  a[6] = std::numeric_limits<float>::quiet_NaN();
  builder.Add("a", 3, 3, 4, 1, 1, a, testing::SomeFloats(9, 4));
  builder.Add("b", 1, 4, 5, 1, 1, testing::SomeFloats(5, 3), testing::SomeFloats(4, 4));
  builder.Add("c", 1, 2, 2, 1, 1, {1, 1}, {1, -std::numeric_limits<float>::infinity()});
  builder.Add("d", 1, 2, 2, 1, std::numeric_limits<double>::infinity(), {1, 1}, {1, 1});
  EXPECT_THAT(Refusal(std::move(builder).Build()),
              AllOf(HasSubstr("module 'a': rank 3 is over the assigned 2"),
                    HasSubstr("'base_model.model.a.lora_A.weight' holds nan at [1, 2]"),
                    HasSubstr("module 'b': factors for [4, 5], the base model has [5, 4]"),
                    HasSubstr("module 'c' was not assigned"), HasSubstr("c.lora_B.weight' holds -inf at [1, 0]"),
                    HasSubstr("module 'd' is not one of the base model's"), HasSubstr("module 'd': scaling inf")));
}

TEST_F(ValidateTest, BoundsTheNormOfTheProducts) {
  adapter::AdapterBuilder builder;
  // ||a|| = 2 * 5 * 1, ||b|| = 0.5 * 1 * 48: together 26.
  builder.Add("a", 1, 3, 4, 1, -2, {5, 0, 0, 0}, {1, 0, 0});
  builder.Add("b", 1, 5, 4, 1, 0.5, {0, 1, 0, 0}, {0, 0, 0, 0, 48});
  const adapter::Adapter update = std::move(builder).Build();
  rules_.max_norm = 26.001;
  EXPECT_TRUE(ValidateUpdate(update, rules_).ok());
  rules_.max_norm = 25.999;
  EXPECT_THAT(Refusal(update), HasSubstr("norm is 26, at most 25.999"));
}

}  // namespace
}  // namespace strata::aggregate
