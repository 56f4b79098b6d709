// One site's participation as a pure state machine: what to do after each thing that happened.
//
//   check in -> fetch the blobs that are lacking -> train -> submit -> check in ...
//
// Who calls carries out the actions and feeds their results back. No clock, disk, thread or network.
// What an error leads to (DESIGN section 7):
//   UNAVAILABLE, DEADLINE_EXCEEDED   the same step again after an exponential back-off with jitter; a trained update is
//   kept RESOURCE_EXHAUSTED               the same, after the delay that the server gave (payload kRetryAfterPayload,
//   else the back-off) ABORTED, FAILED_PRECONDITION, NOT_FOUND, ALREADY_EXISTS   the assignment is over: drop it and
//   check in INVALID_ARGUMENT on submit       the update is refused: drop it, log, check in after a back-off
//   UNAUTHENTICATED, PERMISSION_DENIED, UNIMPLEMENTED         long back-off and an error in the log; a trained update
//   is kept anything else                    the same step again, `max_attempts` times, then the assignment is released
//   a training that failed           the assignment is released with the status code as reason (its text stays here)
#ifndef STRATA_CLIENT_SESSION_CLIENT_SESSION_H_
#define STRATA_CLIENT_SESSION_CLIENT_SESSION_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "client/session/messages.h"

namespace strata::session {

// A status may carry the server's own delay, as decimal milliseconds.
inline constexpr char kRetryAfterPayload[] = "strata/retry-after-ms";

struct SessionOptions {
  absl::Duration first_backoff = absl::Seconds(1);  // doubles with each failure in a row
  absl::Duration max_backoff = absl::Seconds(60);
  absl::Duration long_backoff = absl::Minutes(5);     // refused for who we are or what we hold
  absl::Duration min_delay = absl::Milliseconds(50);  // between two check-ins, whatever the server says
  absl::Duration max_wait = absl::Seconds(30);      // how long a check-in may be parked; bounds the wait for its answer
  absl::Duration call_timeout = absl::Seconds(30);  // answer to a short call
  absl::Duration default_progress = absl::Seconds(10);  // where an assignment says nothing
  int max_attempts = 5;                                 // of a step that fails for a reason that may not pass
  std::optional<uint32_t> max_rounds = std::nullopt;    // end after that many accepted updates
  uint64_t jitter_key = 0;                              // of the random numbers behind all jitter
};

class ClientSession {
 public:
  explicit ClientSession(const SessionOptions& options) : options_(options) {}

  // REQUIRES: the first event is Started; nothing is handed in after Finish was returned. `now` only grows.
  // Deterministic.
  std::vector<Action> Handle(const Event& event, absl::Time now);

  enum class State {
    kIdle,  // before Started, or waiting to check in
    kCheckingIn,
    kFetching,
    kTraining,
    kCancelling,  // a training that no longer matters is coming to its end
    kSubmitting,
    kReleasing,
    kEnded,
  };
  State state() const { return state_; }
  uint32_t accepted() const { return accepted_; }  // updates with a receipt
  const std::string& assignment() const { return assignment_.id; }

 private:
  void On(const Started& event);
  void On(const CheckedIn& event);
  void On(const BlobFetched& event);
  void On(const TrainingReported& event);
  void On(const TrainingEnded& event);
  void On(const Submitted& event);
  void On(const Reported& event);
  void On(const Released& event);
  void On(const TimerFired& event);
  void On(const StopRequested& event);

  void CheckIn();
  void CheckInAfter(absl::Duration delay);
  void Accept(const link::Assignment& assignment);
  void ComeBackLater(const link::ComeBack& answer);
  void FetchNext();
  void Submit();
  void RetryStep();
  void StepFailed(const std::string& what, const absl::Status& status);
  void Drop(const std::string& reason);      // forget the assignment and its update
  void GiveBack(const std::string& reason);  // release, then check in after a back-off (or end)
  void End(const absl::Status& status);
  void SendReport();
  void Say(Note::Level level, std::string event, std::string detail);

  uint64_t NewCall() { return ++last_call_; }
  void Arm(Timer timer, absl::Duration delay);
  void Disarm(Timer timer);
  double Draw();             // [0, 1)
  absl::Duration Backoff();  // counts one more failure
  absl::Duration DelayFor(const absl::Status& status);

  SessionOptions options_;
  State state_ = State::kIdle;
  std::vector<Action> actions_;
  uint64_t last_call_ = 0;
  uint64_t step_call_ = 0;  // the call that the state waits for; 0: a retry is due
  uint64_t report_call_ = 0;
  uint64_t training_call_ = 0;                 // 0: no training under way
  std::array<uint64_t, kNumTimers> timers_{};  // generation, 0: not set
  uint64_t draws_ = 0;
  int failures_ = 0;  // in a row
  int attempts_ = 0;  // of the present step, counted towards max_attempts
  uint32_t accepted_ = 0;
  bool stopping_ = false;
  absl::Time asked_;  // when the last check-in was sent
  absl::Time now_;

  link::Assignment assignment_;
  size_t next_blob_ = 0;
  train::TrainProgress progress_;
  TrainingOutcome outcome_;
  std::string held_;  // an update on disk whose assignment the server has not confirmed yet
};

}  // namespace strata::session

#endif  // STRATA_CLIENT_SESSION_CLIENT_SESSION_H_
