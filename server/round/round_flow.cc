// The course of a job: who is assigned, when a round closes, what follows.
#include <algorithm>
#include <ranges>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "server/round/eligibility.h"
#include "server/round/round_controller.h"

namespace strata::round {
namespace {

uint32_t NumAccepted(const JobRecord& job, const std::vector<std::string>& in_play) {
  return static_cast<uint32_t>(std::ranges::count_if(
      in_play, [&](const std::string& id) { return job.assignments.at(id).state == AssignmentState::kAccepted; }));
}

bool Evaluates(const JobRecord& job) { return job.options.evaluation.holdout > 0 && job.options.evaluation.every > 0; }

}  // namespace

bool RoundController::InPlay(const JobRecord& job, const AssignmentRecord& record) const {
  const Assignment& assignment = record.assignment;
  const Task task = job.stage == Stage::kEvaluating ? Task::kEvaluate : Task::kTrain;
  if (job.state != JobState::kRunning || assignment.task != task || assignment.round != job.round) return false;
  return assignment.attempt == job.attempt || record.state == AssignmentState::kAccepted;
}

void RoundController::RebuildInPlay() {
  in_play_.clear();
  const JobRecord* job = Running();
  if (job == nullptr) return;
  for (const auto& [id, record] : job->assignments) {
    if (InPlay(*job, record)) in_play_.push_back(id);
  }
  std::ranges::stable_sort(in_play_, {}, [&](const std::string& id) { return job->assignments.at(id).issued; });
}

AssignmentRecord* RoundController::Latest(const std::string& site) {
  for (const std::string& id : in_play_ | std::views::reverse) {
    AssignmentRecord* record = Find(id);
    if (record->assignment.site == site) return record;
  }
  return nullptr;
}

uint32_t RoundController::CountReleases(const std::string& site) const {
  return static_cast<uint32_t>(std::ranges::count_if(in_play_, [&](const std::string& id) {
    const AssignmentRecord* record = FindAssignment(id);
    return record->assignment.site == site && record->state == AssignmentState::kReleased;
  }));
}

bool RoundController::Serve(const CheckedIn& check_in) {
  JobRecord* job = Running();
  if (job == nullptr || job->stage == Stage::kAggregating) return false;
  const auto fit = Fit(*job, check_in);
  const ModelOffer* const* offer = std::get_if<const ModelOffer*>(&fit);
  if (offer == nullptr) return false;
  AssignmentRecord* latest = Latest(check_in.site);
  if (latest != nullptr) {
    switch (latest->state) {
      case AssignmentState::kActive:
      case AssignmentState::kLost:
        // The answer may have been lost, or the site has restarted: the same work again, under the same id.
        if (latest->assignment.base.SameBase((*offer)->identity) && latest->assignment.model_label == (*offer)->label &&
            TouchActive(check_in.site, latest->assignment.id).ok()) {
          Send(check_in.token, absl::OkStatus(), latest->assignment);
          return true;
        }
        latest->state = AssignmentState::kReleased;
        latest->reason = "the site checked in with another base model";
        Save(*latest);
        break;
      case AssignmentState::kReleased:
        if (CountReleases(check_in.site) >= options_.max_releases) return false;
        break;
      default:
        return false;
    }
  }
  Assign(*job, check_in, **offer);
  return true;
}

void RoundController::Assign(JobRecord& job, const CheckedIn& check_in, const ModelOffer& offer) {
  AssignmentRecord record;
  Assignment& assignment = record.assignment;
  assignment.id = ids_();
  assignment.job = job.id;
  assignment.site = check_in.site;
  assignment.model_label = offer.label;
  assignment.round = job.round;
  assignment.attempt = job.attempt;
  assignment.version = job.version;
  assignment.task = job.stage == Stage::kEvaluating ? Task::kEvaluate : Task::kTrain;
  assignment.evaluate =
      assignment.task == Task::kEvaluate || (Evaluates(job) && (job.round - 1) % job.options.evaluation.every == 0);
  assignment.blobs = job.blobs;
  assignment.base = offer.identity;
  const bool adopt = job.options.modules.empty();
  if (adopt) job.options.modules = offer.modules;
  assignment.targets = ResolveTargets(job.options, job.options.modules, check_in);
  for (const Target& target : assignment.targets)
    record.rank = std::max(record.rank, static_cast<uint32_t>(target.rank));
  record.issued = record.heard = now_;
  if (job.opened == absl::InfiniteFuture() || adopt) {
    if (job.opened == absl::InfiniteFuture()) job.opened = now_;
    Save(job);
  }
  const AssignmentRecord& kept = job.assignments.insert_or_assign(assignment.id, std::move(record)).first->second;
  job_of_[kept.assignment.id] = job.id;
  in_play_.push_back(kept.assignment.id);
  Save(kept);
  Note(Fact::Kind::kAssigned, job, check_in.site);
  Send(check_in.token, absl::OkStatus(), kept.assignment);
}

void RoundController::ServeParked() {
  std::vector<uint64_t> tokens;
  for (const auto& [token, parked] : parked_) tokens.push_back(token);
  for (const uint64_t token : tokens) {
    const CheckedIn check_in = parked_.at(token).check_in;
    if (Serve(check_in)) {
      parked_.erase(token);
      continue;
    }
    bool fits_any = false;
    std::vector<Mismatch> mismatches = MismatchesOf(check_in, fits_any);
    if (fits_any || mismatches.empty()) continue;
    Send(token, absl::OkStatus(), NotEligible{options_.not_eligible_delay, std::move(mismatches)});
    parked_.erase(token);
  }
}

std::vector<Mismatch> RoundController::MismatchesOf(const CheckedIn& check_in, bool& fits_any) const {
  std::vector<Mismatch> mismatches;
  fits_any = false;
  for (const auto& [id, job] : jobs_) {
    if (job.state != JobState::kQueued && job.state != JobState::kRunning) continue;
    auto fit = Fit(job, check_in);
    if (Mismatch* mismatch = std::get_if<Mismatch>(&fit)) {
      mismatches.push_back(std::move(*mismatch));
    } else {
      fits_any = true;
    }
  }
  return mismatches;
}

void RoundController::StartNext() {
  JobRecord* next = nullptr;
  for (auto& [id, job] : jobs_) {
    if (job.state == JobState::kQueued && (next == nullptr || job.sequence < next->sequence)) next = &job;
  }
  if (next == nullptr) return;
  running_ = next->id;
  next->state = JobState::kRunning;
  Note(Fact::Kind::kJobStarted, *next);
  OpenRound(*next, 1, 1);
}

void RoundController::OpenRound(JobRecord& job, uint32_t round, uint32_t attempt) {
  job.round = round;
  job.attempt = attempt;
  job.stage = Stage::kTraining;
  RebuildInPlay();
  // With reports kept from the attempt before, the clock runs at once: it must not wait for a site that never comes.
  job.opened = in_play_.empty() ? absl::InfiniteFuture() : now_;
  Save(job);
  Note(Fact::Kind::kRoundOpened, job);
  ServeParked();
}

absl::Time RoundController::Deadline(const JobRecord& job) const {
  if (job.stage == Stage::kAggregating || job.opened == absl::InfiniteFuture()) return absl::InfiniteFuture();
  return std::max(job.opened + job.options.rounds.timeout, not_before_);
}

bool RoundController::TrainingComplete(const JobRecord& job, bool& hopeless) const {
  const config::RoundsOptions& rounds = job.options.rounds;
  const uint32_t accepted = NumAccepted(job, in_play_);
  if (rounds.report_goal.has_value() && accepted >= std::max(*rounds.report_goal, rounds.min_sites)) return true;
  if (job.options.sites.empty()) {
    const bool any_active = std::ranges::any_of(
        in_play_, [&](const std::string& id) { return job.assignments.at(id).state == AssignmentState::kActive; });
    return !rounds.report_goal.has_value() && !any_active && accepted >= rounds.min_sites;
  }
  std::set<std::string> settled;
  for (const std::string& id : in_play_) {
    const AssignmentRecord& record = job.assignments.at(id);
    const bool refused = record.state == AssignmentState::kRefused;
    const bool gave_up =
        record.state == AssignmentState::kReleased && CountReleases(record.assignment.site) >= options_.max_releases;
    if (refused || gave_up || record.state == AssignmentState::kAccepted) settled.insert(record.assignment.site);
  }
  if (settled.size() < job.options.sites.size()) return false;
  hopeless = accepted < rounds.min_sites;
  return !hopeless;
}

bool RoundController::EvaluationComplete(const JobRecord& job) const {
  std::set<std::string> expected;
  std::map<std::string, AssignmentState> latest;
  for (const auto& [id, record] : job.assignments) {
    const bool last_round = record.assignment.round == job.round && record.assignment.task == Task::kTrain;
    if (last_round && record.state == AssignmentState::kAccepted) expected.insert(record.assignment.site);
  }
  for (const std::string& id : in_play_) {
    const AssignmentRecord& record = job.assignments.at(id);
    latest[record.assignment.site] = record.state;
  }
  const bool may_be_missing = now_ >= std::max(job.opened + 2 * options_.liveness_timeout, not_before_);
  return std::ranges::all_of(expected, [&](const std::string& site) {
    const auto state = latest.find(site);
    if (state == latest.end()) return may_be_missing;
    return state->second != AssignmentState::kActive;
  });
}

void RoundController::MaybeClose(bool at_deadline) {
  JobRecord* job = Running();
  if (job == nullptr || job->stage == Stage::kAggregating) return;
  const bool due = at_deadline && now_ >= Deadline(*job);
  if (job->stage == Stage::kEvaluating) {
    if (due || EvaluationComplete(*job)) End(*job, JobState::kDone, "");
    return;
  }
  bool hopeless = false;
  if (TrainingComplete(*job, hopeless)) return CloseTraining(*job);
  if (!hopeless && !due) return;
  if (NumAccepted(*job, in_play_) >= job->options.rounds.min_sites) return CloseTraining(*job);
  Retry(*job, Shortfall(*job), true);
}

std::string RoundController::Shortfall(const JobRecord& job) const {
  std::map<std::string, std::string> missing;
  for (const std::string& site : job.options.sites) missing[site] = "did not check in";
  for (const std::string& id : in_play_) {
    const AssignmentRecord& record = job.assignments.at(id);
    std::string& why = missing[record.assignment.site];
    switch (record.state) {
      case AssignmentState::kAccepted:
        why.clear();
        break;
      case AssignmentState::kActive:
        why = "had not reported";
        break;
      case AssignmentState::kRefused:
        why = absl::StrCat("was refused (", record.reason, ")");
        break;
      case AssignmentState::kReleased:
        why = absl::StrCat("gave its assignment back (", record.reason, ")");
        break;
      default:
        why = record.reason;
        break;
    }
  }
  std::vector<std::string> parts;
  for (const auto& [site, why] : missing) {
    if (!why.empty()) parts.push_back(absl::StrCat(site, " ", why));
  }
  return absl::StrCat("attempt ", job.attempt, " of round ", job.round, " had ", NumAccepted(job, in_play_),
                      " of at least ", job.options.rounds.min_sites, " reports after ",
                      absl::FormatDuration(absl::Trunc(now_ - job.opened, absl::Seconds(1))), parts.empty() ? "" : ": ",
                      absl::StrJoin(parts, "; "));
}

StartAggregation RoundController::AggregationOf(const JobRecord& job) const {
  StartAggregation start{job.id, job.round, job.attempt, job.version, job.blobs, {}};
  for (const auto& [id, record] : job.assignments) {
    if (!InPlay(job, record) || record.state != AssignmentState::kAccepted) continue;
    start.members.push_back({record.assignment.site, id, record.report.tensors_sha256, record.report.num_examples});
  }
  std::ranges::sort(start.members, {}, &Member::site);
  return start;
}

void RoundController::CloseTraining(JobRecord& job) {
  EndActive(job, "the round closed without its report");
  job.stage = Stage::kAggregating;
  Save(job);
  Note(Fact::Kind::kRoundClosed, job);
  actions_.emplace_back(AggregationOf(job));
}

void RoundController::On(const Aggregated& event) {
  JobRecord* job = Running();
  if (job == nullptr || job->id != event.job || job->stage != Stage::kAggregating) return;
  if (job->round != event.round || job->attempt != event.attempt) return;
  job->version = job->round;
  job->blobs = event.blobs;
  job->reason.clear();
  for (auto& [id, record] : job->assignments) {
    record.assignment.blobs.clear();
    record.assignment.targets.clear();
  }
  Note(Fact::Kind::kRoundCommitted, *job);
  if (job->round < job->options.rounds.count) return OpenRound(*job, job->round + 1, 1);
  if (Evaluates(*job)) return OpenEvaluation(*job);
  End(*job, JobState::kDone, "");
}

void RoundController::On(const AggregationFailed& event) {
  JobRecord* job = Running();
  if (job == nullptr || job->id != event.job || job->stage != Stage::kAggregating) return;
  if (job->round != event.round || job->attempt != event.attempt) return;
  Retry(*job, absl::StrCat("the reports of attempt ", job->attempt, " could not be added up: ", event.reason), false);
}

void RoundController::Retry(JobRecord& job, const std::string& why, bool keep_reports) {
  EndActive(job, "the attempt ended");
  if (!keep_reports) {
    for (const std::string& id : in_play_) {
      AssignmentRecord& record = job.assignments.at(id);
      if (record.state != AssignmentState::kAccepted) continue;
      record.state = AssignmentState::kOver;
      record.reason = why;
      Save(record);
    }
  }
  job.reason = why;
  Note(Fact::Kind::kRoundRetried, job, "", why);
  if (job.attempt >= job.options.rounds.max_attempts) return End(job, JobState::kFailed, why);
  OpenRound(job, job.round, job.attempt + 1);
}

void RoundController::OpenEvaluation(JobRecord& job) {
  job.stage = Stage::kEvaluating;
  job.opened = now_;
  RebuildInPlay();
  Save(job);
  Note(Fact::Kind::kEvaluationOpened, job);
  ServeParked();
}

void RoundController::EndActive(JobRecord& job, const std::string& reason) {
  for (const std::string& id : in_play_) {
    AssignmentRecord& record = job.assignments.at(id);
    if (record.state != AssignmentState::kActive) continue;
    record.state = AssignmentState::kOver;
    record.reason = reason;
    Save(record);
  }
}

void RoundController::End(JobRecord& job, JobState state, const std::string& reason) {
  if (job.id == running_) {
    EndActive(job, state == JobState::kAborted ? absl::StrCat("the job was aborted: ", reason) : "the job has ended");
    running_.clear();
    in_play_.clear();
  }
  job.state = state;
  job.reason = reason;
  Save(job);
  Note(Fact::Kind::kJobEnded, job, "", reason);
  if (running_.empty()) StartNext();
}

void RoundController::LoseSilent() {
  const JobRecord* job = Running();
  if (job == nullptr) return;
  for (const std::string& id : in_play_) {
    AssignmentRecord* record = Find(id);
    if (record->state != AssignmentState::kActive || record->heard + options_.liveness_timeout > now_) continue;
    record->state = AssignmentState::kLost;
    record->reason = absl::StrCat("gave no sign of life for ", absl::FormatDuration(options_.liveness_timeout));
    Save(*record);
    Note(Fact::Kind::kLost, *job, record->assignment.site, record->reason);
  }
}

absl::Time RoundController::NextDeadline() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [token, parked] : parked_) next = std::min(next, parked.until);
  const JobRecord* job = Running();
  if (job == nullptr) return next;
  next = std::min(next, Deadline(*job));
  if (job->stage == Stage::kEvaluating) {
    const absl::Time grace = std::max(job->opened + 2 * options_.liveness_timeout, not_before_);
    if (grace > now_) next = std::min(next, grace);
  }
  for (const std::string& id : in_play_) {
    const AssignmentRecord& record = job->assignments.at(id);
    if (record.state == AssignmentState::kActive) next = std::min(next, record.heard + options_.liveness_timeout);
  }
  return next;
}

void RoundController::On(const Restarted&) {
  for (auto& [id, job] : jobs_) {
    for (auto& [assignment, record] : job.assignments) record.heard = now_;
  }
  not_before_ = now_ + options_.liveness_timeout;
  RebuildInPlay();
  JobRecord* job = Running();
  if (job == nullptr) return StartNext();
  if (job->stage == Stage::kAggregating) {
    actions_.emplace_back(AggregationOf(*job));
    return;
  }
  MaybeClose(false);
}

}  // namespace strata::round
