// The server's start: rows -> records.
#include <algorithm>
#include <array>
#include <span>

#include "absl/strings/str_cat.h"
#include "common/status/status_macros.h"
#include "common/telemetry/log.h"
#include "server/convert.h"
#include "server/server_core.h"

namespace strata::server {
namespace {

constexpr size_t kAssignmentIdBytes = 16;

std::string NewId(runtime::Entropy& entropy) {
  std::array<std::byte, kAssignmentIdBytes> bytes;
  entropy.Fill(bytes);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

absl::Status ServerCore::Start() {
  STRATA_ASSIGN_OR_RETURN(store_, store::Store::Open(runtime_, options_.state_dir));
  const store::Contents contents = store_->TakeContents();
  STRATA_ASSIGN_OR_RETURN(std::vector<round::JobRecord> jobs, Load(contents));
  controller_ = std::make_unique<round::RoundController>(
      options_.controller, [&entropy = runtime_.entropy] { return NewId(entropy); }, std::move(jobs));
  LoadUploads(contents);
  telemetry::Log(telemetry::Level::kInfo, "server_started",
                 {{"state_dir", options_.state_dir},
                  {"jobs", static_cast<uint64_t>(contents.jobs.size())},
                  {"updates", static_cast<uint64_t>(contents.updates.size())}});
  Post([](ServerCore& core) { core.Handle(round::Restarted{}); });
  return absl::OkStatus();
}

absl::StatusOr<std::vector<round::JobRecord>> ServerCore::Load(const store::Contents& contents) {
  std::map<std::string, round::JobRecord> jobs;
  for (const store::JobRow& row : contents.jobs) {
    STRATA_ASSIGN_OR_RETURN(round::JobRecord job, FromRow(row));
    jobs.emplace(row.id, std::move(job));
  }
  STRATA_RETURN_IF_ERROR(LoadAssignments(contents, jobs));
  LoadBlobs(contents, jobs);
  for (const store::RoundRow& row : contents.rounds) {
    v1::RoundReport report;
    if (!report.ParseFromString(row.report)) {
      return absl::DataLossError(
          absl::StrCat("database: the report of round ", row.round, " of job ", row.job, " is unreadable"));
    }
    rounds_[row.job][{row.round, row.attempt}] = std::move(report);
  }
  std::vector<round::JobRecord> records;
  for (auto& [id, job] : jobs) records.push_back(std::move(job));
  return records;
}

absl::Status ServerCore::LoadAssignments(const store::Contents& contents,
                                         std::map<std::string, round::JobRecord>& jobs) {
  for (const store::AssignmentRow& row : contents.assignments) {
    const auto job = jobs.find(row.job);
    if (job == jobs.end())
      return absl::DataLossError(absl::StrCat("database: an assignment of an unknown job ", row.job));
    STRATA_ASSIGN_OR_RETURN(round::AssignmentRecord record, FromRow(row));
    participants_[row.job].insert(row.site);
    if (const uint64_t bytes = BytesDownOf(row); bytes > 0) bytes_down_[row.id] = bytes;
    // Only the round under way is worked on with these.
    if (row.round <= job->second.version) {
      record.assignment.blobs.clear();
      if (record.assignment.task == round::Task::kTrain) record.assignment.targets.clear();
    }
    job->second.assignments.emplace(row.id, std::move(record));
  }
  return absl::OkStatus();
}

void ServerCore::LoadBlobs(const store::Contents& contents, std::map<std::string, round::JobRecord>& jobs) {
  for (const store::BlobRow& row : contents.blobs) blob_bytes_[row.sha256] = row.size;
  for (const store::UpdateRow& row : contents.updates) update_blobs_.insert(row.sha256);
  for (const store::VersionRow& row : contents.versions) {
    versions_[row.job].push_back(row);
    for (const std::string& sha256 : row.blobs) blob_jobs_[sha256].insert(row.job);
    const auto job = jobs.find(row.job);
    if (job == jobs.end() || job->second.version != row.version) continue;
    for (const std::string& sha256 : row.blobs) job->second.blobs.push_back({sha256, blob_bytes_[sha256]});
  }
}

void ServerCore::LoadUploads(const store::Contents& contents) {
  for (const store::UploadRow& row : contents.uploads) {
    absl::StatusOr<adapter::Manifest> manifest = adapter::ParseManifest(row.manifest);
    // Whatever is not as it was recorded is announced and sent anew.
    if (!manifest.ok() || !blobs().HasUpload(row.assignment, row.durable)) {
      Save(absl::StrCat("upload/", row.assignment), store::UploadGone{row.assignment});
      continue;
    }
    Upload upload;
    upload.row = row;
    upload.manifest = *std::move(manifest);
    uploads_.emplace(row.assignment, std::move(upload));
  }
}

}  // namespace strata::server
