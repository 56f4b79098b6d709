#include "common/runtime/pending_file.h"

#include <utility>

#include "common/status/status_macros.h"

namespace strata::runtime {

absl::StatusOr<PendingFile> PendingFile::Create(FileSystem& files, std::string path) {
  STRATA_ASSIGN_OR_RETURN(std::unique_ptr<File> file, files.Open(Temporary(path), OpenMode::kCreate));
  PendingFile pending(files, std::move(path), std::move(file));
  STRATA_RETURN_IF_ERROR(pending.file_->Truncate(0));
  return pending;
}

PendingFile::~PendingFile() {
  if (file_ == nullptr) return;
  file_.reset();
  files_->Remove(Temporary(path_)).IgnoreError();
}

absl::Status PendingFile::Append(std::span<const std::byte> data) {
  STRATA_RETURN_IF_ERROR(file_->WriteAt(size_bytes_, data));
  size_bytes_ += data.size();
  return absl::OkStatus();
}

absl::Status PendingFile::Commit() && {
  STRATA_RETURN_IF_ERROR(file_->Sync());
  STRATA_RETURN_IF_ERROR(files_->Rename(Temporary(path_), path_));
  file_.reset();
  return files_->SyncDirectory(DirName(path_));
}

}  // namespace strata::runtime
