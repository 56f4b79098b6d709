// The steps of one training run: rows in order, forward and backward, clipping, AdamW.
#ifndef STRATA_CLIENT_TRAIN_TRAINING_LOOP_H_
#define STRATA_CLIENT_TRAIN_TRAINING_LOOP_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/data/dataset.h"
#include "client/model/transformer.h"
#include "client/peft/adapter_state.h"
#include "client/train/local_trainer.h"
#include "common/config/options.h"
#include "common/runtime/clock.h"

namespace strata::train {

struct LoopSummary {
  double first_loss = 0, last_loss = 0;
  uint64_t steps = 0, tokens = 0;
  double tokens_per_second = 0;  // median over the steps after the first; of the first when it is the only one
  double seconds = 0;
};

struct LoopContext {
  model::Transformer& model;
  peft::AdapterState& state;  // attached to the model by Run
  const runtime::Clock& clock;
  uint64_t seed = 0, round = 0;  // key the order of rows and the dropout, with `site`
  std::string site;
};

// Steps that `options` and the number of rows come to.
uint32_t NumSteps(const config::TrainOptions& options, size_t num_rows);

// Trains `state` on `rows`. The loss of a step is the mean over its supervised tokens. `on_progress` is called after
// each step; false stops: CANCELLED. INVALID_ARGUMENT: no rows. OUT_OF_RANGE: the loss is no longer finite (names the
// step).
absl::StatusOr<LoopSummary> RunTraining(const LoopContext& context, const config::TrainOptions& options,
                                        const data::Rows& rows,
                                        const std::function<bool(const TrainProgress&)>& on_progress);

}  // namespace strata::train

#endif  // STRATA_CLIENT_TRAIN_TRAINING_LOOP_H_
