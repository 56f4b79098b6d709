#include <ATen/ops/from_blob.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "client/train/gloo_replicas.h"
#include "client/train/micro_batches.h"
#include "tests/testing/status_matchers.h"

namespace strata::train {
namespace {

class ReplicasTest : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  const std::string folder_ = ::testing::TempDir() + "/replicas-" + std::to_string(getpid());
};

TEST_P(ReplicasTest, AddUpToTheSameBytesEverywhere) {
  const int size = GetParam();
  constexpr size_t kCount = 700'001;  // several segments, unequal ones
  std::vector<std::vector<float>> values(static_cast<size_t>(size), std::vector<float>(kCount));
  std::vector<double> totals(static_cast<size_t>(size));
  std::vector<double> expected(kCount);
  for (size_t r = 0; r < values.size(); ++r) {
    for (size_t i = 0; i < kCount; ++i) {
      values[r][i] = std::sin(static_cast<float>(i * (r + 3)));
      expected[i] += values[r][i];
    }
    totals[r] = static_cast<double>(r) + 0.25;
  }
  std::vector<std::thread> threads;
  threads.reserve(size);
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      const auto own = static_cast<size_t>(rank);
      const auto replicas = JoinReplicas({.rank = rank, .size = size, .folder = folder_});
      ASSERT_OK(replicas);
      EXPECT_EQ((*replicas)->rank(), rank);
      EXPECT_EQ((*replicas)->size(), size);
      EXPECT_OK((*replicas)->Sum(at::from_blob(values[own].data(), {static_cast<int64_t>(kCount)}, at::kFloat)));
      EXPECT_OK((*replicas)->Sum(std::span<double>(&totals[own], 1)));
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < kCount; ++i) ASSERT_NEAR(values[0][i], expected[i], 1e-6 * size) << i;
  for (size_t r = 0; r < values.size(); ++r) {
    EXPECT_EQ(values[r], values[0]);
    EXPECT_DOUBLE_EQ(totals[r], size * (size - 1) / 2.0 + 0.25 * size);
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, ReplicasTest, ::testing::Values(1, 2, 3));

TEST(RowsOfReplica, EveryRowOnceInOrderAndInBalance) {
  std::vector<data::Example> examples;
  for (const size_t length : {5, 40, 7, 7, 23, 90, 1, 12, 31, 8, 60}) {
    examples.emplace_back();
    examples.back().ids.resize(length);
  }
  const std::vector<const data::Example*> rows = data::Pointers(examples);
  for (const int size : {1, 2, 3, 20}) {
    std::vector<const data::Example*> all;
    size_t most = 0, least = SIZE_MAX;
    for (int rank = 0; rank < size; ++rank) {
      const auto share = RowsOfReplica(rows, rank, size);
      EXPECT_TRUE(std::is_sorted(share.begin(), share.end()));
      size_t tokens = 0;
      for (const data::Example* row : share) tokens += row->ids.size();
      most = std::max(most, tokens);
      least = std::min(least, tokens);
      all.insert(all.end(), share.begin(), share.end());
    }
    std::sort(all.begin(), all.end());
    EXPECT_EQ(all, rows);
    if (size <= 3) {
      EXPECT_LE(most - least, 8U) << size;
    }
  }
}

}  // namespace
}  // namespace strata::train
