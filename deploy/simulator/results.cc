#include "deploy/simulator/results.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/adapter/adapter.h"
#include "common/status/status_macros.h"
#include "deploy/simulator/await.h"
#include "deploy/simulator/sim_report.h"
#include "server/ctl/adapter_export.h"

namespace strata::sim {
namespace {

using Blob = ctl::AdminClient::Blob;

// What ReadBlob of the admin service sends, from inside the process.
absl::StatusOr<Blob> ReadBlob(service::Backend& server, const std::string& sha256) {
  using Mapping = std::shared_ptr<const runtime::Mapping>;
  Blob blob;
  STRATA_ASSIGN_OR_RETURN(blob.manifest,
                          Await<std::string>([&](auto reply) { server.ReadManifest(sha256, std::move(reply)); }));
  STRATA_ASSIGN_OR_RETURN(const Mapping mapping, Await<Mapping>([&](auto reply) {
                            server.OpenBlob({.site = "", .admin = true}, sha256, std::move(reply));
                          }));
  blob.tensors.assign(reinterpret_cast<const char*>(mapping->bytes().data()), mapping->bytes().size());
  return blob;
}

}  // namespace

absl::StatusOr<Results> Results::Claim(runtime::FileSystem& files, const std::string& out) {
  const std::string marker = runtime::JoinPath(out, "sim/lock");
  for (const char* name : {"report.json", "adapter", "rounds", "sim"}) {
    if (files.Exists(runtime::JoinPath(out, name)) && !files.Exists(marker)) {
      return absl::FailedPreconditionError(
          absl::StrCat("out: ", out, " holds `", name, "`, which no simulation wrote; name another folder (--out)"));
    }
  }
  STRATA_RETURN_IF_ERROR(Annotate(files.MakeDirectories(runtime::JoinPath(out, "sim")), "out"));
  auto lock = runtime::ProcessLock::Acquire(marker);
  if (!lock.ok()) return Annotate(lock.status(), "out");
  return Results(files, out, *std::move(lock));
}

absl::Status Results::Clear() {
  for (const char* name : {"adapter", "rounds", "sim/data"}) STRATA_RETURN_IF_ERROR(files_->RemoveAll(Path(name)));
  if (files_->Exists(Path("report.json"))) STRATA_RETURN_IF_ERROR(files_->Remove(Path("report.json")));
  STRATA_RETURN_IF_ERROR(RemoveState());
  for (const char* name : {"sim/data", "sim/server", "sim/clients", "sim/cache"}) {
    STRATA_RETURN_IF_ERROR(files_->MakeDirectories(Path(name)));
  }
  return absl::OkStatus();
}

absl::Status Results::WriteRounds(service::Backend& server, const v1::JobReport& job, const std::string& model) {
  const uint32_t before = written_;
  for (const v1::RoundReport& round : job.rounds()) {
    if (round.state() != "committed" || round.round() <= written_) continue;
    for (const v1::SiteRound& site : round.sites()) {
      if (site.state() != "accepted" || site.update_sha256().empty()) continue;
      STRATA_ASSIGN_OR_RETURN(const Blob blob, ReadBlob(server, site.update_sha256()));
      const std::string folder =
          runtime::JoinPath(runtime::JoinPath(Path("rounds"), absl::StrCat(round.round())), site.site());
      STRATA_RETURN_IF_ERROR(ctl::WriteUpdate(
          *files_, folder, blob,
          {.round = round.round(), .site = site.site(), .weight = site.weight(), .base_model = model}));
    }
    written_ = round.round();
  }
  return written_ > before ? WriteReport(ReportJson(job, {})) : absl::OkStatus();
}

absl::Status Results::WriteAdapter(service::Backend& server, const std::string& job, const std::string& model) {
  STRATA_ASSIGN_OR_RETURN(const auto versions, Await<v1::ListVersionsResponse>(
                                                   [&](auto reply) { server.ListVersions(job, std::move(reply)); }));
  if (versions.versions().empty() || versions.versions().rbegin()->blobs().empty()) return absl::OkStatus();
  std::vector<Blob> bytes;  // complete before anything looks into it
  for (const std::string& sha256 : versions.versions().rbegin()->blobs()) {
    STRATA_ASSIGN_OR_RETURN(Blob blob, ReadBlob(server, sha256));
    bytes.push_back(std::move(blob));
  }
  std::vector<ctl::DecodedBlob> blobs;
  for (const Blob& blob : bytes) {
    STRATA_ASSIGN_OR_RETURN(ctl::DecodedBlob decoded, ctl::Decode(blob));
    blobs.push_back(std::move(decoded));
  }
  STRATA_ASSIGN_OR_RETURN(const adapter::Adapter whole, ctl::Concatenate(blobs));
  adapter::PeftWriteOptions options;
  options.base_model = model;
  return adapter::WritePeft(*files_, Path("adapter"), whole, options);
}

absl::Status Results::WriteReport(const std::string& json) { return files_->WriteFile(Path("report.json"), json); }

absl::Status Results::RemoveState() {
  for (const char* name : {"sim/server", "sim/clients"}) STRATA_RETURN_IF_ERROR(files_->RemoveAll(Path(name)));
  return absl::OkStatus();
}

}  // namespace strata::sim
