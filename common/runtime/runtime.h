// What a program gets from the machine, passed once by reference and never defaulted. Daemon and simulation differ in
// which Runtime they are given and in nothing else.
#ifndef STRATA_COMMON_RUNTIME_RUNTIME_H_
#define STRATA_COMMON_RUNTIME_RUNTIME_H_

#include <memory>

#include "common/runtime/clock.h"
#include "common/runtime/executor.h"
#include "common/runtime/file_system.h"
#include "common/runtime/random.h"

namespace strata::runtime {

// Borrowed references; whoever builds a Runtime keeps the parts alive.
struct Runtime {
  Clock& clock;
  Executor& executor;
  Entropy& entropy;
  FileSystem& files;
};

// The machine's own clock, thread pool, entropy and disk.
class SystemRuntime {
 public:
  // `num_threads`: of the pool. Destruction waits for work under way and drops timers.
  explicit SystemRuntime(int num_threads);
  ~SystemRuntime();
  Runtime get();

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace strata::runtime

#endif  // STRATA_COMMON_RUNTIME_RUNTIME_H_
