#include "common/runtime/random.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace strata::runtime {
namespace {

using ::testing::ElementsAre;

// philox4x32 with 10 rounds in Random123's kat_vectors.
TEST(PhiloxTest, PublishedVectors) {
  EXPECT_THAT(Philox(0).Block(0), ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(Philox(~uint64_t{0}).Block(~uint64_t{0}, ~uint64_t{0}),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(Philox(0x299f31d0a4093822).Block(0x85a308d3243f6a88, 0x0370734413198a2e),
              ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(PhiloxTest, WordsAreTheBlocksInOrder) {
  const Philox philox(42);
  for (uint64_t i = 0; i < 16; ++i) EXPECT_EQ(philox.Word(i), philox.Block(i / 4)[i % 4]);
}

// A change of the key derivation would change every trained adapter: pinned (SHA-256 of the fields by Python's
// hashlib).
TEST(PhiloxTest, KeyIsTheDigestOfItsFields) {
  const Philox philox({.purpose = "lora_init", .seed = 42, .round = 3, .site = "munich"});
  const Philox pinned(0x4d0aeebaa5bb5aae);
  EXPECT_EQ(philox.Block(7), pinned.Block(7));
}

TEST(PhiloxTest, EveryFieldOfTheKeyMatters) {
  const RandomKey base = {.purpose = "a", .seed = 1, .round = 2, .site = "b"};
  std::vector<uint32_t> first;
  for (const RandomKey& key : {base, RandomKey{"ab", 1, 2, ""}, RandomKey{"a", 2, 2, "b"}, RandomKey{"a", 1, 1, "b"},
                               RandomKey{"a", 1, 2, "c"}, RandomKey{"", 1, 2, "ab"}}) {
    first.push_back(Philox(key).Word(0));
  }
  std::sort(first.begin(), first.end());
  EXPECT_EQ(std::adjacent_find(first.begin(), first.end()), first.end());
}

TEST(PhiloxTest, UniformIsInRangeWithTheRightMean) {
  const Philox philox(1);
  double sum = 0;
  constexpr int kCount = 100000;
  for (int i = 0; i < kCount; ++i) {
    const float value = philox.Uniform(static_cast<uint64_t>(i));
    ASSERT_GE(value, 0.0F);
    ASSERT_LT(value, 1.0F);
    sum += value;
  }
  EXPECT_NEAR(sum / kCount, 0.5, 4 * 0.2887 / std::sqrt(kCount));
}

TEST(PhiloxTest, NormalAgreesWithTheFormulaInLongDouble) {
  const Philox philox(7);
  for (uint64_t i = 0; i < 20000; ++i) {
    const auto block = philox.Block(i / 4);
    const size_t pair = i % 4 / 2 * 2;
    const long double u = (static_cast<long double>(block[pair]) + 1) * 0x1p-32L;
    const long double angle = 2 * 3.14159265358979323846264338327950288L * block[pair + 1] * 0x1p-32L;
    const long double radius = std::sqrt(-2 * std::log(u));
    const long double expected = radius * (i % 2 == 0 ? std::cos(angle) : std::sin(angle));
    // Half a unit in the last place of a float of this size, and the double arithmetic's error, which scales with
    // radius.
    ASSERT_NEAR(static_cast<double>(expected), philox.Normal(i),
                std::abs(static_cast<double>(expected)) * 0x1p-24 + static_cast<double>(radius) * 1e-12)
        << i;
  }
}

TEST(PhiloxTest, NormalHasNormalMoments) {
  const Philox philox(11);
  constexpr int kCount = 200000;
  double sum = 0;
  double squares = 0;
  double fourth = 0;
  double neighbours = 0;
  for (int i = 0; i < kCount; ++i) {
    const double value = philox.Normal(static_cast<uint64_t>(i));
    sum += value;
    squares += value * value;
    fourth += value * value * value * value;
    neighbours += value * philox.Normal(static_cast<uint64_t>(i) + 1);
  }
  const double spread = 4 / std::sqrt(kCount);  // four standard errors
  EXPECT_NEAR(sum / kCount, 0, spread);
  EXPECT_NEAR(squares / kCount, 1, spread * std::sqrt(2.0));
  EXPECT_NEAR(fourth / kCount, 3, spread * std::sqrt(96.0));
  EXPECT_NEAR(neighbours / kCount, 0, spread);
}

// Bits of the first normals of key 0: what another implementation (a CUDA kernel) has to reproduce.
TEST(PhiloxTest, NormalIsPinned) {
  std::vector<float> values;
  for (uint64_t i = 0; i < 8; ++i) values.push_back(Philox(0).Normal(i));
  EXPECT_THAT(values, ElementsAre(0x1.fb7666p-1F, -0x1.d96d6p-1F, -0x1.3c373ep-1F, -0x1.eda364p-2F, -0x1.3aa6aep-3F,
                                  0x1.7254dap-3F, 0x1.a9d93p-1F, 0x1.945b46p-3F));
}

TEST(PhiloxTest, BelowIsUnbiased) {
  const Philox philox(3);
  std::vector<int> counts(6);
  for (uint64_t i = 0; i < 60000; ++i) ++counts[philox.Below(i, 6)];
  for (const int count : counts) EXPECT_NEAR(count, 10000, 4 * std::sqrt(10000 * 5.0 / 6));
  const uint64_t huge = (uint64_t{1} << 63) + 1;  // half of the draws are rejected
  for (uint64_t i = 0; i < 100; ++i) EXPECT_LT(philox.Below(i, huge), huge);
  EXPECT_EQ(philox.Below(5, 1), 0U);
}

TEST(PhiloxTest, PermutationHoldsEveryIndexOnce) {
  std::vector<uint32_t> values(1000);
  Philox(9).Permutation(values);
  std::vector<uint32_t> again(1000);
  Philox(9).Permutation(again);
  EXPECT_EQ(values, again);
  std::vector<uint32_t> other(1000);
  Philox(10).Permutation(other);
  EXPECT_NE(values, other);
  std::sort(values.begin(), values.end());
  std::iota(other.begin(), other.end(), 0U);
  EXPECT_EQ(values, other);
}

}  // namespace
}  // namespace strata::runtime
