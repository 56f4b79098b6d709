// Shares with their intervals, and questions scored together or one by one.
#include "client/train/choices.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "tests/client/model/golden_batch.h"
#include "tests/client/model/test_device.h"
#include "tests/testing/golden.h"
#include "tests/testing/status_matchers.h"

namespace strata::train {
namespace {

// scipy 1.17: binomtest(k, n).proportion_ci(0.95, "wilson").
TEST(ShareOf, IsWilsons) {
  const Share half = ShareOf(5, 10);
  EXPECT_DOUBLE_EQ(half.value, 0.5);
  EXPECT_NEAR(half.low, 0.2365930905, 1e-9);
  EXPECT_NEAR(half.high, 0.7634069095, 1e-9);
  const Share most = ShareOf(81, 263);
  EXPECT_NEAR(most.low, 0.2552885199, 1e-9);
  EXPECT_NEAR(most.high, 0.3662095770, 1e-9);
  const Share none = ShareOf(0, 10);
  EXPECT_EQ(none.low, 0);
  EXPECT_NEAR(none.high, 0.2775327999, 1e-9);
  const Share all = ShareOf(10, 10);
  EXPECT_NEAR(all.low, 0.7224672001, 1e-9);
  EXPECT_EQ(all.high, 1);
}

class ChoicesGolden : public ::testing::TestWithParam<std::string> {};

data::ChoiceRow Question(std::vector<int32_t> question, const std::vector<std::vector<int32_t>>& choices) {
  data::ChoiceRow row{.question = std::move(question), .choices = {}, .answer = 0};
  for (const auto& ids : choices) row.choices.push_back({.ids = ids, .num_characters = 4 * ids.size()});
  return row;
}

TEST_P(ChoicesGolden, LogLikelihoodsAreThoseOfWholeRows) {
  auto files = model::ModelFiles::Open(testing::Files(), GetParam());
  ASSERT_THAT(files, testing::IsOk());
  ASSERT_OK_AND_ASSIGN(const auto model, model::Transformer::Load(*std::move(files), config::ComputeDType::kFp32,
                                                                  testing::TestDevice(), 1));
  std::vector<int32_t> text;  // longer than the models' windows; where the length matters, than the original context
  const model::RopeConfig& rope = model->config().rope;
  const int64_t length = rope.depends_on_length() ? rope.original_max_positions + 5 : 24;
  for (int32_t i = 0; i < length; ++i) text.push_back(3 + i * 5 % 31);
  const std::vector<data::ChoiceRow> rows = {Question(text, {{5}, {6, 7, 8}, {5, 9}}), Question({4}, {{4}, {1, 2}}),
                                             Question({text.begin(), text.begin() + 2}, {{9, 9, 9}, {8}})};
  ASSERT_OK_AND_ASSIGN(const ChoiceResult result, ScoreChoices(*model, rows, [] { return true; }));
  uint64_t right = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    size_t best = 0, best_normalized = 0;
    std::vector<double> sums;
    for (const auto& choice : rows[i].choices) {
      data::Example whole;
      whole.ids = rows[i].question;
      whole.ids.insert(whole.ids.end(), choice.ids.begin(), choice.ids.end());
      whole.labels = whole.ids;
      std::fill_n(whole.labels.begin(), rows[i].question.size(), data::kIgnored);
      ASSERT_OK_AND_ASSIGN(const std::vector<double> nll, model->Evaluate(testing::PackRows({whole})));
      sums.push_back(-nll[0]);
      const size_t c = sums.size() - 1;
      EXPECT_NEAR(result.rows[i].log_likelihoods[c], sums[c], 5e-5 * static_cast<double>(choice.ids.size()));
      const auto mean = [&](size_t k) { return sums[k] / static_cast<double>(rows[i].choices[k].ids.size()); };
      if (sums[c] > sums[best]) best = c;
      if (mean(c) > mean(best_normalized)) best_normalized = c;
    }
    EXPECT_EQ(result.rows[i].chosen, best);
    EXPECT_EQ(result.rows[i].chosen_normalized, best_normalized);
    right += best == 0 ? 1 : 0;
  }
  EXPECT_DOUBLE_EQ(result.accuracy.value, static_cast<double>(right) / 3);
  EXPECT_THAT(ScoreChoices(*model, rows, [] { return false; }), testing::StatusIs(absl::StatusCode::kCancelled));
}

INSTANTIATE_TEST_SUITE_P(Models, ChoicesGolden, ::testing::ValuesIn(testing::GoldenCases("models")),
                         [](const auto& info) { return testing::CaseName(info.param); });

}  // namespace
}  // namespace strata::train
