// What sites and operators ask for besides submits.
#include <cmath>
#include <utility>
#include <variant>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/secure/digest.h"
#include "server/convert.h"
#include "server/round/eligibility.h"
#include "server/server_core.h"

namespace strata::server {
namespace {

absl::Status NoSuchJob(const std::string& id) {
  return absl::NotFoundError(absl::StrCat("there is no job ", id, "; `stratactl job list` shows them"));
}

// Safe as a file name and on a command line.
std::string IdOf(const std::string& name, uint64_t sequence) {
  std::string id;
  for (const char c : name.substr(0, 40)) id += absl::ascii_isalnum(c) || c == '.' || c == '_' ? c : '-';
  while (!id.empty() && (id.front() == '-' || id.front() == '.')) id.erase(0, 1);
  return absl::StrCat(id.empty() ? "job" : id, "-", sequence);
}

std::string Describe(const round::NotEligible& answer) {
  std::string text;
  for (const round::Mismatch& reason : answer.reasons) {
    absl::StrAppend(&text, text.empty() ? "" : "; ", reason.job, ": ", reason.what, ": expected ", reason.expected,
                    ", found ", reason.found);
  }
  return text;
}

}  // namespace

void ServerCore::SawSite(const std::string& site) { sites_[site].last_seen = runtime_.clock.Now(); }

void ServerCore::TouchJobOf(const std::string& assignment) {
  const round::AssignmentRecord* record = controller_->FindAssignment(assignment);
  if (record != nullptr) touched_.insert(record->assignment.job);
}

void ServerCore::CheckIn(const Caller& caller, const v1::CheckInRequest& request, uint64_t token,
                         Reply<v1::CheckInResponse> reply) {
  sites_[caller.site].software = request.software();
  check_ins_.emplace(token, std::move(reply));
  Handle(FromProto(caller, request, token), token,
         [weak = weak_from_this(), site = caller.site](const round::Answer& answer) {
           const std::shared_ptr<ServerCore> core = weak.lock();
           if (core == nullptr) return;
           const auto found = core->check_ins_.find(answer.token);
           if (found == core->check_ins_.end()) return;
           Reply<v1::CheckInResponse> reply = std::move(found->second);
           core->check_ins_.erase(found);
           if (!answer.status.ok()) return std::move(reply)(answer.status);
           core->sites_[site].mismatch.clear();
           if (const auto* come_back = std::get_if<round::ComeBack>(&answer.value))
             return std::move(reply)(ToProto(*come_back));
           if (const auto* not_eligible = std::get_if<round::NotEligible>(&answer.value)) {
             core->sites_[site].mismatch = Describe(*not_eligible);
             return std::move(reply)(ToProto(*not_eligible));
           }
           const auto& assignment = std::get<round::Assignment>(answer.value);
           const round::JobRecord* job = core->controller_->FindJob(assignment.job);
           v1::CheckInResponse response;
           *response.mutable_assignment() =
               ToProto(assignment, job->options, {core->options_.progress_interval, core->options_.max_update_bytes});
           std::move(reply)(std::move(response));
         });
}

void ServerCore::CancelCheckIn(uint64_t token, const absl::Status& why) {
  const auto found = check_ins_.find(token);
  if (found == check_ins_.end()) return;
  Reply<v1::CheckInResponse> reply = std::move(found->second);
  check_ins_.erase(found);
  answers_.erase(token);
  Handle(round::CheckInCancelled{token});
  std::move(reply)(why);
}

void ServerCore::OpenBlob(const Caller& caller, const std::string& sha256,
                          Reply<std::shared_ptr<const runtime::Mapping>> reply) {
  const auto jobs = blob_jobs_.find(sha256);
  const bool is_update = update_blobs_.contains(sha256);
  if (jobs == blob_jobs_.end() && !is_update) {
    return std::move(reply)(
        absl::NotFoundError(absl::StrCat("no version and no accepted update has the blob ", secure::ToHex(sha256))));
  }
  bool allowed = caller.admin;
  if (!allowed && jobs != blob_jobs_.end()) {
    for (const std::string& job : jobs->second) allowed = allowed || participants_[job].contains(caller.site);
  }
  if (!allowed) {
    return std::move(reply)(absl::PermissionDeniedError(absl::StrCat(
        "site ", caller.site, " takes no part in a job whose versions hold the blob ", secure::ToHex(sha256))));
  }
  RunOff([site = caller.admin ? "" : caller.site, sha256, reply = std::move(reply)](ServerCore& core) mutable {
    absl::StatusOr<std::shared_ptr<const runtime::Mapping>> mapping = core.blobs().Open(sha256);
    if (mapping.ok() && !site.empty()) {
      core.Post([site, bytes = (*mapping)->bytes().size()](ServerCore& core) {
        const round::AssignmentRecord* active = core.controller_->ActiveOf(site);
        if (active != nullptr) core.bytes_down_[active->assignment.id] += bytes;
      });
    }
    std::move(reply)(std::move(mapping));
  });
}

void ServerCore::SubmitJob(const config::JobOptions& options, Reply<v1::SubmitJobResponse> reply) {
  if (!options.modules.empty() && round::ResolveTargets(options, options.modules, {}).empty()) {
    return std::move(reply)(
        absl::InvalidArgumentError(absl::StrCat("training.adapter selects none of the model's ", options.modules.size(),
                                                " modules; the first is ", options.modules.front().name)));
  }
  uint64_t sequence = 1;
  for (const auto& [id, job] : controller_->jobs()) sequence = std::max(sequence, job.sequence + 1);
  const std::string id = IdOf(options.name, sequence);
  Hold([weak = weak_from_this(), id, reply = std::move(reply)](const absl::Status& stored) mutable {
    if (!stored.ok()) {
      // Told as not submitted, so it must not run later.
      const std::shared_ptr<ServerCore> core = weak.lock();
      if (core != nullptr) {
        core->Post([id](ServerCore& core) {
          core.Handle(round::JobAborted{0, id, "it could not be stored when it was submitted"});
        });
      }
      return std::move(reply)(stored);
    }
    v1::SubmitJobResponse response;
    response.set_id(id);
    std::move(reply)(std::move(response));
  });
  Handle(round::JobSubmitted{id, options});
}

v1::ListJobsResponse ServerCore::ListJobs() const {
  std::map<uint64_t, const round::JobRecord*> by_sequence;
  for (const auto& [id, job] : controller_->jobs()) by_sequence[job.sequence] = &job;
  v1::ListJobsResponse response;
  for (const auto& [sequence, job] : by_sequence) *response.add_jobs() = SummaryOf(*job);
  return response;
}

absl::StatusOr<v1::JobReport> ServerCore::ShowJob(const std::string& id) const {
  const round::JobRecord* job = controller_->FindJob(id);
  if (job == nullptr) return NoSuchJob(id);
  const auto rounds = rounds_.find(id);
  return ReportOf(*job, rounds == rounds_.end() ? StoredRounds() : rounds->second, bytes_down_);
}

void ServerCore::WatchJob(const std::string& id, uint64_t seen, uint64_t token,
                          Reply<std::pair<uint64_t, v1::JobReport>> reply) {
  absl::StatusOr<v1::JobReport> report = ShowJob(id);
  if (!report.ok()) return std::move(reply)(report.status());
  const uint64_t revision = std::max<uint64_t>(1, revisions_[id]);
  revisions_[id] = revision;
  if (revision != seen) return std::move(reply)(std::pair(revision, *std::move(report)));
  watches_.emplace(token, Watch{id, std::move(reply)});
}

void ServerCore::CancelWatch(uint64_t token, const absl::Status& why) {
  const auto found = watches_.find(token);
  if (found == watches_.end()) return;
  auto reply = std::move(found->second.reply);
  watches_.erase(found);
  std::move(reply)(why);
}

void ServerCore::AbortJob(const v1::AbortJobRequest& request, Reply<v1::JobSummary> reply) {
  const uint64_t token = NewToken();
  const std::string reason = request.reason().empty() ? "by the operator" : request.reason();
  Handle(round::JobAborted{token, request.id(), reason}, token,
         [weak = weak_from_this(), id = request.id(), reply = std::move(reply)](const round::Answer& answer) mutable {
           const std::shared_ptr<ServerCore> core = weak.lock();
           if (core == nullptr) return;
           if (!answer.status.ok()) return std::move(reply)(answer.status);
           std::move(reply)(SummaryOf(*core->controller_->FindJob(id)));
         });
}

v1::ListSitesResponse ServerCore::ListSites() const {
  v1::ListSitesResponse response;
  const absl::Time now = runtime_.clock.Now();
  const absl::Duration patience =
      std::max(options_.controller.not_eligible_delay, 2 * options_.controller.liveness_timeout);
  for (const auto& [name, site] : sites_) {
    v1::SiteInfo* info = response.add_sites();
    info->set_name(name);
    info->set_last_seen_unix_ms(absl::ToUnixMillis(site.last_seen));
    info->set_software(site.software);
    if (controller_->IsParked(name)) {
      info->set_state("parked");
    } else if (const round::AssignmentRecord* active = controller_->ActiveOf(name)) {
      info->set_state("working");
      info->set_detail(
          absl::StrCat(active->assignment.job, " round ", active->assignment.round, " ", active->progress.phase));
    } else if (!site.mismatch.empty() && now - site.last_seen <= patience) {
      info->set_state("not eligible");
      info->set_detail(site.mismatch);
    } else {
      info->set_state(now - site.last_seen <= patience ? "parked" : "away");
    }
  }
  return response;
}

absl::StatusOr<v1::ListVersionsResponse> ServerCore::ListVersions(const std::string& job) const {
  const round::JobRecord* record = controller_->FindJob(job);
  if (record == nullptr) return NoSuchJob(job);
  const auto versions = versions_.find(job);
  return VersionsOf(*record, versions == versions_.end() ? std::vector<store::VersionRow>() : versions->second,
                    blob_bytes_);
}

}  // namespace strata::server
