// Decoding with a cache against passes over the whole sequence, for every golden model.
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <optional>

#include "client/model/transformer.h"
#include "tests/client/model/golden_batch.h"
#include "tests/client/model/test_device.h"
#include "tests/testing/golden.h"
#include "tests/testing/status_matchers.h"

namespace strata::model {
namespace {

using testing::IsOk;
using testing::MaxDifference;
using testing::StatusIs;

std::vector<int32_t> Ids(const at::Tensor& row) {
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < row.size(0); ++t) ids.push_back(static_cast<int32_t>(row[t].item<int64_t>()));
  return ids;
}

class Decoding : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto files = ModelFiles::Open(testing::Files(), GetParam());
    ASSERT_THAT(files, IsOk());
    auto model = Transformer::Load(*std::move(files), config::ComputeDType::kFp32, testing::TestDevice(), 1);
    ASSERT_THAT(model, IsOk());
    model_ = *std::move(model);
    expected_ = testing::OpenGolden(GetParam() + "/expected.safetensors");
    row_ = Ids(testing::Tensor(expected_, "input_ids")[0]);
  }

  std::unique_ptr<KvCache> Cache(size_t sequences, int64_t capacity) {
    auto cache = model_->NewCache({.num_sequences = sequences, .capacity = capacity});
    EXPECT_THAT(cache, IsOk());
    return *std::move(cache);
  }
  // Logits [tokens, vocab] of a pass over all ids.
  at::Tensor Whole(const std::vector<int32_t>& ids) {
    data::Example row;
    row.ids = row.labels = ids;
    const auto seen = model_->Inspect(testing::PackRows({row}));
    EXPECT_THAT(seen, IsOk());
    return seen->logits;
  }
  std::vector<int32_t> Part(int64_t begin, int64_t end) const { return {row_.begin() + begin, row_.begin() + end}; }
  // How far the length leaves the frequencies alone.
  int64_t length() const {
    const auto n = static_cast<int64_t>(row_.size());
    const RopeConfig& rope = model_->config().rope;
    return rope.depends_on_length() ? std::min(n, rope.original_max_positions) : n;
  }

  std::unique_ptr<Transformer> model_;
  format::Safetensors expected_;
  std::vector<int32_t> row_;
};

TEST_P(Decoding, StepByStepLogitsAreThoseOfTheWhole) {
  const at::Tensor whole = Whole(Part(0, length()));
  const auto cache = Cache(1, length());
  double worst = 0;
  for (int64_t t = 0; t < length(); ++t) {
    ASSERT_OK_AND_ASSIGN(const at::Tensor logits, model_->Continue({{.sequence = 0, .ids = Part(t, t + 1)}}, *cache));
    worst = std::max(worst, MaxDifference(logits[0], whole[t]));
  }
  std::cout << testing::CaseName(GetParam()) << ": logits differ by " << worst << "\n";
  EXPECT_LT(worst, 5e-5);
  EXPECT_EQ(cache->length(0), length());
}

// Sequences of unequal lengths in one pass, pieces of several tokens behind cached ones, and a place that is used
// again.
TEST_P(Decoding, PiecesOfSeveralSequencesAreThoseOfTheWhole) {
  const int64_t n = length();
  const at::Tensor whole = Whole(Part(0, n));
  const auto cache = Cache(3, n);
  const auto check = [&](const std::vector<std::pair<size_t, int64_t>>& to) {
    std::vector<Continuation> pieces;
    pieces.reserve(to.size());
    for (const auto& [sequence, end] : to) pieces.push_back({sequence, Part(cache->length(sequence), end)});
    const auto logits = model_->Continue(pieces, *cache);
    ASSERT_THAT(logits, IsOk());
    for (size_t i = 0; i < to.size(); ++i) {
      EXPECT_LT(MaxDifference((*logits)[static_cast<int64_t>(i)], whole[to[i].second - 1]), 5e-5)
          << "sequence " << to[i].first << ", token " << to[i].second - 1;
    }
  };
  check({{0, n / 2}, {2, 1}});
  check({{2, n / 3}, {0, n / 2 + 1}, {1, n - 2}});
  check({{1, n - 1}, {0, n}, {2, n - 3}});
  cache->Clear(0);
  check({{0, 3}, {1, n}});
  check({{2, n}, {0, n}});
}

TEST_P(Decoding, GreedyTokensAreTheReferences) {
  if (model_->config().rope.depends_on_length()) {
    GTEST_SKIP() << "the reference computed every step anew, with the frequencies of its length";
  }
  std::vector<int32_t> next = Ids(testing::Tensor(expected_, "greedy_prompt")[0]);
  const std::vector<int32_t> expected = Ids(testing::Tensor(expected_, "greedy_ids")[0]);
  const auto cache = Cache(1, static_cast<int64_t>(next.size() + expected.size()));
  std::vector<int32_t> found;
  while (found.size() < expected.size()) {
    ASSERT_OK_AND_ASSIGN(const at::Tensor logits, model_->Continue({{.sequence = 0, .ids = next}}, *cache));
    found.push_back(static_cast<int32_t>(logits[0].argmax().item<int64_t>()));
    next = {found.back()};
  }
  EXPECT_EQ(found, expected);
}

TEST_P(Decoding, WhatDoesNotFitIsRefused) {
  const auto cache = Cache(1, 2);
  EXPECT_THAT(model_->Continue({{.sequence = 0, .ids = {}}}, *cache), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(model_->Continue({{.sequence = 0, .ids = {1, 1, 1}}}, *cache),
              StatusIs(absl::StatusCode::kInvalidArgument, ::testing::HasSubstr("3 tokens behind 0 in a cache of 2")));
  EXPECT_THAT(model_->Continue({{.sequence = 0, .ids = {-1}}}, *cache), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(cache->length(0), 0);
}

INSTANTIATE_TEST_SUITE_P(Models, Decoding, ::testing::ValuesIn(testing::GoldenCases("models")),
                         [](const auto& info) { return testing::CaseName(info.param); });

}  // namespace
}  // namespace strata::model
