#include "client/train/evaluation.h"

#include "client/train/micro_batches.h"
#include "common/status/status_macros.h"

namespace strata::train {

absl::StatusOr<EvaluationResult> EvaluateRows(model::Transformer& model, const std::vector<data::Example>& rows,
                                              const std::function<bool()>& keep_going) {
  std::vector<const data::Example*> pointers;
  for (const data::Example& row : rows) pointers.push_back(&row);
  EvaluationResult result;
  double total = 0;
  for (const auto& [first, last] : MicroBatches(pointers, {.pack = true})) {
    if (keep_going && !keep_going()) return absl::CancelledError("the evaluation was stopped");
    const std::vector<const data::Example*> part(pointers.begin() + static_cast<std::ptrdiff_t>(first),
                                                 pointers.begin() + static_cast<std::ptrdiff_t>(last));
    STRATA_ASSIGN_OR_RETURN(const std::vector<double> sums, model.Evaluate(data::Pack(part)));
    for (size_t i = 0; i < part.size(); ++i) {
      result.rows.push_back({.nll = sums[i], .tokens = part[i]->num_targets()});
      result.tokens += result.rows.back().tokens;
      total += sums[i];
    }
  }
  if (result.tokens > 0) result.loss = total / static_cast<double>(result.tokens);
  return result;
}

}  // namespace strata::train
