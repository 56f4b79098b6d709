// What the subcommands that compute share: stopping on Ctrl-C, and adapters named on the command line.
#ifndef STRATA_CLIENT_COMMAND_RUNTIME_H_
#define STRATA_CLIENT_COMMAND_RUNTIME_H_

#include <atomic>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/model/transformer.h"
#include "client/train/local_trainer.h"
#include "common/config/options.h"
#include "common/runtime/runtime.h"

namespace strata {

// Watches for SIGINT and SIGTERM on a thread of its runtime. Construct before anything computes. A second signal ends
// the process at once.
class Interruptible {
 public:
  Interruptible();
  ~Interruptible();
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;
  runtime::Runtime runtime() { return system_.get(); }
  bool stopped() const { return signal_ != 0; }
  // What a shell expects of a command that ends by a signal: 128 + its number. 0: none came.
  int exit_code() const { return signal_ == 0 ? 0 : 128 + signal_; }

 private:
  void Watch();
  std::atomic<int> signal_ = 0;
  std::atomic<bool> finished_ = false;
  runtime::SystemRuntime system_;
};

// The factors of PEFT directories, one after another, on the model's device: what they add up to. Errors of
// adapter::ReadPeftFor, naming the directory.
absl::StatusOr<std::vector<model::NamedFactors>> ReadFrozen(runtime::FileSystem& files,
                                                            const std::vector<std::string>& directories,
                                                            const model::Transformer& model);

// What ReadFrozen finds there, module by module. Its errors, and INVALID_ARGUMENT where they do not fit `modules`.
absl::StatusOr<std::vector<train::Target>> PlanFrozen(runtime::FileSystem& files,
                                                      const std::vector<std::string>& directories,
                                                      const std::vector<config::ModuleShape>& modules);

// Says on standard error which names of target_modules no module of the model has, though others do.
void NoteIdleTargets(const config::AdapterOptions& options, const std::vector<config::ModuleShape>& modules);

// train.yaml from a file, from standard input (-), or the defaults (no path). Faults: INVALID_ARGUMENT.
absl::StatusOr<config::TrainOptions> ReadTrainOptions(runtime::FileSystem& files, const std::string& path);

// Puts the words of --dtype and --base-dtype (empty: not given) over what `options` say. INVALID_ARGUMENT: the two
// contradict each other or the device.
absl::Status SetPrecision(const std::string& dtype, const std::string& base_dtype, config::TrainOptions& options);
// The same for a command without other options.
absl::StatusOr<config::Precision> PrecisionOf(const std::string& dtype, const std::string& base_dtype,
                                              const std::string& device);

}  // namespace strata

#endif  // STRATA_CLIENT_COMMAND_RUNTIME_H_
