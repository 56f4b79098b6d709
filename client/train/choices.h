// Multiple choice: whether a model finds the right way to go on from a question the likeliest.
#ifndef STRATA_CLIENT_TRAIN_CHOICES_H_
#define STRATA_CLIENT_TRAIN_CHOICES_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "client/data/choices.h"
#include "client/model/transformer.h"

namespace strata::train {

// A share of trials with its 95 % interval, in [0, 1].
struct Share {
  double value = 0;
  double low = 0, high = 1;
};
// The interval is Wilson's (1927), which holds for few trials and for shares near 0 and 1. REQUIRES: trials > 0.
Share ShareOf(uint64_t successes, uint64_t trials);

struct ScoredRow {
  std::vector<double> log_likelihoods;  // of each choice: the sum over its tokens, natural log
  size_t chosen = 0;                    // the likeliest, the first of equals
  size_t chosen_normalized = 0;         // by log-likelihood per character of the choice's text
};

struct ChoiceResult {
  std::vector<ScoredRow> rows;  // as given
  Share accuracy, accuracy_normalized;
};

// A question goes through the model once, its choices together behind it; under the dynamic rotary scaling, beyond the
// original context, once with each. `keep_going` is asked before each batch of questions; false: CANCELLED. Else errors
// of the transformer. REQUIRES: rows are not empty.
absl::StatusOr<ChoiceResult> ScoreChoices(model::Transformer& model, const std::vector<data::ChoiceRow>& rows,
                                          const std::function<bool()>& keep_going);

}  // namespace strata::train

#endif  // STRATA_CLIENT_TRAIN_CHOICES_H_
