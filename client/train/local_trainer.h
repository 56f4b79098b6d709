// What the client's session needs of a trainer: one assignment in, one update out. Native (LibTorch), command (a site's
// own program), fake (tests).
#ifndef STRATA_CLIENT_TRAIN_LOCAL_TRAINER_H_
#define STRATA_CLIENT_TRAIN_LOCAL_TRAINER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/adapter/adapter.h"
#include "common/adapter/manifest.h"
#include "common/config/options.h"

namespace strata::train {

// A module to adapt, resolved by the server.
struct Target {
  std::string module;
  int64_t out = 0, in = 0, rank = 0;
  double alpha = 0, scaling = 1;
  bool use_dora = false;  // with a trained magnitude
};

struct TrainRequest {
  std::string model_path;  // from this site's config, never from the server
  std::string data_path;
  config::TrainOptions options;
  std::vector<Target> targets;
  std::vector<std::shared_ptr<const adapter::Adapter>> base;  // C_t as its list of blobs, oldest first; frozen
  config::Start start = config::Start::kFresh;
  uint64_t seed = 0, round = 0;
  std::string site;
  double holdout = 0;
  bool evaluate_before = false, evaluate_after = false;
  bool train = true;           // false: evaluate only
  std::string work_directory;  // for the trainer's files: a command's, the native trainer's checkpoints
  // Names this very run (the assignment's id): a trainer goes on from what an earlier process left of it in
  // work_directory. Empty: nothing is kept.
  std::string run;
};

struct TrainProgress {
  uint32_t step = 0, of = 0;
  double loss = 0, grad_norm = 0, learning_rate = 0;
  uint64_t tokens = 0;
  double tokens_per_second = 0;
};

struct TrainResult {
  std::unique_ptr<adapter::Adapter>
      update;                 // null for evaluate-only; fp32 factors (for `warm`: the increment as a rank-2r pair)
  uint64_t num_examples = 0;  // training rows held after filtering and splitting
  std::vector<adapter::Metric> metrics;  // loss_before, loss_after (held out), heldout_tokens, train_loss_first,
                                         // train_loss_last, tokens_per_second, tokens, seconds
};

// Not thread-safe: one call at a time. Blocks.
class LocalTrainer {
 public:
  virtual ~LocalTrainer() = default;
  // `on_progress` is called after each step; false stops the training (CANCELLED). Other errors: NOT_FOUND and
  // INVALID_ARGUMENT for the model, the data or a target that does not fit; RESOURCE_EXHAUSTED: memory.
  virtual absl::StatusOr<TrainResult> Run(const TrainRequest& request,
                                          const std::function<bool(const TrainProgress&)>& on_progress) = 0;
};

}  // namespace strata::train

#endif  // STRATA_CLIENT_TRAIN_LOCAL_TRAINER_H_
