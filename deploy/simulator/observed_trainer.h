// A trainer that tells what it does.
#ifndef STRATA_DEPLOY_SIMULATOR_OBSERVED_TRAINER_H_
#define STRATA_DEPLOY_SIMULATOR_OBSERVED_TRAINER_H_

#include <functional>
#include <string>
#include <utility>

#include "client/train/local_trainer.h"

namespace strata::sim {

// Passes every call on. `on_step` gets each optimiser step with the site's name, `on_failure` each error but CANCELLED;
// both on the thread that trains, either may be empty.
class ObservedTrainer : public train::LocalTrainer {
 public:
  using OnStep = std::function<void(const std::string& site, const train::TrainProgress& step)>;
  using OnFailure = std::function<void(const absl::Status& status)>;

  // `trainer` is borrowed.
  ObservedTrainer(train::LocalTrainer& trainer, OnStep on_step, OnFailure on_failure)
      : trainer_(trainer), on_step_(std::move(on_step)), on_failure_(std::move(on_failure)) {}

  absl::StatusOr<train::TrainResult> Run(const train::TrainRequest& request,
                                         const std::function<bool(const train::TrainProgress&)>& on_progress) override {
    auto result = trainer_.Run(request, [&](const train::TrainProgress& step) {
      if (on_step_) on_step_(request.site, step);
      return on_progress == nullptr || on_progress(step);
    });
    if (!result.ok() && !absl::IsCancelled(result.status()) && on_failure_) on_failure_(result.status());
    return result;
  }

 private:
  train::LocalTrainer& trainer_;
  OnStep on_step_;
  OnFailure on_failure_;
};

}  // namespace strata::sim

#endif  // STRATA_DEPLOY_SIMULATOR_OBSERVED_TRAINER_H_
