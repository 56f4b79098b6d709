#include "server/round/round_controller.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "server/round/eligibility.h"

namespace strata::round {
namespace {

constexpr size_t kMaxReasonBytes = 400;

std::string Shortened(std::string text) {
  if (text.size() > kMaxReasonBytes) text = absl::StrCat(text.substr(0, kMaxReasonBytes), "...");
  return text;
}

bool Alive(AssignmentState state) { return state == AssignmentState::kActive || state == AssignmentState::kLost; }

// Why an assignment can no longer be worked on.
absl::Status OverStatus(const AssignmentRecord& record) {
  switch (record.state) {
    case AssignmentState::kAccepted:
      return absl::FailedPreconditionError("this assignment's report is already accepted; check in again");
    case AssignmentState::kRefused:
      return absl::InvalidArgumentError(absl::StrCat("this assignment's report was refused: ", record.reason));
    case AssignmentState::kReleased:
      return absl::AbortedError(absl::StrCat("this assignment was given back: ", record.reason, "; check in again"));
    default:
      return absl::AbortedError(absl::StrCat("round ", record.assignment.round, " is over",
                                             record.reason.empty() ? "" : ": ", record.reason, "; check in again"));
  }
}

absl::Status NotThisSites(const std::string& site) {
  return absl::PermissionDeniedError(absl::StrCat("this assignment was issued to another site than ", site));
}

absl::Status Unknown() {
  return absl::FailedPreconditionError("this server has issued no such assignment; check in again");
}

}  // namespace

RoundController::RoundController(ControllerOptions options, IdSource ids, std::vector<JobRecord> jobs)
    : options_(options), ids_(std::move(ids)) {
  for (JobRecord& job : jobs) {
    if (job.state == JobState::kRunning) running_ = job.id;
    for (const auto& [id, record] : job.assignments) job_of_[id] = job.id;
    std::string id = job.id;
    jobs_.emplace(std::move(id), std::move(job));
  }
}

std::vector<Action> RoundController::Handle(const Event& event, absl::Time now) {
  now_ = now;
  actions_.clear();
  std::visit([this](const auto& typed) { On(typed); }, event);
  return std::exchange(actions_, {});
}

void RoundController::On(const JobSubmitted& event) {
  uint64_t sequence = 0;
  for (const auto& [id, job] : jobs_) sequence = std::max(sequence, job.sequence);
  JobRecord job;
  job.id = event.id;
  job.sequence = sequence + 1;
  job.options = event.options;
  job.created = now_;
  const JobRecord& added = jobs_.insert_or_assign(event.id, std::move(job)).first->second;
  Save(added);
  Note(Fact::Kind::kJobQueued, added);
  if (running_.empty()) StartNext();
}

void RoundController::On(const JobAborted& event) {
  const auto found = jobs_.find(event.id);
  if (found == jobs_.end()) {
    return Send(event.token, absl::NotFoundError(absl::StrCat("there is no job ", event.id)));
  }
  JobRecord& job = found->second;
  if (job.state != JobState::kQueued && job.state != JobState::kRunning) {
    return Send(event.token, absl::FailedPreconditionError(absl::StrCat("job ", event.id, " has already ended")));
  }
  End(job, JobState::kAborted, Shortened(event.reason));
  Send(event.token, absl::OkStatus());
}

void RoundController::On(const CheckedIn& event) {
  for (auto it = parked_.begin(); it != parked_.end();) {
    if (it->second.check_in.site != event.site) {
      ++it;
      continue;
    }
    Send(it->first, absl::OkStatus(),
         ComeBack{options_.poll_interval, "a newer check-in of this site took this one's place", false});
    it = parked_.erase(it);
  }
  if (Serve(event)) return;
  bool fits_any = false;
  std::vector<Mismatch> mismatches = MismatchesOf(event, fits_any);
  if (!fits_any && !mismatches.empty()) {
    return Send(event.token, absl::OkStatus(), NotEligible{options_.not_eligible_delay, std::move(mismatches)});
  }
  Park(event);
}

void RoundController::Park(const CheckedIn& check_in) {
  const bool no_open_job = running_.empty();
  const std::string reason = no_open_job ? "no job is open" : "there is nothing to do for this site now";
  const absl::Duration wait = std::min(check_in.max_wait, options_.max_wait);
  if (wait <= absl::ZeroDuration()) {
    return Send(check_in.token, absl::OkStatus(), ComeBack{options_.poll_interval, reason, no_open_job});
  }
  if (parked_.size() >= options_.max_parked) {
    return Send(check_in.token, absl::OkStatus(),
                ComeBack{10 * options_.poll_interval, "too many sites are waiting already", no_open_job});
  }
  parked_.emplace(check_in.token, Parked{check_in, now_, now_ + wait});
}

void RoundController::ExpireParked() {
  for (auto it = parked_.begin(); it != parked_.end();) {
    if (it->second.until > now_) {
      ++it;
      continue;
    }
    // Whoever waited long enough may ask again at once; the wait was the pause.
    const absl::Duration waited = now_ - it->second.since;
    const absl::Duration after = std::max(absl::ZeroDuration(), options_.poll_interval - waited);
    const bool no_open_job = running_.empty();
    Send(it->first, absl::OkStatus(),
         ComeBack{after, no_open_job ? "no job is open" : "there is nothing to do for this site now", no_open_job});
    it = parked_.erase(it);
  }
}

void RoundController::On(const CheckInCancelled& event) { parked_.erase(event.token); }

absl::Status RoundController::TouchActive(const std::string& site, const std::string& id) {
  AssignmentRecord* record = Find(id);
  if (record == nullptr) return Unknown();
  if (record->assignment.site != site) return NotThisSites(site);
  const JobRecord* job = Running();
  const bool current = job != nullptr && job->id == record->assignment.job && InPlay(*job, *record);
  if (!Alive(record->state) || !current || job->stage == Stage::kAggregating) return OverStatus(*record);
  record->heard = now_;
  if (record->state == AssignmentState::kLost) {
    if (Latest(site) != record)
      return absl::AbortedError("this assignment was replaced by a newer one; check in again");
    record->state = AssignmentState::kActive;
    record->reason.clear();
    Save(*record);
    Note(Fact::Kind::kAssigned, *job, site, "heard of again");
  }
  return absl::OkStatus();
}

void RoundController::On(const ProgressMade& event) {
  const absl::Status status = TouchActive(event.site, event.assignment);
  if (status.ok()) {
    Find(event.assignment)->progress = event.progress;
    return Send(event.token, status, ProgressAnswer{});
  }
  if (absl::IsPermissionDenied(status)) return Send(event.token, status);
  Send(event.token, absl::OkStatus(), ProgressAnswer{true, std::string(status.message())});
}

void RoundController::On(const GivenBack& event) {
  AssignmentRecord* record = Find(event.assignment);
  if (record != nullptr && record->assignment.site != event.site) return Send(event.token, NotThisSites(event.site));
  Send(event.token, absl::OkStatus());
  if (record == nullptr || !Alive(record->state)) return;
  record->state = AssignmentState::kReleased;
  record->reason = Shortened(event.reason.empty() ? "no reason given" : event.reason);
  Save(*record);
  const JobRecord& job = jobs_.at(record->assignment.job);
  Note(Fact::Kind::kReleased, job, event.site, record->reason);
  MaybeClose(false);
}

void RoundController::On(const Heard& event) { TouchActive(event.site, event.assignment).IgnoreError(); }

absl::StatusOr<std::optional<Receipt>> RoundController::JudgeSubmit(const std::string& site,
                                                                    const std::string& assignment,
                                                                    const std::string& tensors_sha256) const {
  const AssignmentRecord* record = FindAssignment(assignment);
  if (record == nullptr) return Unknown();
  if (record->assignment.site != site) return NotThisSites(site);
  if (record->state == AssignmentState::kAccepted) {
    const std::string& accepted = record->report.tensors_sha256;
    if (accepted == tensors_sha256) return Receipt{assignment, accepted};
    return absl::AlreadyExistsError(
        absl::StrCat("another report was accepted under this assignment: ",
                     accepted.empty() ? "an evaluation" : absl::BytesToHexString(accepted)));
  }
  const JobRecord* job = Running();
  const bool open = job != nullptr && job->id == record->assignment.job && InPlay(*job, *record) &&
                    job->stage != Stage::kAggregating && Alive(record->state);
  if (!open) return OverStatus(*record);
  return std::nullopt;
}

void RoundController::On(const UpdateStored& event) {
  const auto verdict = JudgeSubmit(event.site, event.assignment, event.report.tensors_sha256);
  if (!verdict.ok()) return Send(event.token, verdict.status());
  if (verdict->has_value()) return Send(event.token, absl::OkStatus(), **verdict);
  AssignmentRecord* record = Find(event.assignment);
  if (record->assignment.task != Task::kTrain) {
    return Send(event.token,
                absl::FailedPreconditionError("this assignment asks for an evaluation, not for an update"));
  }
  record->state = AssignmentState::kAccepted;
  record->reason.clear();
  record->report = event.report;
  record->heard = now_;
  Save(*record);
  Note(Fact::Kind::kAccepted, *Running(), event.site);
  Send(event.token, absl::OkStatus(), Receipt{event.assignment, event.report.tensors_sha256});
  MaybeClose(false);
}

void RoundController::On(const UpdateRefused& event) {
  AssignmentRecord* record = Find(event.assignment);
  const JobRecord* job = Running();
  if (record == nullptr || record->assignment.site != event.site || !Alive(record->state)) return;
  if (job == nullptr || job->id != record->assignment.job || !InPlay(*job, *record)) return;
  record->state = AssignmentState::kRefused;
  record->reason = Shortened(event.reason);
  Save(*record);
  Note(Fact::Kind::kRefused, *job, event.site, record->reason);
  MaybeClose(false);
}

void RoundController::On(const Evaluated& event) {
  const auto verdict = JudgeSubmit(event.site, event.assignment, "");
  if (!verdict.ok()) return Send(event.token, verdict.status());
  if (verdict->has_value()) return Send(event.token, absl::OkStatus(), **verdict);
  AssignmentRecord* record = Find(event.assignment);
  if (record->assignment.task != Task::kEvaluate) {
    return Send(event.token,
                absl::FailedPreconditionError("this assignment asks for an update, not for an evaluation"));
  }
  record->state = AssignmentState::kAccepted;
  record->reason.clear();
  record->report.metrics = event.metrics;
  Save(*record);
  Note(Fact::Kind::kAccepted, *Running(), event.site, "evaluation");
  Send(event.token, absl::OkStatus(), Receipt{event.assignment, ""});
  MaybeClose(false);
}

void RoundController::On(const Ticked&) {
  LoseSilent();
  MaybeClose(true);
  ExpireParked();
}

JobRecord* RoundController::Running() { return running_.empty() ? nullptr : &jobs_.at(running_); }
const JobRecord* RoundController::Running() const { return running_.empty() ? nullptr : &jobs_.at(running_); }

const JobRecord* RoundController::FindJob(const std::string& id) const {
  const auto found = jobs_.find(id);
  return found == jobs_.end() ? nullptr : &found->second;
}

const AssignmentRecord* RoundController::FindAssignment(const std::string& id) const {
  const auto job = job_of_.find(id);
  return job == job_of_.end() ? nullptr : &jobs_.at(job->second).assignments.at(id);
}

AssignmentRecord* RoundController::Find(const std::string& id) {
  return const_cast<AssignmentRecord*>(std::as_const(*this).FindAssignment(id));
}

const AssignmentRecord* RoundController::ActiveOf(const std::string& site) const {
  for (const std::string& id : in_play_) {
    const AssignmentRecord* record = FindAssignment(id);
    if (record->assignment.site == site && record->state == AssignmentState::kActive) return record;
  }
  return nullptr;
}

bool RoundController::IsParked(const std::string& site) const {
  return std::ranges::any_of(parked_, [&](const auto& entry) { return entry.second.check_in.site == site; });
}

void RoundController::Send(uint64_t token, absl::Status status, AnswerValue value) {
  actions_.emplace_back(Answer{token, std::move(status), std::move(value)});
}

void RoundController::Save(const AssignmentRecord& record) {
  actions_.emplace_back(SaveAssignment{record.assignment.job, record.assignment.id});
}

void RoundController::Save(const JobRecord& job) { actions_.emplace_back(SaveJob{job.id}); }

void RoundController::Note(Fact::Kind kind, const JobRecord& job, std::string site, std::string detail) {
  actions_.emplace_back(Fact{kind, job.id, job.round, job.attempt, std::move(site), std::move(detail)});
}

}  // namespace strata::round
