#include "client/training_processes.h"

#include <utility>

#include "common/runtime/process.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata {
namespace {

// Empty: well, or as it was asked to.
std::string EndOf(const absl::StatusOr<int>& code) {
  if (!code.ok()) return absl::IsCancelled(code.status()) ? "" : std::string(code.status().message());
  return *code == 0 ? "" : Cat("exit code ", *code);
}

}  // namespace

absl::StatusOr<std::unique_ptr<TrainingProcesses>> TrainingProcesses::Gather(
    runtime::FileSystem& files, const train::ReplicaPlace& place, const std::vector<std::string>& arguments) {
  std::unique_ptr<TrainingProcesses> gathered(new TrainingProcesses(files, place));
  if (place.rank == 0) STRATA_RETURN_IF_ERROR(gathered->Start(arguments));
  auto replicas = train::JoinReplicas(place);
  if (!replicas.ok()) return gathered->Explain(replicas.status());
  gathered->replicas_ = *std::move(replicas);
  return gathered;
}

absl::Status TrainingProcesses::Start(const std::vector<std::string>& arguments) {
  STRATA_RETURN_IF_ERROR(files_.RemoveAll(place_.folder));
  STRATA_RETURN_IF_ERROR(files_.MakeDirectories(place_.folder));
  const int others = place_.size - 1;
  ends_.resize(static_cast<size_t>(others));
  executor_ = std::make_unique<runtime::SystemExecutor>(others);
  for (int rank = 1; rank <= others; ++rank) {
    runtime::Command command{
        .argv = {"/proc/self/exe"}, .on_line = {}, .keep_going = [this] { return wanted_.load(); }};
    command.argv.insert(command.argv.end(), arguments.begin(), arguments.end());
    command.argv.insert(command.argv.end(), {"--worker", Cat(rank)});
    executor_->Run([this, rank, command = std::move(command)] {
      ends_[static_cast<size_t>(rank) - 1] = EndOf(runtime::RunCommand(command));
    });
  }
  return absl::OkStatus();
}

absl::Status TrainingProcesses::MoveTo(at::Device device) {
  if (device.is_cpu()) return absl::OkStatus();
  auto moved = train::MeetOnDevice(std::move(replicas_), device);
  if (!moved.ok()) return Explain(moved.status());
  replicas_ = *std::move(moved);
  return absl::OkStatus();
}

void TrainingProcesses::End() {
  wanted_ = false;
  replicas_.reset();
  if (executor_ == nullptr) return;
  executor_.reset();  // joins
  (void)files_.RemoveAll(place_.folder);
}

absl::Status TrainingProcesses::Explain(const absl::Status& status) {
  if (!absl::IsUnavailable(status)) return status;
  End();
  std::string message(status.message());
  for (size_t i = 0; i < ends_.size(); ++i) {
    if (!ends_[i].empty()) message += Cat("\nprocess ", i + 2, " of ", place_.size, ": ", ends_[i]);
  }
  return {status.code(), message};
}

}  // namespace strata
