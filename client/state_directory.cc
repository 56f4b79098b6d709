#include "client/state_directory.h"

#include <algorithm>
#include <set>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/format/safetensors.h"
#include "common/secure/digest.h"
#include "common/status/status_macros.h"

namespace strata {
namespace {

using runtime::JoinPath;

constexpr char kTensors[] = "tensors.safetensors";
constexpr char kManifest[] = "manifest";

absl::StatusOr<adapter::Adapter::Scaling> UnitScaling(const void*, std::string_view, int64_t rank) {
  return adapter::Adapter::Scaling{.scaling = 1, .alpha = static_cast<double>(rank)};
}

}  // namespace

absl::StatusOr<StateDirectory> StateDirectory::Open(runtime::FileSystem& files, const std::string& root) {
  for (const char* folder : {"blobs", "updates", "cache", "work"}) {
    STRATA_RETURN_IF_ERROR(Annotate(files.MakeDirectories(JoinPath(root, folder)), "state_dir"));
  }
  // The folders themselves must outlive a power loss, or what is synced below them is lost with them.
  STRATA_RETURN_IF_ERROR(Annotate(files.SyncDirectory(root), "state_dir"));
  STRATA_RETURN_IF_ERROR(Annotate(files.SyncDirectory(runtime::DirName(root)), "state_dir"));
  return StateDirectory(files, root);
}

absl::Status StateDirectory::ClearWork() {
  STRATA_RETURN_IF_ERROR(files_->RemoveAll(work()));
  return files_->MakeDirectories(work());
}

std::string StateDirectory::BlobPath(const link::BlobRef& blob) const {
  return JoinPath(JoinPath(root_, "blobs"), secure::ToHex(blob.sha256));
}

absl::Status StateDirectory::VerifyBlob(const link::BlobRef& blob) {
  const std::string path = BlobPath(blob);
  STRATA_ASSIGN_OR_RETURN(const auto mapping, files_->Map(path));
  if (mapping->bytes().size() == blob.size && secure::Sha256(mapping->bytes()) == blob.sha256) return absl::OkStatus();
  STRATA_RETURN_IF_ERROR(files_->Remove(path));
  return absl::DataLossError(absl::StrCat(path, ": expected ", blob.size, " bytes with that digest, found ",
                                          mapping->bytes().size(), " others; removed, to be fetched again"));
}

absl::StatusOr<std::shared_ptr<const adapter::Adapter>> StateDirectory::OpenBlob(const link::BlobRef& blob) {
  STRATA_ASSIGN_OR_RETURN(auto tensors, format::Safetensors::Open(*files_, BlobPath(blob)));
  STRATA_ASSIGN_OR_RETURN(auto opened, adapter::Adapter::FromTensors(std::move(tensors), UnitScaling, nullptr));
  return std::make_shared<const adapter::Adapter>(std::move(opened));
}

absl::Status StateDirectory::KeepBlobs(const std::vector<link::BlobRef>& blobs) {
  std::set<std::string> needed;
  for (const link::BlobRef& blob : blobs) {
    const std::string name = secure::ToHex(blob.sha256);
    needed.insert(name);
    needed.insert(name + ".part");
  }
  const std::string folder = JoinPath(root_, "blobs");
  STRATA_ASSIGN_OR_RETURN(const auto names, files_->List(folder));
  for (const std::string& name : names) {
    if (!needed.contains(name)) STRATA_RETURN_IF_ERROR(files_->Remove(JoinPath(folder, name)));
  }
  return absl::OkStatus();
}

std::string StateDirectory::UpdatePath(const std::string& assignment) const {
  return JoinPath(JoinPath(root_, "updates"), secure::ToHex(assignment));
}

absl::Status StateDirectory::SaveUpdate(adapter::Manifest manifest, const std::string& assignment,
                                        const std::string& tensors) {
  manifest.assignment = assignment;
  manifest.tensors_sha256 = secure::Sha256(tensors);
  manifest.tensors_bytes = tensors.size();
  const std::string folder = UpdatePath(assignment);
  STRATA_RETURN_IF_ERROR(files_->RemoveAll(folder));
  STRATA_RETURN_IF_ERROR(files_->MakeDirectories(folder));
  STRATA_RETURN_IF_ERROR(files_->SyncDirectory(JoinPath(root_, "updates")));
  STRATA_RETURN_IF_ERROR(files_->WriteFile(JoinPath(folder, kTensors), tensors));
  return files_->WriteFile(JoinPath(folder, kManifest), adapter::SerializeManifest(manifest));
}

absl::StatusOr<link::Update> StateDirectory::LoadUpdate(const std::string& assignment) {
  const std::string folder = UpdatePath(assignment);
  link::Update update;
  STRATA_ASSIGN_OR_RETURN(update.manifest, files_->ReadFile(JoinPath(folder, kManifest)));
  STRATA_ASSIGN_OR_RETURN(update.tensors, files_->Map(JoinPath(folder, kTensors)));
  STRATA_ASSIGN_OR_RETURN(const auto manifest, adapter::ParseManifest(update.manifest));
  if (secure::Sha256(update.tensors->bytes()) != manifest.tensors_sha256) {
    return absl::DataLossError(absl::StrCat(folder, ": ", kTensors, " does not match the digest in its manifest"));
  }
  return update;
}

absl::Status StateDirectory::DropUpdate(const std::string& assignment) {
  // The manifest first: without it the update does not exist, wherever the removal is interrupted.
  const std::string folder = UpdatePath(assignment);
  absl::Status removed = files_->Remove(JoinPath(folder, kManifest));
  if (!removed.ok() && !absl::IsNotFound(removed)) return removed;
  return files_->RemoveAll(folder);
}

absl::StatusOr<std::vector<std::string>> StateDirectory::Updates() {
  STRATA_ASSIGN_OR_RETURN(const auto names, files_->List(JoinPath(root_, "updates")));
  std::vector<std::string> found;
  for (const std::string& name : names) {
    const std::string folder = JoinPath(JoinPath(root_, "updates"), name);
    const std::string assignment = secure::FromHex(name);
    if (!assignment.empty() && LoadUpdate(assignment).ok()) {
      found.push_back(assignment);
    } else {
      STRATA_RETURN_IF_ERROR(files_->RemoveAll(folder));
    }
  }
  return found;
}

}  // namespace strata
