#include "client/train/choices.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <utility>

#include "client/data/dataset.h"
#include "client/train/micro_batches.h"
#include "common/status/status_macros.h"

namespace strata::train {
namespace {

using Questions = std::span<const data::ChoiceRow>;

// Of the choices of every question, one after another.
absl::StatusOr<std::vector<double>> LogLikelihoods(model::Transformer& model, Questions questions) {
  // The question's last token says how likely the first one of a choice is: it stands before each of them.
  int64_t capacity = 0;
  std::vector<model::Continuation> begun, choices;
  for (size_t i = 0; i < questions.size(); ++i) {
    const std::vector<int32_t>& question = questions[i].question;
    if (question.size() > 1) begun.push_back({i, {question.begin(), question.end() - 1}});
    for (const data::ChoiceRow::Choice& choice : questions[i].choices) {
      model::Continuation& c = choices.emplace_back(model::Continuation{i, {question.back()}});
      c.ids.insert(c.ids.end(), choice.ids.begin(), choice.ids.end());
      capacity = std::max(capacity, static_cast<int64_t>(question.size() + choice.ids.size()));
    }
  }
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<model::KvCache> cache,
                          model.NewCache({.num_sequences = questions.size(), .capacity = capacity}));
  if (!begun.empty()) STRATA_RETURN_IF_ERROR(model.Continue(begun, *cache).status());
  STRATA_ASSIGN_OR_RETURN(std::vector<double> scores, model.EvaluateBehind(choices, *cache));
  for (double& score : scores) score = -score;
  return scores;
}

// Beyond the original context the dynamic scaling turns every key by the length of the whole row.
bool DependsOnLength(const model::RopeConfig& rope, const data::ChoiceRow& row) {
  if (!rope.depends_on_length()) return false;
  size_t longest = 0;
  for (const data::ChoiceRow::Choice& choice : row.choices) longest = std::max(longest, choice.ids.size());
  return std::cmp_greater(row.question.size() + longest, rope.original_max_positions);
}

// Every choice behind its question in a pass of its own.
absl::StatusOr<std::vector<double>> LogLikelihoodsOfWholeRows(model::Transformer& model, const data::ChoiceRow& row) {
  std::vector<double> scores;
  for (const data::ChoiceRow::Choice& choice : row.choices) {
    std::vector<data::Example> whole(1);
    whole[0].ids = row.question;
    whole[0].ids.insert(whole[0].ids.end(), choice.ids.begin(), choice.ids.end());
    whole[0].labels = whole[0].ids;
    std::fill_n(whole[0].labels.begin(), row.question.size(), data::kIgnored);
    STRATA_ASSIGN_OR_RETURN(const std::vector<double> nll, model.Evaluate(data::Pack(data::Pointers(whole))));
    scores.push_back(-nll[0]);
  }
  return scores;
}

size_t NumTokens(const data::ChoiceRow& row) {
  size_t tokens = row.question.size();
  for (const data::ChoiceRow::Choice& choice : row.choices) tokens += choice.ids.size() + 1;
  return tokens;
}

size_t IndexOfHighest(const std::vector<double>& values) {
  return static_cast<size_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

ScoredRow Choose(const data::ChoiceRow& row, std::vector<double> log_likelihoods) {
  ScoredRow out{.log_likelihoods = std::move(log_likelihoods)};
  out.chosen = IndexOfHighest(out.log_likelihoods);
  std::vector<double> normalized = out.log_likelihoods;
  for (size_t i = 0; i < normalized.size(); ++i) {
    normalized[i] /= static_cast<double>(row.choices[i].num_characters);
  }
  out.chosen_normalized = IndexOfHighest(normalized);
  return out;
}

}  // namespace

Share ShareOf(uint64_t successes, uint64_t trials) {
  constexpr double kZ = 1.959963984540054;  // the normal distribution's 97.5 % quantile
  const auto n = static_cast<double>(trials);
  const double p = static_cast<double>(successes) / n;
  const double centre = p + kZ * kZ / (2 * n);
  const double spread = kZ * std::sqrt(p * (1 - p) / n + kZ * kZ / (4 * n * n));
  const double scale = 1 + kZ * kZ / n;
  // At the ends the two terms are equal but for rounding.
  return {.value = p,
          .low = successes == 0 ? 0 : (centre - spread) / scale,
          .high = successes == trials ? 1 : (centre + spread) / scale};
}

absl::StatusOr<ChoiceResult> ScoreChoices(model::Transformer& model, const std::vector<data::ChoiceRow>& rows,
                                          const std::function<bool()>& keep_going) {
  ChoiceResult result;
  uint64_t right = 0, right_normalized = 0;
  const model::RopeConfig& rope = model.config().rope;
  for (size_t first = 0, last = 0; first < rows.size(); first = last) {
    if (!keep_going()) return absl::CancelledError("the evaluation was stopped");
    for (size_t tokens = 0; last < rows.size(); ++last) {
      tokens += NumTokens(rows[last]);
      if (last > first &&
          (tokens > kMicroBatchTokens || DependsOnLength(rope, rows[first]) || DependsOnLength(rope, rows[last])))
        break;
    }
    const Questions part = Questions(rows).subspan(first, last - first);
    STRATA_ASSIGN_OR_RETURN(const std::vector<double> scores, DependsOnLength(rope, part.front())
                                                                  ? LogLikelihoodsOfWholeRows(model, part.front())
                                                                  : LogLikelihoods(model, part));
    auto next = scores.begin();
    for (const data::ChoiceRow& row : part) {
      const auto end = next + static_cast<std::ptrdiff_t>(row.choices.size());
      const ScoredRow& scored = result.rows.emplace_back(Choose(row, {next, end}));
      next = end;
      right += scored.chosen == row.answer ? 1 : 0;
      right_normalized += scored.chosen_normalized == row.answer ? 1 : 0;
    }
  }
  result.accuracy = ShareOf(right, rows.size());
  result.accuracy_normalized = ShareOf(right_normalized, rows.size());
  return result;
}

}  // namespace strata::train
