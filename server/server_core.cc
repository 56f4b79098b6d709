#include "server/server_core.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/status/status_macros.h"
#include "common/telemetry/log.h"
#include "server/convert.h"

namespace strata::server {
namespace {

bool MayBeRepeated(const absl::Status& status) {
  return !absl::IsInvalidArgument(status) && !absl::IsDataLoss(status) && !absl::IsNotFound(status);
}

std::string_view NameOf(round::Fact::Kind kind) {
  using Kind = round::Fact::Kind;
  switch (kind) {
    case Kind::kJobQueued:
      return "job_queued";
    case Kind::kJobStarted:
      return "job_started";
    case Kind::kJobEnded:
      return "job_ended";
    case Kind::kRoundOpened:
      return "round_opened";
    case Kind::kRoundClosed:
      return "round_closed";
    case Kind::kRoundRetried:
      return "round_retried";
    case Kind::kRoundCommitted:
      return "round_committed";
    case Kind::kEvaluationOpened:
      return "evaluation_opened";
    case Kind::kAssigned:
      return "assigned";
    case Kind::kReleased:
      return "assignment_released";
    case Kind::kLost:
      return "assignment_lost";
    case Kind::kAccepted:
      return "report_accepted";
    case Kind::kRefused:
      return "report_refused";
  }
  return "unknown";
}

void LogFact(const round::Fact& fact) {
  using Kind = round::Fact::Kind;
  const bool trouble = fact.kind == Kind::kRoundRetried || fact.kind == Kind::kLost || fact.kind == Kind::kRefused;
  const telemetry::Level level = trouble ? telemetry::Level::kWarning : telemetry::Level::kInfo;
  const telemetry::Field job("job", fact.job);
  const telemetry::Field round("round", fact.round);
  const telemetry::Field attempt("attempt", fact.attempt);
  const telemetry::Field site("site", fact.site);
  const telemetry::Field detail("detail", fact.detail);
  if (fact.round == 0) return telemetry::Log(level, NameOf(fact.kind), {job});
  if (fact.site.empty() && fact.detail.empty()) return telemetry::Log(level, NameOf(fact.kind), {job, round, attempt});
  if (fact.site.empty()) return telemetry::Log(level, NameOf(fact.kind), {job, round, attempt, detail});
  if (fact.detail.empty()) return telemetry::Log(level, NameOf(fact.kind), {job, round, attempt, site});
  telemetry::Log(level, NameOf(fact.kind), {job, round, attempt, site, detail});
}

}  // namespace

ServerCore::ServerCore(const runtime::Runtime& runtime, ServerOptions options)
    : runtime_(runtime), options_(std::move(options)), strand_(runtime.executor) {}

void ServerCore::Post(absl::AnyInvocable<void(ServerCore&) &&> work) {
  strand_.Post([weak = weak_from_this(), work = std::move(work)]() mutable {
    if (const std::shared_ptr<ServerCore> core = weak.lock()) std::move(work)(*core);
  });
}

void ServerCore::RunOff(absl::AnyInvocable<void(ServerCore&) &&> work) {
  runtime_.executor.Run([weak = weak_from_this(), work = std::move(work)]() mutable {
    if (const std::shared_ptr<ServerCore> core = weak.lock()) std::move(work)(*core);
  });
}

absl::Status ServerCore::CheckOpen() const {
  return stopping_ ? absl::UnavailableError("the server is shutting down; try again later") : absl::OkStatus();
}

void ServerCore::Handle(const round::Event& event) {
  std::vector<round::Action> actions = controller_->Handle(event, runtime_.clock.Now());
  for (round::Action& action : actions) {
    std::visit([this](auto& typed) { Perform(std::move(typed)); }, action);
  }
  Rearm();
  Flush();
}

void ServerCore::Handle(const round::Event& event, uint64_t token, OnAnswer on_answer) {
  answers_.emplace(token, std::move(on_answer));
  Handle(event);
}

void ServerCore::Perform(round::Answer answer) {
  const auto found = answers_.find(answer.token);
  if (found == answers_.end()) return;
  const bool needs_rows = answer.status.ok() && (std::holds_alternative<round::Assignment>(answer.value) ||
                                                 std::holds_alternative<round::Receipt>(answer.value) ||
                                                 std::holds_alternative<std::monostate>(answer.value));
  Hold([needs_rows, answer = std::move(answer),
        on_answer = std::move(found->second)](const absl::Status& stored) mutable {
    if (needs_rows && !stored.ok()) answer.status = stored;
    std::move(on_answer)(answer);
  });
  answers_.erase(found);
}

void ServerCore::Perform(const round::SaveJob& save) {
  touched_.insert(save.job);
  Save(absl::StrCat("job/", save.job), ToRow(*controller_->FindJob(save.job)));
}

void ServerCore::Perform(const round::SaveAssignment& save) {
  touched_.insert(save.job);
  const round::AssignmentRecord& record = *controller_->FindAssignment(save.assignment);
  participants_[save.job].insert(record.assignment.site);
  const auto fetched = bytes_down_.find(save.assignment);
  Save(absl::StrCat("assignment/", save.assignment), ToRow(record, fetched == bytes_down_.end() ? 0 : fetched->second));
  const bool alive = record.state == round::AssignmentState::kActive || record.state == round::AssignmentState::kLost;
  const auto upload = uploads_.find(save.assignment);
  // What is being checked is forgotten when the check comes back.
  if (!alive && upload != uploads_.end() && !upload->second.busy) ForgetUpload(save.assignment, true);
}

void ServerCore::Perform(const round::StartAggregation& start) {
  std::vector<std::string> assignments;
  for (const round::Member& member : start.members) assignments.push_back(member.assignment);
  // After the commit under way, so that the manifests of the last reports are there.
  Hold([weak = weak_from_this(), start, assignments = std::move(assignments)](const absl::Status& stored) mutable {
    const std::shared_ptr<ServerCore> core = weak.lock();
    if (core == nullptr) return;
    if (!stored.ok()) return core->MergeEnded(start, stored);
    core->store_->ReadUpdateManifests(std::move(assignments),
                                      [weak, start](absl::StatusOr<std::vector<std::string>> manifests) {
                                        const std::shared_ptr<ServerCore> core = weak.lock();
                                        if (core == nullptr) return;
                                        core->Post([start, manifests = std::move(manifests)](ServerCore& core) mutable {
                                          if (!manifests.ok()) return core.MergeEnded(start, manifests.status());
                                          core.StartMerge(start, *std::move(manifests));
                                        });
                                      });
  });
}

void ServerCore::StartMerge(const round::StartAggregation& start, std::vector<std::string> manifests) {
  if (!StillAggregates(start)) return;
  MergeInput input;
  input.start = start;
  input.job = controller_->FindJob(start.job)->options;
  input.manifests = std::move(manifests);
  input.num_threads = options_.num_threads;
  for (const auto& [key, report] : rounds_[start.job]) {
    if (report.state() == "committed" && report.version() == start.version) input.bound = report.bound();
  }
  for (const store::VersionRow& version : versions_[start.job]) {
    if (version.version == start.version) input.max_rank = version.max_rank;
  }
  RunOff([input = std::move(input)](ServerCore& core) {
    absl::StatusOr<Merged> merged = MergeRound(input, core.blobs(), core.runtime_);
    core.Post([start = input.start, merged = std::move(merged)](ServerCore& core) mutable {
      core.MergeEnded(start, std::move(merged));
    });
  });
}

bool ServerCore::StillAggregates(const round::StartAggregation& start) const {
  const round::JobRecord* job = controller_->FindJob(start.job);
  return job != nullptr && job->state == round::JobState::kRunning && job->stage == round::Stage::kAggregating &&
         job->round == start.round && job->attempt == start.attempt;
}

void ServerCore::MergeEnded(const round::StartAggregation& start, absl::StatusOr<Merged> merged) {
  if (!StillAggregates(start)) return;
  if (!merged.ok()) {
    telemetry::Log(telemetry::Level::kError, "aggregation_failed",
                   {{"job", start.job}, {"round", start.round}, {"reason", merged.status().ToString()}});
    if (!MayBeRepeated(merged.status())) {
      return Handle(
          round::AggregationFailed{start.job, start.round, start.attempt, std::string(merged.status().message())});
    }
    runtime_.executor.RunAfter(options_.retry_interval, [weak = weak_from_this(), start] {
      const std::shared_ptr<ServerCore> core = weak.lock();
      if (core == nullptr) return;
      core->Post([start](ServerCore& core) {
        core.Perform(start);
        core.Flush();
      });
    });
    return;
  }
  store::VersionRow version{start.job, start.round, start.round, merged->max_rank, {}};
  for (const round::BlobRef& blob : merged->blobs) {
    version.blobs.push_back(blob.sha256);
    blob_bytes_[blob.sha256] = blob.size_bytes;
    blob_jobs_[blob.sha256].insert(start.job);
  }
  for (store::BlobRow& row : merged->new_blobs) {
    std::string key = absl::StrCat("blob/", row.sha256);
    Save(std::move(key), std::move(row));
  }
  versions_[start.job].push_back(version);
  Save(absl::StrCat("version/", start.job, "/", start.round), std::move(version));
  const v1::RoundReport& report = rounds_[start.job][{start.round, start.attempt}] = merged->report;
  telemetry::Log(telemetry::Level::kInfo, "aggregated",
                 {{"job", start.job},
                  {"round", start.round},
                  {"rank_in", report.rank_in()},
                  {"rank_out", report.rank_out()},
                  {"error", report.error()},
                  {"bound", report.bound()},
                  {"seconds", report.seconds()}});
  Save(absl::StrCat("round/", start.job, "/", start.round, "/", start.attempt),
       store::RoundRow{start.job, start.round, start.attempt, merged->report.SerializeAsString()});
  Handle(round::Aggregated{start.job, start.round, start.attempt, std::move(merged->blobs)});
}

void ServerCore::Perform(const round::Fact& fact) {
  touched_.insert(fact.job);
  using Kind = round::Fact::Kind;
  if (fact.kind == Kind::kRoundRetried) {
    v1::RoundReport report;
    report.set_round(fact.round);
    report.set_attempt(fact.attempt);
    report.set_state("retried");
    report.set_reason(fact.detail);
    report.set_fedit_distance(-1);
    report.set_zero_pad_distance(-1);
    rounds_[fact.job][{fact.round, fact.attempt}] = report;
    Save(absl::StrCat("round/", fact.job, "/", fact.round, "/", fact.attempt),
         store::RoundRow{fact.job, fact.round, fact.attempt, report.SerializeAsString()});
  }
  LogFact(fact);
}

void ServerCore::Rearm() {
  const absl::Time next = stopping_ ? absl::InfiniteFuture() : controller_->NextDeadline();
  if (next == armed_for_ && timer_ != 0) return;
  if (timer_ != 0) runtime_.executor.Cancel(std::exchange(timer_, 0));
  armed_for_ = next;
  if (next == absl::InfiniteFuture()) return;
  const absl::Duration delay = std::max(absl::ZeroDuration(), next - runtime_.clock.Now());
  timer_ = runtime_.executor.RunAfter(delay, [weak = weak_from_this(), next] {
    const std::shared_ptr<ServerCore> core = weak.lock();
    if (core == nullptr) return;
    core->Post([next](ServerCore& core) {
      if (core.armed_for_ == next) {
        core.timer_ = 0;
        core.armed_for_ = absl::InfiniteFuture();
      }
      core.Handle(round::Ticked{});
    });
  });
}

void ServerCore::Save(std::string key, store::Change change) {
  dirty_.insert_or_assign(std::move(key), std::move(change));
}

void ServerCore::Flush() {
  if (committing_ || retry_armed_) return;
  if (dirty_.empty()) {
    std::vector<Held> held;
    held.swap(held_);
    for (Held& answer : held) std::move(answer)(absl::OkStatus());
    touched_in_flight_.merge(touched_);
    touched_.clear();
    PublishTouched();
    return MaybeStopped();
  }
  committing_ = true;
  in_flight_ = std::exchange(dirty_, {});
  held_in_flight_ = std::exchange(held_, {});
  touched_in_flight_.merge(touched_);
  touched_.clear();
  std::vector<store::Change> changes;
  changes.reserve(in_flight_.size());
  for (const auto& [key, change] : in_flight_) changes.push_back(change);
  store_->Commit(std::move(changes), [weak = weak_from_this()](const absl::Status& status) {
    const std::shared_ptr<ServerCore> core = weak.lock();
    if (core != nullptr) core->Post([status](ServerCore& core) { core.Committed(status); });
  });
}

void ServerCore::Committed(const absl::Status& status) {
  committing_ = false;
  std::vector<Held> held = std::exchange(held_in_flight_, {});
  if (status.ok()) {
    in_flight_.clear();
    for (Held& answer : held) std::move(answer)(status);
    PublishTouched();
    return Flush();
  }
  telemetry::Log(telemetry::Level::kError, "commit_failed", {{"reason", status.ToString()}});
  // What was changed again meanwhile is newer.
  dirty_.merge(in_flight_);
  in_flight_.clear();
  retry_armed_ = true;
  // To a site a disk that fails is a server that is away, whatever it is to the operator.
  const absl::Status told =
      RetryAfter(absl::IsResourceExhausted(status)
                     ? status
                     : absl::UnavailableError(absl::StrCat("the server cannot store its state: ", status.message())),
                 options_.retry_interval);
  for (Held& answer : held) std::move(answer)(told);
  held.clear();
  held.swap(held_);
  for (Held& answer : held) std::move(answer)(told);
  MaybeStopped();
  runtime_.executor.RunAfter(options_.retry_interval, [weak = weak_from_this()] {
    const std::shared_ptr<ServerCore> core = weak.lock();
    if (core == nullptr) return;
    core->Post([](ServerCore& core) {
      core.retry_armed_ = false;
      core.Flush();
    });
  });
}

void ServerCore::PublishTouched() {
  const std::set<std::string> touched = std::exchange(touched_in_flight_, {});
  for (const std::string& job : touched) ++revisions_[job];
  std::vector<Watch> due;
  for (auto it = watches_.begin(); it != watches_.end();) {
    if (!touched.contains(it->second.job)) {
      ++it;
      continue;
    }
    due.push_back(std::move(it->second));
    it = watches_.erase(it);
  }
  for (Watch& watch : due) {
    absl::StatusOr<v1::JobReport> report = ShowJob(watch.job);
    if (!report.ok()) {
      std::move(watch.reply)(report.status());
    } else {
      std::move(watch.reply)(std::pair(revisions_[watch.job], *std::move(report)));
    }
  }
}

void ServerCore::Stop(absl::AnyInvocable<void() &&> done) {
  stopping_ = true;
  stopped_ = std::move(done);
  const absl::Status why = CheckOpen();
  while (!check_ins_.empty()) CancelCheckIn(check_ins_.begin()->first, why);
  while (!watches_.empty()) CancelWatch(watches_.begin()->first, why);
  Rearm();
  Flush();
  if (retry_armed_) MaybeStopped();
}

void ServerCore::MaybeStopped() {
  if (!stopping_ || !stopped_ || committing_) return;
  std::move(std::exchange(stopped_, nullptr))();
}

}  // namespace strata::server
