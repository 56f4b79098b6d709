// A LocalTrainer that runs the site's own program.
//
//   PROGRAM... --model M --data F --out DIR --config train.yaml --format json [--threads N] [--base-adapter DIR]
//              [--eval-data F [--eval-only]]
//
// The arguments are those of `strata-client train` and three more. --base-adapter: C_t as one PEFT directory, applied
// frozen beneath the fresh adapter. --eval-data: held-out rows that the job wants scored with C_t before the training
// and, with the new adapter too, after it. --eval-only: score, train nothing, write nothing. train.yaml holds the
// job's training options with the server's targets as full module names, ranks and alphas. F is what the site's
// configuration says: a file, a folder or a pattern (client/data/row_files.h).
//
// The program writes a PEFT directory of the fresh adapter alone to DIR and, on standard output, JSON lines: one a
// step,
// {"step","loss","grad_norm","learning_rate","tokens"}; one an evaluation, {"eval":"before"|"after","loss","tokens"};
// last {"done":true,"tokens_per_second","seconds"[,"num_examples"]}. Other lines are ignored. Exit code 0.
#ifndef STRATA_CLIENT_TRAIN_COMMAND_TRAINER_H_
#define STRATA_CLIENT_TRAIN_COMMAND_TRAINER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/train/local_trainer.h"
#include "common/runtime/file_system.h"

namespace strata::train {

class CommandTrainer : public LocalTrainer {
 public:
  // `files` is borrowed. `threads`: passed on when not 0.
  CommandTrainer(runtime::FileSystem& files, std::vector<std::string> command, uint32_t threads)
      : files_(files), command_(std::move(command)), threads_(threads) {}

  // Besides LocalTrainer's: UNIMPLEMENTED for start = warm; INTERNAL for an exit code other than 0 or a missing result;
  // INVALID_ARGUMENT for a written adapter that does not fit the targets. Without `holdout` nothing is evaluated.
  // Everything below work_directory/command is replaced.
  absl::StatusOr<TrainResult> Run(const TrainRequest& request,
                                  const std::function<bool(const TrainProgress&)>& on_progress) override;

 private:
  struct Files;
  struct Report;
  absl::StatusOr<Files> Prepare(const TrainRequest& request);
  std::vector<std::string> Arguments(const TrainRequest& request, const Files& files) const;
  absl::StatusOr<Report> Execute(std::vector<std::string> arguments, const TrainRequest& request,
                                 const std::function<bool(const TrainProgress&)>& on_progress) const;
  absl::StatusOr<std::unique_ptr<adapter::Adapter>> ReadUpdate(const TrainRequest& request, const Files& files);

  runtime::FileSystem& files_;
  std::vector<std::string> command_;
  uint32_t threads_;
};

// The list of adapters as one: dW = sum of their dWs, ranks added up, scaling 1, fp32. Exact but for the rounding of
// scaling * B where a scaling is not 1.
absl::StatusOr<adapter::Adapter> Concatenate(const std::vector<std::shared_ptr<const adapter::Adapter>>& adapters);

// The targets as PEFT's options: full names, the most frequent rank and alpha, the others as patterns.
config::AdapterOptions OptionsForTargets(const std::vector<Target>& targets, const config::AdapterOptions& job);

}  // namespace strata::train

#endif  // STRATA_CLIENT_TRAIN_COMMAND_TRAINER_H_
