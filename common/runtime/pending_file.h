// A file that is there under its name only when it is whole.
#ifndef STRATA_COMMON_RUNTIME_PENDING_FILE_H_
#define STRATA_COMMON_RUNTIME_PENDING_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/runtime/file_system.h"

namespace strata::runtime {

// Written front to back as PATH.tmp; Commit syncs it and puts it in PATH's place. Destroyed without a successful Commit
// it removes what it wrote and PATH stays as it was. Two of the same path at one time must be kept apart by the caller.
// Not thread-safe.
class PendingFile {
 public:
  // `files` is borrowed.
  static absl::StatusOr<PendingFile> Create(FileSystem& files, std::string path);
  ~PendingFile();
  PendingFile(PendingFile&&) noexcept = default;
  PendingFile& operator=(PendingFile&&) = delete;

  absl::Status Append(std::span<const std::byte> data);
  uint64_t size_bytes() const { return size_bytes_; }
  // After OK file and name survive a power loss.
  absl::Status Commit() &&;

 private:
  PendingFile(FileSystem& files, std::string path, std::unique_ptr<File> file)
      : files_(&files), path_(std::move(path)), file_(std::move(file)) {}
  static std::string Temporary(const std::string& path) { return path + ".tmp"; }

  FileSystem* files_;
  std::string path_;
  std::unique_ptr<File> file_;  // null: committed, or moved from
  uint64_t size_bytes_ = 0;
};

}  // namespace strata::runtime

#endif  // STRATA_COMMON_RUNTIME_PENDING_FILE_H_
