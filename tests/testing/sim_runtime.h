// A whole machine in memory: time, work, entropy and disk, all decided by a seed.
#ifndef STRATA_TESTS_TESTING_SIM_RUNTIME_H_
#define STRATA_TESTS_TESTING_SIM_RUNTIME_H_

#include <cstdint>

#include "common/runtime/runtime.h"
#include "tests/testing/sim_entropy.h"
#include "tests/testing/sim_executor.h"
#include "tests/testing/sim_file_system.h"

namespace strata::testing {

// One machine. Several machines in one simulation share a clock and an executor: see get(files).
class SimRuntime {
 public:
  explicit SimRuntime(uint64_t seed = 1) : executor_(clock_), entropy_(seed), files_(clock_) {}

  runtime::Runtime get() { return get(files_); }
  // The same time and work with another machine's disk.
  runtime::Runtime get(runtime::FileSystem& files) {
    return {.clock = clock_, .executor = executor_, .entropy = entropy_, .files = files};
  }

  SimClock& clock() { return clock_; }
  SimExecutor& executor() { return executor_; }
  SimEntropy& entropy() { return entropy_; }
  SimFileSystem& files() { return files_; }

 private:
  SimClock clock_;
  SimExecutor executor_;
  SimEntropy entropy_;
  SimFileSystem files_;
};

}  // namespace strata::testing

#endif  // STRATA_TESTS_TESTING_SIM_RUNTIME_H_
