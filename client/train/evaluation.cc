#include "client/train/evaluation.h"

#include <utility>
#include <vector>

#include "client/train/micro_batches.h"
#include "common/status/status_macros.h"

namespace strata::train {

absl::StatusOr<EvaluationResult> EvaluateRows(model::Transformer& model, const data::Rows& rows,
                                              const std::function<bool()>& keep_going) {
  EvaluationResult result;
  double total = 0;
  for (size_t next = 0; next < rows.size();) {
    if (keep_going && !keep_going()) return absl::CancelledError("the evaluation was stopped");
    std::vector<data::Example> part;
    for (size_t tokens = 0; next < rows.size(); ++next) {
      data::Example row = rows[next];
      tokens += row.ids.size();
      if (!part.empty() && tokens > kMicroBatchTokens) break;
      part.push_back(std::move(row));
    }
    STRATA_ASSIGN_OR_RETURN(const std::vector<double> sums, model.Evaluate(data::Pack(data::Pointers(part))));
    for (size_t i = 0; i < part.size(); ++i) {
      result.rows.push_back({.nll = sums[i], .tokens = part[i].num_targets()});
      result.tokens += result.rows.back().tokens;
      total += sums[i];
    }
  }
  if (result.tokens > 0) result.loss = total / static_cast<double>(result.tokens);
  return result;
}

}  // namespace strata::train
