#include "server/store/blob_files.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/secure/digest.h"
#include "common/status/status_macros.h"

namespace strata::store {

using runtime::JoinPath;

BlobFiles::BlobFiles(runtime::FileSystem& files, const std::string& state_dir)
    : files_(files),
      state_dir_(state_dir),
      blobs_(JoinPath(state_dir, "blobs")),
      uploads_(JoinPath(state_dir, "uploads")) {}

absl::Status BlobFiles::Prepare() {
  STRATA_RETURN_IF_ERROR(files_.MakeDirectories(blobs_));
  STRATA_RETURN_IF_ERROR(files_.MakeDirectories(uploads_));
  return files_.SyncDirectory(state_dir_);
}

std::string BlobFiles::BlobPath(const std::string& sha256) const { return JoinPath(blobs_, secure::ToHex(sha256)); }
std::string BlobFiles::UploadPath(const std::string& assignment) const {
  return JoinPath(uploads_, secure::ToHex(assignment));
}

absl::StatusOr<std::unique_ptr<runtime::File>> BlobFiles::OpenUpload(const std::string& assignment, uint64_t size,
                                                                     bool fresh) {
  const std::string path = UploadPath(assignment);
  // A new file, not a truncated one: a stream that still writes the old one must not reach into this.
  if (fresh) files_.Remove(path).IgnoreError();
  STRATA_ASSIGN_OR_RETURN(std::unique_ptr<runtime::File> file, files_.Open(path, runtime::OpenMode::kCreate));
  absl::Status reserved = size == 0 ? absl::OkStatus() : file->Reserve(size);
  if (reserved.ok()) reserved = files_.SyncDirectory(uploads_);
  if (reserved.ok()) return file;
  if (fresh) files_.Remove(path).IgnoreError();
  return Annotate(reserved, absl::StrCat("an upload of ", size, " bytes"));
}

absl::StatusOr<std::shared_ptr<const runtime::Mapping>> BlobFiles::MapUpload(const std::string& assignment) {
  return files_.Map(UploadPath(assignment));
}

bool BlobFiles::HasUpload(const std::string& assignment, uint64_t at_least_bytes) {
  const absl::StatusOr<runtime::FileInfo> info = files_.Stat(UploadPath(assignment));
  return info.ok() && info->size_bytes >= at_least_bytes;
}

void BlobFiles::RemoveUpload(const std::string& assignment) { files_.Remove(UploadPath(assignment)).IgnoreError(); }

absl::Status BlobFiles::Publish(const std::string& assignment, const std::string& sha256) {
  STRATA_RETURN_IF_ERROR(files_.Rename(UploadPath(assignment), BlobPath(sha256)));
  return files_.SyncDirectory(blobs_);
}

absl::StatusOr<std::string> BlobFiles::Put(std::span<const std::byte> bytes) {
  const std::string sha256 = secure::Sha256(bytes);
  const std::string part = JoinPath(uploads_, absl::StrCat(secure::ToHex(sha256), ".part"));
  files_.Remove(part).IgnoreError();
  const absl::Status written = [&]() -> absl::Status {
    STRATA_ASSIGN_OR_RETURN(std::unique_ptr<runtime::File> file, files_.Open(part, runtime::OpenMode::kCreate));
    STRATA_RETURN_IF_ERROR(file->Reserve(bytes.size()));
    STRATA_RETURN_IF_ERROR(file->WriteAt(0, bytes));
    STRATA_RETURN_IF_ERROR(file->Sync());
    file.reset();
    STRATA_RETURN_IF_ERROR(files_.Rename(part, BlobPath(sha256)));
    return files_.SyncDirectory(blobs_);
  }();
  if (written.ok()) return sha256;
  files_.Remove(part).IgnoreError();
  return Annotate(written, absl::StrCat("blob ", secure::ToHex(sha256)));
}

absl::StatusOr<std::shared_ptr<const runtime::Mapping>> BlobFiles::Open(const std::string& sha256) {
  const std::string path = BlobPath(sha256);
  STRATA_ASSIGN_OR_RETURN(const runtime::FileInfo info, files_.Stat(path));
  const Verified seen{info.device, info.inode, info.size_bytes, absl::ToUnixNanos(info.modified)};
  STRATA_ASSIGN_OR_RETURN(std::shared_ptr<const runtime::Mapping> mapping, files_.Map(path));
  {
    absl::MutexLock lock(&mutex_);
    const auto known = verified_.find(sha256);
    if (known != verified_.end() && known->second == seen) return mapping;
  }
  const std::string found = secure::Sha256(mapping->bytes());
  if (found != sha256) {
    return absl::DataLossError(absl::StrCat(path, ": the bytes on disk have the digest ", secure::ToHex(found), " and ",
                                            mapping->bytes().size(), " bytes; restore this file from a backup"));
  }
  absl::MutexLock lock(&mutex_);
  verified_[sha256] = seen;
  return mapping;
}

void BlobFiles::Sweep(const std::set<std::string>& referenced, const std::set<std::string>& uploads) {
  const auto sweep = [this](const std::string& folder, const std::set<std::string>& kept) {
    const absl::StatusOr<std::vector<std::string>> names = files_.List(folder);
    if (!names.ok()) return;
    for (const std::string& name : *names) {
      const std::string key = secure::FromHex(name);
      if (key.empty() || !kept.contains(key)) files_.Remove(JoinPath(folder, name)).IgnoreError();
    }
  };
  sweep(blobs_, referenced);
  sweep(uploads_, uploads);
}

}  // namespace strata::store
