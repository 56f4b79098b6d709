#include "common/runtime/process_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace strata::runtime {

absl::StatusOr<std::unique_ptr<ProcessLock>> ProcessLock::Acquire(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (descriptor < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  std::unique_ptr<ProcessLock> lock(new ProcessLock(descriptor));
  if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return absl::ErrnoToStatus(errno, absl::StrCat("cannot lock ", path));
    char holder[32] = {};
    const ssize_t length = ::pread(descriptor, holder, sizeof(holder) - 1, 0);
    const std::string id(absl::StripAsciiWhitespace(std::string(holder, length > 0 ? static_cast<size_t>(length) : 0)));
    return absl::FailedPreconditionError(absl::StrCat(path, " is locked by process ", id.empty() ? "unknown" : id,
                                                      ": end that one, or give this one its own state_dir"));
  }
  const std::string id = absl::StrCat(::getpid(), "\n");
  if (::ftruncate(descriptor, 0) != 0 || ::pwrite(descriptor, id.data(), id.size(), 0) < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path));
  }
  return lock;
}

ProcessLock::~ProcessLock() { ::close(descriptor_); }

}  // namespace strata::runtime
