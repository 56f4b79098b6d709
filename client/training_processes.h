// The processes of one `strata-client train`: the first starts the others with its own arguments.
#ifndef STRATA_CLIENT_TRAINING_PROCESSES_H_
#define STRATA_CLIENT_TRAINING_PROCESSES_H_

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/train/gloo_replicas.h"
#include "client/train/nccl_replicas.h"
#include "common/runtime/file_system.h"
#include "common/runtime/system_executor.h"

namespace strata {

class TrainingProcesses {
 public:
  // Blocks until all have met in place.folder. The first makes that folder anew, and starts the others: this program
  // with `arguments` and --worker RANK, without standard input and output. `files` is borrowed.
  // UNAVAILABLE: they did not meet.
  static absl::StatusOr<std::unique_ptr<TrainingProcesses>> Gather(runtime::FileSystem& files,
                                                                   const train::ReplicaPlace& place,
                                                                   const std::vector<std::string>& arguments);
  // Ends those that this one started and that still run, and removes the folder.
  ~TrainingProcesses() { End(); }
  TrainingProcesses(const TrainingProcesses&) = delete;
  TrainingProcesses& operator=(const TrainingProcesses&) = delete;

  train::Replicas& replicas() { return *replicas_; }
  // They sum up on their devices, this one on `device`; nothing for the CPU. Errors of train::MeetOnDevice.
  absl::Status MoveTo(at::Device device);
  // `status`, of what they did together; where the others were lost, with how they ended. They all have ended then.
  absl::Status Explain(const absl::Status& status);

 private:
  TrainingProcesses(runtime::FileSystem& files, train::ReplicaPlace place) : files_(files), place_(std::move(place)) {}
  absl::Status Start(const std::vector<std::string>& arguments);
  void End();

  runtime::FileSystem& files_;
  train::ReplicaPlace place_;
  std::unique_ptr<train::Replicas> replicas_;
  std::atomic<bool> wanted_ = true;
  std::vector<std::string> ends_;  // how the others ended other than well, once the executor has joined
  std::unique_ptr<runtime::SystemExecutor> executor_;
};

}  // namespace strata

#endif  // STRATA_CLIENT_TRAINING_PROCESSES_H_
