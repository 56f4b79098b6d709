#include "server/admission.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/format/safetensors.h"
#include "common/secure/digest.h"
#include "common/status/status_macros.h"
#include "server/aggregate/aggregate.h"

namespace strata::server {
namespace {

constexpr size_t kFaultsShown = 8;
constexpr size_t kDigestBytes = 32;

// An increment that starts from warm factors travels as a pair of twice the rank.
int64_t RankLimit(const round::Target& target, const config::JobOptions& job) {
  return job.rounds.start == config::Start::kWarm ? 2 * target.rank : target.rank;
}

const round::Target* FindTarget(const round::Assignment& assignment, const std::string& module) {
  const auto found = std::ranges::lower_bound(assignment.targets, module, {}, &round::Target::module);
  return found != assignment.targets.end() && found->module == module ? &*found : nullptr;
}

absl::Status Faults(std::vector<std::string> faults) {
  if (faults.empty()) return absl::OkStatus();
  if (faults.size() > kFaultsShown) {
    const size_t more = faults.size() - kFaultsShown;
    faults.resize(kFaultsShown);
    faults.push_back(absl::StrCat("and ", more, " more"));
  }
  return absl::InvalidArgumentError(absl::StrJoin(faults, "; "));
}

}  // namespace

absl::Status CheckManifest(const adapter::Manifest& manifest, const round::AssignmentRecord& record,
                           const config::JobOptions& job, uint64_t max_update_bytes) {
  const round::Assignment& assignment = record.assignment;
  if (manifest.assignment != assignment.id) {
    return absl::FailedPreconditionError(absl::StrCat("the manifest is of assignment ",
                                                      secure::ToHex(manifest.assignment), ", expected ",
                                                      secure::ToHex(assignment.id), "; check in again"));
  }
  if (manifest.parent_version != assignment.version) {
    return absl::FailedPreconditionError(absl::StrCat("the update starts from version ", manifest.parent_version,
                                                      ", expected ", assignment.version, "; check in again"));
  }
  std::vector<std::string> faults;
  if (!manifest.base.SameBase(assignment.base)) {
    faults.push_back(
        absl::StrCat("the base model is ", manifest.base.Digest(), ", expected ", assignment.base.Digest()));
  }
  if (manifest.tensors_sha256.size() != kDigestBytes) faults.emplace_back("the manifest has no SHA-256 of its tensors");
  if (manifest.tensors_bytes == 0 || manifest.tensors_bytes > max_update_bytes) {
    faults.push_back(
        absl::StrCat("the update has ", manifest.tensors_bytes, " bytes, expected 1 to ", max_update_bytes));
  }
  for (const adapter::PairBlock& block : manifest.blocks) {
    const round::Target* target = FindTarget(assignment, block.module);
    if (target == nullptr) {
      faults.push_back(absl::StrCat("module ", block.module, " was not assigned"));
    } else if (block.rank > RankLimit(*target, job)) {
      faults.push_back(absl::StrCat("module ", block.module, " has rank ", block.rank, ", expected at most ",
                                    RankLimit(*target, job)));
    }
  }
  return Faults(std::move(faults));
}

absl::Status CheckUpdate(std::span<const std::byte> tensors, const adapter::Manifest& manifest,
                         const round::AssignmentRecord& record, const config::JobOptions& job) {
  const std::string found = secure::Sha256(tensors);
  if (found != manifest.tensors_sha256) {
    return absl::DataLossError(absl::StrCat("the bytes received have the digest ", secure::ToHex(found),
                                            ", the manifest announced ", secure::ToHex(manifest.tensors_sha256),
                                            "; announce and send again"));
  }
  STRATA_ASSIGN_OR_RETURN(format::Safetensors parsed,
                          format::Safetensors::Parse(tensors, absl::StrCat("update of ", record.assignment.site)));
  STRATA_ASSIGN_OR_RETURN(const adapter::Adapter update, adapter::OpenUpdate(manifest, std::move(parsed)));
  aggregate::UpdateRules rules;
  for (const round::Target& target : record.assignment.targets) {
    rules.modules.push_back({target.module, target.out, target.in});
    rules.max_rank.emplace_back(target.module, RankLimit(target, job));
  }
  return aggregate::ValidateUpdate(update, rules);
}

}  // namespace strata::server
