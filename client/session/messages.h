// What goes into and comes out of a ClientSession: events and actions as plain data.
#ifndef STRATA_CLIENT_SESSION_MESSAGES_H_
#define STRATA_CLIENT_SESSION_MESSAGES_H_

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/link/federation_link.h"
#include "client/train/local_trainer.h"

namespace strata::session {

enum class Timer {
  kRetry,     // the step that failed, or the next check-in
  kProgress,  // the next progress report
  kCall,      // a short call without an answer
};
inline constexpr int kNumTimers = 3;

// ---- Events. `call` is the number of the action that an answer belongs to; answers to older calls are ignored.

// The daemon is up. `held` names the assignment of an update that an earlier run trained and could not hand in.
struct Started {
  std::string held;
};
struct CheckedIn {
  uint64_t call = 0;
  absl::StatusOr<link::CheckInAnswer> answer;
};
struct BlobFetched {
  uint64_t call = 0;
  absl::StatusOr<uint64_t> bytes;
};
struct TrainingReported {
  uint64_t call = 0;
  train::TrainProgress progress;
};
// What a training left behind: an update that lies durably on disk, or only metrics.
struct TrainingOutcome {
  bool has_update = false;
  std::vector<adapter::Metric> metrics;
};
struct TrainingEnded {
  uint64_t call = 0;
  absl::StatusOr<TrainingOutcome> outcome;
};
struct Submitted {  // an update or an evaluation
  uint64_t call = 0;
  absl::StatusOr<link::Receipt> receipt;
};
struct Reported {
  uint64_t call = 0;
  absl::StatusOr<link::ProgressAnswer> answer;
};
struct Released {
  uint64_t call = 0;
  absl::Status status;
};
struct TimerFired {
  Timer timer = Timer::kRetry;
  uint64_t generation = 0;
};
struct StopRequested {};

using Event = std::variant<Started, CheckedIn, BlobFetched, TrainingReported, TrainingEnded, Submitted, Reported,
                           Released, TimerFired, StopRequested>;

// ---- Actions. Those with a `call` are answered by one event that carries the same number.

struct SendCheckIn {
  uint64_t call = 0;
  std::string holding;
};
// Answered at once, with 0 bytes, when the blob is there already.
struct FetchBlob {
  uint64_t call = 0;
  link::BlobRef blob;
};
struct StartTraining {
  uint64_t call = 0;
  link::Assignment assignment;
};
// The training under way is to end soon; its TrainingEnded still comes.
struct StopTraining {};
struct SubmitUpdate {
  uint64_t call = 0;
  std::string assignment;
};
struct SubmitEvaluation {
  uint64_t call = 0;
  std::string assignment;
  std::vector<adapter::Metric> metrics;
};
struct SendProgress {
  uint64_t call = 0;
  link::Progress progress;
};
struct Release {
  uint64_t call = 0;
  std::string assignment, reason;
};
// Replaces the timer of the same kind; TimerFired repeats the generation.
struct SetTimer {
  Timer timer = Timer::kRetry;
  uint64_t generation = 0;
  absl::Duration delay;
};
struct CancelTimer {
  Timer timer = Timer::kRetry;
};
// Only these are still needed; the others may be deleted.
struct KeepBlobs {
  std::vector<link::BlobRef> blobs;
};
struct DropUpdate {
  std::string assignment;
};
// For the log. `event` is a constant name.
struct Note {
  enum class Level { kInfo, kWarning, kError } level = Level::kInfo;
  std::string event, detail;
  std::string job;
  uint32_t round = 0;
};
// Nothing follows.
struct Finish {
  absl::Status status;
};

using Action = std::variant<SendCheckIn, FetchBlob, StartTraining, StopTraining, SubmitUpdate, SubmitEvaluation,
                            SendProgress, Release, SetTimer, CancelTimer, KeepBlobs, DropUpdate, Note, Finish>;

}  // namespace strata::session

#endif  // STRATA_CLIENT_SESSION_MESSAGES_H_
