// A pool of threads with timers.
#ifndef STRATA_COMMON_RUNTIME_SYSTEM_EXECUTOR_H_
#define STRATA_COMMON_RUNTIME_SYSTEM_EXECUTOR_H_

#include <memory>

#include "common/runtime/executor.h"

namespace strata::runtime {

// Work starts in the order of Run, on the first idle thread. Destruction drops timers that have not fired, runs what is
// queued and joins; it must not happen on one of the pool's own threads.
class SystemExecutor : public Executor {
 public:
  // REQUIRES: num_threads > 0.
  explicit SystemExecutor(int num_threads);
  ~SystemExecutor() override;
  SystemExecutor(const SystemExecutor&) = delete;
  SystemExecutor& operator=(const SystemExecutor&) = delete;

  void Run(Work work) override;
  TimerId RunAfter(absl::Duration delay, Work work) override;
  bool Cancel(TimerId timer) override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace strata::runtime

#endif  // STRATA_COMMON_RUNTIME_SYSTEM_EXECUTOR_H_
