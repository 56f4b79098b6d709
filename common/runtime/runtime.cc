#include "common/runtime/runtime.h"

#include "common/runtime/posix_file_system.h"
#include "common/runtime/system_clock.h"
#include "common/runtime/system_entropy.h"
#include "common/runtime/system_executor.h"

namespace strata::runtime {

struct SystemRuntime::Parts {
  explicit Parts(int num_threads) : executor(num_threads) {}

  SystemClock clock;
  SystemEntropy entropy;
  PosixFileSystem files;
  SystemExecutor executor;  // last: joined before what its work may use is gone
};

SystemRuntime::SystemRuntime(int num_threads) : parts_(std::make_unique<Parts>(num_threads)) {}

SystemRuntime::~SystemRuntime() = default;

Runtime SystemRuntime::get() {
  return {.clock = parts_->clock, .executor = parts_->executor, .entropy = parts_->entropy, .files = parts_->files};
}

}  // namespace strata::runtime
