#include "client/training_processes.h"

#include <utility>

#include "common/runtime/process.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata {
namespace {

absl::Status EndOf(const absl::StatusOr<int>& code) {
  if (!code.ok()) return code.status();
  return *code == 0 ? absl::OkStatus() : absl::AbortedError(Cat("it ended with exit code ", *code));
}

}  // namespace

absl::StatusOr<std::unique_ptr<TrainingProcesses>> TrainingProcesses::Gather(
    runtime::FileSystem& files, const train::Replicas::Place& place, const std::vector<std::string>& arguments) {
  std::unique_ptr<TrainingProcesses> gathered(new TrainingProcesses(files, place));
  if (place.rank == 0) STRATA_RETURN_IF_ERROR(gathered->Start(arguments));
  auto replicas = train::Replicas::Join(place);
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
      const absl::Status end = EndOf(runtime::RunCommand(command));
      if (wanted_) ends_[static_cast<size_t>(rank) - 1] = end;
    });
  }
  return absl::OkStatus();
}

absl::Status TrainingProcesses::End() {
  wanted_ = false;
  replicas_.reset();
  if (executor_ != nullptr) {
    executor_.reset();  // joins
    (void)files_.RemoveAll(place_.folder);
  }
  for (size_t i = 0; i < ends_.size(); ++i) {
    if (!ends_[i].ok())
      return absl::AbortedError(Cat("process ", i + 2, " of ", place_.size, ": ", ends_[i].message()));
  }
  return absl::OkStatus();
}

absl::Status TrainingProcesses::Explain(const absl::Status& status) {
  if (!absl::IsUnavailable(status)) return status;
  const absl::Status other = End();
  return other.ok() ? status : absl::Status(status.code(), Cat(status.message(), "\n", other.message()));
}

}  // namespace strata
