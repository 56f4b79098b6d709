// Loss of a model on rows, without training.
#ifndef STRATA_CLIENT_TRAIN_EVALUATION_H_
#define STRATA_CLIENT_TRAIN_EVALUATION_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "client/data/dataset.h"
#include "client/model/transformer.h"

namespace strata::train {

struct RowLoss {
  double nll = 0;      // sum over the row's supervised tokens, natural log
  int64_t tokens = 0;  // supervised tokens
};

struct EvaluationResult {
  std::vector<RowLoss> rows;  // as given
  int64_t tokens = 0;         // sum over rows
  double loss = 0;            // mean nll per supervised token; 0 without any
};

// `keep_going` is asked before each micro-batch; false: CANCELLED.
absl::StatusOr<EvaluationResult> EvaluateRows(model::Transformer& model, const data::Rows& rows,
                                              const std::function<bool()>& keep_going);

}  // namespace strata::train

#endif  // STRATA_CLIENT_TRAIN_EVALUATION_H_
