#include "client/session/client_session.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/runtime/random.h"

namespace strata::session {
namespace {

using absl::StatusCode;

// As numbered in federation.proto's Phase.
constexpr int kPhaseFetching = 1;
constexpr int kPhaseTraining = 2;
constexpr int kPhaseEvaluating = 3;
constexpr int kPhaseSubmitting = 4;

// How long a client that is stopping waits for the answer to its release.
constexpr absl::Duration kLastWords = absl::Seconds(5);

enum class Verdict { kRetry, kRetryCounted, kOver, kRefused, kLong };

Verdict Judge(const absl::Status& status) {
  switch (status.code()) {
    case StatusCode::kUnavailable:
    case StatusCode::kDeadlineExceeded:
    case StatusCode::kResourceExhausted:
      return Verdict::kRetry;
    case StatusCode::kAborted:
    case StatusCode::kFailedPrecondition:
    case StatusCode::kNotFound:
    case StatusCode::kAlreadyExists:
      return Verdict::kOver;
    case StatusCode::kInvalidArgument:
      return Verdict::kRefused;
    case StatusCode::kUnauthenticated:
    case StatusCode::kPermissionDenied:
    case StatusCode::kUnimplemented:
      return Verdict::kLong;
    default:
      return Verdict::kRetryCounted;
  }
}

std::string Describe(const absl::Status& status) {
  return absl::StrCat(absl::StatusCodeToString(status.code()), ": ", status.message());
}

}  // namespace

std::vector<Action> ClientSession::Handle(const Event& event, absl::Time now) {
  now_ = now;
  actions_.clear();
  if (state_ != State::kEnded) std::visit([this](const auto& e) { On(e); }, event);
  return std::exchange(actions_, {});
}

void ClientSession::On(const Started& event) {
  held_ = event.held;
  CheckIn();
}

void ClientSession::CheckIn() {
  state_ = State::kCheckingIn;
  step_call_ = NewCall();
  asked_ = now_;
  actions_.push_back(SendCheckIn{.call = step_call_, .holding = held_});
  Arm(Timer::kCall, options_.max_wait + options_.call_timeout);
}

void ClientSession::CheckInAfter(absl::Duration delay) {
  state_ = State::kIdle;
  step_call_ = 0;
  Disarm(Timer::kCall);
  Disarm(Timer::kProgress);
  Arm(Timer::kRetry, std::max(delay, options_.min_delay));
}

void ClientSession::On(const CheckedIn& event) {
  if (state_ != State::kCheckingIn || event.call != step_call_) return;
  Disarm(Timer::kCall);
  if (!event.answer.ok()) {
    const absl::Status& status = event.answer.status();
    const Verdict verdict = Judge(status);
    const bool passing = verdict == Verdict::kRetry || verdict == Verdict::kOver;
    Say(passing ? Note::Level::kWarning : Note::Level::kError, "check_in_failed", Describe(status));
    CheckInAfter(passing ? DelayFor(status) : options_.long_backoff * (0.9 + 0.1 * Draw()));
    return;
  }
  failures_ = 0;
  if (const auto* later = std::get_if<link::ComeBack>(&*event.answer)) return ComeBackLater(*later);
  Accept(std::get<link::Assignment>(*event.answer));
}

void ClientSession::ComeBackLater(const link::ComeBack& answer) {
  if (!held_.empty()) {
    Say(Note::Level::kInfo, "update_not_wanted", "the server no longer waits for the update kept from before");
    actions_.push_back(DropUpdate{.assignment = std::exchange(held_, {})});
  }
  if (answer.no_open_job) actions_.push_back(KeepBlobs{});
  absl::Duration delay = answer.after;
  if (answer.not_eligible) {
    Say(Note::Level::kWarning, "not_eligible", answer.reason);
    if (delay <= absl::ZeroDuration()) delay = options_.long_backoff;
  }
  CheckInAfter(delay * (1 + 0.1 * Draw()));
}

void ClientSession::Accept(const link::Assignment& assignment) {
  assignment_ = assignment;
  progress_ = {};
  outcome_ = {};
  attempts_ = 0;
  next_blob_ = 0;
  const bool trained = !held_.empty() && held_ == assignment.id;
  if (!held_.empty() && !trained) actions_.push_back(DropUpdate{.assignment = held_});
  held_.clear();
  Say(Note::Level::kInfo, trained ? "assignment_resumed" : "assignment",
      absl::StrCat(assignment.train ? "train" : "evaluate", ", version ", assignment.version));
  const absl::Duration interval =
      assignment_.progress_interval > absl::ZeroDuration() ? assignment_.progress_interval : options_.default_progress;
  Arm(Timer::kProgress, interval * (0.8 + 0.2 * Draw()));
  if (trained) {
    outcome_.has_update = true;
    return Submit();
  }
  actions_.push_back(KeepBlobs{.blobs = assignment_.blobs});
  FetchNext();
}

void ClientSession::FetchNext() {
  if (next_blob_ < assignment_.blobs.size()) {
    state_ = State::kFetching;
    step_call_ = NewCall();
    actions_.push_back(FetchBlob{.call = step_call_, .blob = assignment_.blobs[next_blob_]});
    return;
  }
  state_ = State::kTraining;
  attempts_ = 0;
  step_call_ = training_call_ = NewCall();
  actions_.push_back(StartTraining{.call = training_call_, .assignment = assignment_});
}

void ClientSession::On(const BlobFetched& event) {
  if (state_ != State::kFetching || event.call != step_call_) return;
  if (!event.bytes.ok()) return StepFailed("fetch", event.bytes.status());
  failures_ = 0;
  attempts_ = 0;
  ++next_blob_;
  FetchNext();
}

void ClientSession::On(const TrainingReported& event) {
  if (event.call == training_call_ && state_ == State::kTraining) progress_ = event.progress;
}

void ClientSession::On(const TrainingEnded& event) {
  if (event.call != training_call_) return;
  training_call_ = 0;
  if (state_ == State::kCancelling) {
    if (event.outcome.ok() && event.outcome->has_update) actions_.push_back(DropUpdate{.assignment = assignment_.id});
    if (stopping_) return GiveBack("the client is stopping");
    assignment_ = {};
    return CheckInAfter(absl::ZeroDuration());
  }
  if (!event.outcome.ok() || event.outcome->has_update != assignment_.train) {
    const absl::Status status =
        event.outcome.ok() ? absl::InternalError("the trainer returned no update") : event.outcome.status();
    Say(Note::Level::kError, "training_failed", Describe(status));
    return GiveBack(absl::StrCat("training failed: ", absl::StatusCodeToString(status.code())));
  }
  failures_ = 0;
  outcome_ = *event.outcome;
  Submit();
}

void ClientSession::Submit() {
  state_ = State::kSubmitting;
  step_call_ = NewCall();
  if (outcome_.has_update) {
    actions_.push_back(SubmitUpdate{.call = step_call_, .assignment = assignment_.id});
  } else {
    actions_.push_back(SubmitEvaluation{.call = step_call_, .assignment = assignment_.id, .metrics = outcome_.metrics});
  }
}

void ClientSession::On(const Submitted& event) {
  if (state_ != State::kSubmitting || event.call != step_call_) return;
  if (!event.receipt.ok()) return StepFailed("submit", event.receipt.status());
  failures_ = 0;
  Say(Note::Level::kInfo, outcome_.has_update ? "update_accepted" : "evaluation_accepted", event.receipt->note);
  if (outcome_.has_update) {
    ++accepted_;
    actions_.push_back(DropUpdate{.assignment = assignment_.id});
  }
  assignment_ = {};
  if (options_.max_rounds.has_value() && accepted_ >= *options_.max_rounds) return End(absl::OkStatus());
  CheckInAfter(absl::ZeroDuration());
}

// A fetch or a submit came back with an error.
void ClientSession::StepFailed(const std::string& what, const absl::Status& status) {
  const bool has_update = state_ == State::kSubmitting && outcome_.has_update;
  step_call_ = 0;
  switch (Judge(status)) {
    case Verdict::kRetryCounted:
      if (++attempts_ >= options_.max_attempts) {
        Say(Note::Level::kError, absl::StrCat(what, "_failed"), Describe(status));
        return GiveBack(absl::StrCat(what, " failed: ", absl::StatusCodeToString(status.code())));
      }
      [[fallthrough]];
    case Verdict::kRetry:
      Say(Note::Level::kWarning, absl::StrCat(what, "_delayed"), Describe(status));
      return Arm(Timer::kRetry, DelayFor(status));
    case Verdict::kOver:
      Say(Note::Level::kWarning, "assignment_over", Describe(status));
      Drop("");
      return CheckInAfter(absl::ZeroDuration());
    case Verdict::kRefused:
      Say(Note::Level::kError, absl::StrCat(what, "_refused"), Describe(status));
      if (!has_update) return GiveBack(absl::StrCat(what, " refused"));
      Drop("");
      return CheckInAfter(Backoff());
    case Verdict::kLong:
      Say(Note::Level::kError, absl::StrCat(what, "_denied"), Describe(status));
      if (has_update) held_ = assignment_.id;
      assignment_ = {};
      return CheckInAfter(options_.long_backoff * (0.9 + 0.1 * Draw()));
  }
}

void ClientSession::Drop(const std::string& reason) {
  if (!reason.empty()) Say(Note::Level::kInfo, "assignment_dropped", reason);
  if (state_ == State::kSubmitting && outcome_.has_update) {
    actions_.push_back(DropUpdate{.assignment = assignment_.id});
  }
  assignment_ = {};
}

void ClientSession::GiveBack(const std::string& reason) {
  const std::string id = assignment_.id;
  Drop("");
  state_ = State::kReleasing;
  step_call_ = NewCall();
  Disarm(Timer::kProgress);
  Disarm(Timer::kRetry);
  actions_.push_back(Release{.call = step_call_, .assignment = id, .reason = reason});
  Arm(Timer::kCall, stopping_ ? kLastWords : options_.call_timeout);
}

void ClientSession::On(const Released& event) {
  if (state_ != State::kReleasing || event.call != step_call_) return;
  Disarm(Timer::kCall);
  if (stopping_) return End(absl::OkStatus());
  CheckInAfter(Backoff());
}

void ClientSession::SendReport() {
  int phase = assignment_.train ? kPhaseTraining : kPhaseEvaluating;
  if (state_ == State::kFetching) phase = kPhaseFetching;
  if (state_ == State::kSubmitting) phase = kPhaseSubmitting;
  report_call_ = NewCall();
  actions_.push_back(SendProgress{.call = report_call_,
                                  .progress = {.assignment = assignment_.id, .phase = phase, .training = progress_}});
  const absl::Duration interval =
      assignment_.progress_interval > absl::ZeroDuration() ? assignment_.progress_interval : options_.default_progress;
  Arm(Timer::kProgress, interval * (0.8 + 0.2 * Draw()));
}

void ClientSession::On(const Reported& event) {
  if (event.call != report_call_) return;
  report_call_ = 0;
  const bool over = event.answer.ok() ? event.answer->stop : Judge(event.answer.status()) == Verdict::kOver;
  if (!over) return;
  // While an update travels, the answer to the submission decides: it may have been counted already.
  const std::string reason = event.answer.ok() ? event.answer->reason : Describe(event.answer.status());
  if (state_ == State::kFetching) {
    Drop(reason);
    CheckInAfter(absl::ZeroDuration());
  } else if (state_ == State::kTraining) {
    Say(Note::Level::kInfo, "training_stopped", reason);
    state_ = State::kCancelling;
    Disarm(Timer::kProgress);
    actions_.push_back(StopTraining{});
  }
}

void ClientSession::On(const TimerFired& event) {
  uint64_t& set = timers_[static_cast<size_t>(event.timer)];
  if (event.generation != set) return;
  set = 0;
  switch (event.timer) {
    case Timer::kProgress:
      return SendReport();
    case Timer::kRetry:
      return RetryStep();
    case Timer::kCall:
      if (state_ == State::kReleasing) return On(Released{.call = step_call_, .status = absl::OkStatus()});
      if (state_ == State::kCheckingIn) {
        return On(CheckedIn{.call = step_call_,
                            .answer = absl::DeadlineExceededError(
                                absl::StrCat("no answer to the check-in for ", absl::FormatDuration(now_ - asked_)))});
      }
      return;
  }
}

void ClientSession::RetryStep() {
  if (state_ == State::kIdle) return CheckIn();
  if (state_ == State::kFetching) return FetchNext();
  if (state_ == State::kSubmitting) return Submit();
}

void ClientSession::On(const StopRequested&) {
  if (stopping_) return;
  stopping_ = true;
  switch (state_) {
    case State::kTraining:
      state_ = State::kCancelling;
      Disarm(Timer::kProgress);
      actions_.push_back(StopTraining{});
      return;
    case State::kCancelling:
      return;
    case State::kReleasing:
      return Arm(Timer::kCall, kLastWords);
    case State::kFetching:
      return GiveBack("the client is stopping");
    case State::kSubmitting:
      // A trained update stays on disk, and its assignment with it: the next start hands it in.
      if (!outcome_.has_update) return GiveBack("the client is stopping");
      return End(absl::OkStatus());
    default:
      return End(absl::OkStatus());
  }
}

void ClientSession::End(const absl::Status& status) {
  for (const Timer timer : {Timer::kRetry, Timer::kProgress, Timer::kCall}) Disarm(timer);
  state_ = State::kEnded;
  actions_.push_back(Finish{.status = status});
}

void ClientSession::Say(Note::Level level, std::string event, std::string detail) {
  actions_.push_back(Note{.level = level,
                          .event = std::move(event),
                          .detail = std::move(detail),
                          .job = assignment_.job,
                          .round = assignment_.round});
}

void ClientSession::Arm(Timer timer, absl::Duration delay) {
  const uint64_t generation = NewCall();
  timers_[static_cast<size_t>(timer)] = generation;
  actions_.push_back(SetTimer{.timer = timer, .generation = generation, .delay = delay});
}

void ClientSession::Disarm(Timer timer) {
  if (std::exchange(timers_[static_cast<size_t>(timer)], 0) != 0) actions_.push_back(CancelTimer{.timer = timer});
}

double ClientSession::Draw() { return runtime::Philox(options_.jitter_key).Uniform(draws_++); }

absl::Duration ClientSession::Backoff() {
  const int doublings = std::min(failures_++, 20);
  const absl::Duration full = std::min(options_.max_backoff, options_.first_backoff * (int64_t{1} << doublings));
  return full * (0.5 + 0.5 * Draw());
}

absl::Duration ClientSession::DelayFor(const absl::Status& status) {
  const absl::Duration own = Backoff();
  const auto payload = status.GetPayload(kRetryAfterPayload);
  int64_t ms = 0;
  if (payload.has_value() && absl::SimpleAtoi(std::string(*payload), &ms) && ms >= 0) {
    return std::min(absl::Milliseconds(ms), options_.long_backoff) * (1 + 0.1 * Draw());
  }
  return own;
}

}  // namespace strata::session
