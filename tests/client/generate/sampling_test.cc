// The choice of the next token: by hand from the definitions, and beside what transformers' warpers leave.
#include "client/generate/sampling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/testing/golden.h"

namespace strata::generate {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

// Probabilities 0.4, 0.05, 0.3, 0.05, 0.2.
const std::vector<float> kLogits = {std::log(0.4F), std::log(0.05F), std::log(0.3F), std::log(0.05F), std::log(0.2F)};

std::vector<int32_t> Ids(const SamplingOptions& options, const std::vector<float>& logits = kLogits) {
  std::vector<int32_t> ids;
  double sum = 0;
  for (const Candidate& c : Candidates(logits, options)) {
    ids.push_back(c.id);
    sum += c.probability;
  }
  EXPECT_NEAR(sum, 1, 1e-12);
  return ids;
}

TEST(Candidates, OfEveryTokenAreSoftmax) {
  const auto all = Candidates(kLogits, {.temperature = 1});
  ASSERT_THAT(all, SizeIs(5));
  EXPECT_NEAR(all[2].probability, 0.3, 1e-7);
  const auto bold = Candidates(kLogits, {.temperature = 2});
  EXPECT_NEAR(bold[0].probability / bold[1].probability, std::sqrt(8.0), 1e-6);
}

TEST(Candidates, TopKKeepsTheLikeliest) {
  EXPECT_THAT(Ids({.temperature = 1, .top_k = 2}), ElementsAre(0, 2));
  EXPECT_THAT(Ids({.temperature = 1, .top_k = 4}), ElementsAre(0, 2, 4, 1));  // of equals the first
  EXPECT_THAT(Ids({.temperature = 1, .top_k = 99}), ElementsAre(0, 2, 4, 1, 3));
}

TEST(Candidates, TopPKeepsTheFewestThatReachIt) {
  EXPECT_THAT(Ids({.temperature = 1, .top_p = 0.39}), ElementsAre(0));
  EXPECT_THAT(Ids({.temperature = 1, .top_p = 0.41}), ElementsAre(0, 2));
  EXPECT_THAT(Ids({.temperature = 1, .top_p = 0.69}), ElementsAre(0, 2));
  EXPECT_THAT(Ids({.temperature = 1, .top_p = 0.71}), ElementsAre(0, 2, 4));
  EXPECT_THAT(Ids({.temperature = 1, .top_p = 0.93}), ElementsAre(0, 2, 4, 1));
  EXPECT_THAT(Ids({.temperature = 1, .top_p = 1e-9}), ElementsAre(0));
}

TEST(Candidates, TopPCountsWithinTopK) {
  // Of 0.4, 0.3, 0.2 alone, 0.75 is passed by the second: 0.7 / 0.9.
  EXPECT_THAT(Ids({.temperature = 1, .top_k = 3, .top_p = 0.75}), ElementsAre(0, 2));
  EXPECT_THAT(Ids({.temperature = 1, .top_p = 0.75}), ElementsAre(0, 2, 4));
}

TEST(Candidates, MinPIsRelativeToTheLikeliest) {
  EXPECT_THAT(Ids({.temperature = 1, .min_p = 0.49}), ElementsAre(0, 2, 4));
  EXPECT_THAT(Ids({.temperature = 1, .min_p = 0.51}), ElementsAre(0, 2));
  EXPECT_THAT(Ids({.temperature = 1, .min_p = 1}), ElementsAre(0));
  // Temperature comes first: 0.2 / 0.4 becomes its root.
  EXPECT_THAT(Ids({.temperature = 2, .min_p = 0.51}), ElementsAre(0, 2, 4));
}

TEST(Candidates, LargeLogitsAndManyTokensStayFinite) {
  std::vector<float> logits(50000, 900);
  logits[77] = 1000;
  EXPECT_THAT(Ids({.temperature = 1, .top_p = 0.9}, logits), ElementsAre(77));
  logits.assign(50000, -3);
  EXPECT_THAT(Ids({.temperature = 1, .top_p = 0.5}, logits), SizeIs(25000));
}

TEST(Candidates, AreWhatTransformersLeaves) {
  const auto golden = nlohmann::json::parse(std::ifstream(testing::GoldenDir("sampling/cases.json")));
  ASSERT_GE(golden["cases"].size(), 30U);
  for (const auto& one : golden["cases"]) {
    SCOPED_TRACE(one["options"].dump());
    const auto& o = one["options"];
    std::vector<Candidate> seen =
        Candidates(one["logits"].get<std::vector<float>>(), {.temperature = o["temperature"],
                                                             .top_k = o.value("top_k", size_t{0}),
                                                             .top_p = o.value("top_p", 1.0),
                                                             .min_p = o.value("min_p", 0.0)});
    std::sort(seen.begin(), seen.end(), [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
    ASSERT_EQ(seen.size(), one["left"].size());
    for (size_t i = 0; i < seen.size(); ++i) {
      EXPECT_EQ(seen[i].id, one["left"][i][0]);
      EXPECT_NEAR(seen[i].probability, one["left"][i][1].get<double>(), 1e-6);
    }
  }
}

TEST(SampleToken, GreedyIsTheFirstOfTheLikeliest) {
  EXPECT_EQ(SampleToken(std::vector<float>{1, 3, 3, 2}, {}, 0.99), 1);
}

TEST(SampleToken, UniformsFallIntoTheirShare) {
  const SamplingOptions options{.temperature = 1};
  EXPECT_EQ(SampleToken(kLogits, options, 0), 0);
  EXPECT_EQ(SampleToken(kLogits, options, 0.399), 0);
  EXPECT_EQ(SampleToken(kLogits, options, 0.401), 1);
  EXPECT_EQ(SampleToken(kLogits, options, 0.451), 2);
  EXPECT_EQ(SampleToken(kLogits, options, 0.9999999), 4);
  EXPECT_EQ(SampleToken(kLogits, {.temperature = 1, .top_k = 2}, 0.9999999), 2);
}

}  // namespace
}  // namespace strata::generate
