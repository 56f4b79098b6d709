// One process at a time: a folder that two daemons must not share.
#ifndef STRATA_COMMON_RUNTIME_PROCESS_LOCK_H_
#define STRATA_COMMON_RUNTIME_PROCESS_LOCK_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace strata::runtime {

// Held as long as it lives; the kernel gives it back when the process ends, however it ends.
class ProcessLock {
 public:
  // Locks `path` (a file, created when missing; its folder must exist) and writes the process id into it.
  // FAILED_PRECONDITION: another process holds it (the message names that one's id). PERMISSION_DENIED, NOT_FOUND: the
  // path.
  static absl::StatusOr<std::unique_ptr<ProcessLock>> Acquire(const std::string& path);
  ~ProcessLock();
  ProcessLock(const ProcessLock&) = delete;
  ProcessLock& operator=(const ProcessLock&) = delete;

 private:
  explicit ProcessLock(int descriptor) : descriptor_(descriptor) {}
  int descriptor_;
};

}  // namespace strata::runtime

#endif  // STRATA_COMMON_RUNTIME_PROCESS_LOCK_H_
