// The only way to the disk. A simulated file system can be full, slow, or lose what was not synced.
#ifndef STRATA_COMMON_RUNTIME_FILE_SYSTEM_H_
#define STRATA_COMMON_RUNTIME_FILE_SYSTEM_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace strata::runtime {

// A read-only view of a whole file. Shared: whoever keeps a pointer into bytes() keeps a reference to the mapping.
class Mapping {
 public:
  virtual ~Mapping() = default;
  virtual std::span<const std::byte> bytes() const = 0;
  // Tells the kernel that this range will not be read again soon; no effect on what bytes() shows.
  virtual void Release(size_t offset, size_t length) const = 0;
};

struct FileInfo {
  uint64_t size_bytes = 0;
  bool is_directory = false;
  uint64_t device = 0;
  uint64_t inode = 0;
  absl::Time modified;  // nanosecond precision
};

// An open file. Not thread-safe. Closed on destruction (without syncing).
class File {
 public:
  virtual ~File() = default;
  // RESOURCE_EXHAUSTED: the disk is full (nothing of the file is lost). DATA_LOSS: the device failed.
  virtual absl::Status WriteAt(uint64_t offset, std::span<const std::byte> data) = 0;
  // Bytes read; fewer than asked for at the end of the file.
  virtual absl::StatusOr<size_t> ReadAt(uint64_t offset, std::span<std::byte> out) = 0;
  // Claims disk space for [0, size) so that later writes cannot find the disk full; the file's size stays as it is.
  // RESOURCE_EXHAUSTED: there is not enough.
  virtual absl::Status Reserve(uint64_t size) = 0;
  virtual absl::Status Truncate(uint64_t size) = 0;
  // fdatasync: after OK the content survives a power loss.
  virtual absl::Status Sync() = 0;
  virtual absl::StatusOr<uint64_t> Size() = 0;
};

enum class OpenMode {
  kRead,       // must exist
  kReadWrite,  // must exist
  kCreate,     // read and write, created when missing
  kCreateNew,  // ALREADY_EXISTS when it is there
};

// Thread-safe. NOT_FOUND, PERMISSION_DENIED, ALREADY_EXISTS, RESOURCE_EXHAUSTED (full) name the path.
class FileSystem {
 public:
  virtual ~FileSystem() = default;
  virtual absl::StatusOr<std::unique_ptr<File>> Open(const std::string& path, OpenMode mode) = 0;
  virtual absl::StatusOr<std::shared_ptr<const Mapping>> Map(const std::string& path) = 0;
  virtual absl::StatusOr<FileInfo> Stat(const std::string& path) = 0;
  // Names of the entries, sorted, without . and ..
  virtual absl::StatusOr<std::vector<std::string>> List(const std::string& directory) = 0;
  virtual absl::Status MakeDirectories(const std::string& path) = 0;
  // Atomic replacement within one file system.
  virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;
  virtual absl::Status Remove(const std::string& path) = 0;
  // Removes a folder and what is in it; OK when it is not there.
  virtual absl::Status RemoveAll(const std::string& path) = 0;
  // After OK the entries made, renamed and removed in `directory` survive a power loss.
  virtual absl::Status SyncDirectory(const std::string& directory) = 0;

  // Whole small files. WriteFile replaces atomically: PATH.tmp, sync, rename, sync of the folder. Two writers of the
  // same path at one time must be kept apart by the caller.
  absl::StatusOr<std::string> ReadFile(const std::string& path);
  absl::Status WriteFile(const std::string& path, std::string_view content);
  bool Exists(const std::string& path) { return Stat(path).ok(); }
};

std::string JoinPath(std::string_view a, std::string_view b);
std::string BaseName(std::string_view path);
std::string DirName(std::string_view path);

}  // namespace strata::runtime

#endif  // STRATA_COMMON_RUNTIME_FILE_SYSTEM_H_
