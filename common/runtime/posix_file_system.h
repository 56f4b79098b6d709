// The machine's disk.
#ifndef STRATA_COMMON_RUNTIME_POSIX_FILE_SYSTEM_H_
#define STRATA_COMMON_RUNTIME_POSIX_FILE_SYSTEM_H_

#include <memory>
#include <string>
#include <vector>

#include "common/runtime/file_system.h"

namespace strata::runtime {

// Messages read "cannot open /path: No such file or directory". Pipes and devices can be read and mapped too (a mapping
// of a pipe is a copy of what comes out of it), so that /dev/stdin may stand where a file's path does.
class PosixFileSystem : public FileSystem {
 public:
  absl::StatusOr<std::unique_ptr<File>> Open(const std::string& path, OpenMode mode) override;
  absl::StatusOr<std::shared_ptr<const Mapping>> Map(const std::string& path) override;
  absl::StatusOr<FileInfo> Stat(const std::string& path) override;
  absl::StatusOr<std::vector<std::string>> List(const std::string& directory) override;
  absl::Status MakeDirectories(const std::string& path) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status Remove(const std::string& path) override;
  absl::Status RemoveAll(const std::string& path) override;
  absl::Status SyncDirectory(const std::string& directory) override;
};

}  // namespace strata::runtime

#endif  // STRATA_COMMON_RUNTIME_POSIX_FILE_SYSTEM_H_
