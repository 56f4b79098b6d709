// The steps of one training run: rows in order, forward and backward, clipping, AdamW.
#ifndef STRATA_CLIENT_TRAIN_TRAINING_LOOP_H_
#define STRATA_CLIENT_TRAIN_TRAINING_LOOP_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "client/data/dataset.h"
#include "client/model/transformer.h"
#include "client/peft/adapter_state.h"
#include "client/train/checkpoint.h"
#include "client/train/local_trainer.h"
#include "client/train/memory_plan.h"
#include "client/train/replicas.h"
#include "common/config/options.h"
#include "common/runtime/clock.h"

namespace strata::train {

struct LoopSummary {
  RunPosition position;  // at the end; with what earlier processes did of the run
  // Median over this process's steps after its first; of the first when it is the only one.
  double tokens_per_second = 0;
};

// Something that happened beside the steps.
struct TrainNote {
  enum class Kind { kResumed, kNonFinite, kCheckpointDamaged, kCheckpointFailed, kFitted };
  Kind kind = Kind::kResumed;
  uint64_t step = 0;   // counted from 1; of kResumed: the last one that is done
  std::string detail;  // one sentence, without the step
};
// "resumed", "non_finite", "checkpoint_damaged", "checkpoint_failed", "fitted".
std::string_view NoteWord(TrainNote::Kind kind);

struct LoopContext {
  model::Transformer& model;
  peft::AdapterState& state;  // attached to the model by Run
  const runtime::Clock& clock;
  uint64_t seed = 0, round = 0;  // key the order of rows and the dropout, with `site`
  std::string site;
  CheckpointStore* checkpoints = nullptr;  // null: none are kept
  const SavedRun* resume = nullptr;        // where to go on; null: from the start, with `state` as it is
  StepShape shape = {};
  std::function<void(const TrainNote&)> on_note = {};
  // The processes that share each step's rows; null: this one has them all.
  Replicas* replicas = nullptr;
};

inline constexpr int kMostHalvings = 20;  // of the learning rate, in one run

// What was chosen for options.max_memory, for people.
TrainNote FittedNote(const StepShape& shape, const config::Precision& precision);

// Steps that `options` and the number of rows come to.
uint32_t NumSteps(const config::TrainOptions& options, size_t num_rows);

// Trains `state` on `rows`. A step takes batch_size * gradient_accumulation_steps rows; its loss is the mean over its
// supervised tokens. `on_progress` is called after each step; false stops: CANCELLED, at all replicas after the same
// step.
// A step whose loss or gradient is not finite changes nothing; what comes then is options.on_non_finite:
//   stop         OUT_OF_RANGE
//   skip         the next step; OUT_OF_RANGE when there was not one update
//   halve_scale  the update before is taken back and that step done again with half the learning rate, which stays
//                halved; OUT_OF_RANGE where there is none to take back, or after kMostHalvings
// INVALID_ARGUMENT: no rows. DATA_LOSS: the checkpoint's factors are not those of `state`.
absl::StatusOr<LoopSummary> RunTraining(const LoopContext& context, const config::TrainOptions& options,
                                        const data::Rows& rows,
                                        const std::function<bool(const TrainProgress&)>& on_progress);

}  // namespace strata::train

#endif  // STRATA_CLIENT_TRAIN_TRAINING_LOOP_H_
