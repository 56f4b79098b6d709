// The trainer of this project: LoRA on a base model over LibTorch.
#ifndef STRATA_CLIENT_TRAIN_NATIVE_TRAINER_H_
#define STRATA_CLIENT_TRAIN_NATIVE_TRAINER_H_

#include <memory>
#include <string>

#include "client/train/loaded_model.h"
#include "client/train/local_trainer.h"
#include "common/config/options.h"
#include "common/runtime/clock.h"
#include "common/runtime/file_system.h"

namespace strata::train {

// Keeps the base model in memory between runs: several runs, also of different sites, share one copy. A run with a name
// keeps checkpoints in work_directory/checkpoint and goes on from the latest; those of another run are removed. What
// happens beside the steps is logged. Besides LocalTrainer's errors: FAILED_PRECONDITION: the device cannot be used;
// OUT_OF_RANGE: see RunTraining. Same request, machine and thread count: same bytes.
class NativeTrainer : public LocalTrainer {
 public:
  struct Options {
    std::string device;  // the site's; empty or "auto": the request's
    int threads = 0;     // 0: all cores
  };
  // `files` and `clock` are borrowed.
  NativeTrainer(runtime::FileSystem& files, const runtime::Clock& clock, Options options)
      : options_(std::move(options)), files_(files), clock_(clock), models_(files, options_.threads) {}

  absl::StatusOr<TrainResult> Run(const TrainRequest& request,
                                  const std::function<bool(const TrainProgress&)>& on_progress) override;

 private:
  absl::StatusOr<TrainResult> RunOnModel(const TrainRequest& request,
                                         const std::function<bool(const TrainProgress&)>& on_progress);

  Options options_;
  runtime::FileSystem& files_;
  const runtime::Clock& clock_;
  ModelCache models_;
};

// As a client's configuration says; on the machine's own clock.
std::unique_ptr<LocalTrainer> MakeNativeTrainer(runtime::FileSystem& files, const config::ClientOptions& options);

}  // namespace strata::train

#endif  // STRATA_CLIENT_TRAIN_NATIVE_TRAINER_H_
