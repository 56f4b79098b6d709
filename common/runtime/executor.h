// The only source of concurrency: work to run now or later, and strands that keep it in order.
#ifndef STRATA_COMMON_RUNTIME_EXECUTOR_H_
#define STRATA_COMMON_RUNTIME_EXECUTOR_H_

#include <cstdint>
#include <memory>

#include "absl/functional/any_invocable.h"
#include "absl/time/time.h"

namespace strata::runtime {

using Work = absl::AnyInvocable<void() &&>;
using TimerId = uint64_t;  // 0 is never a timer

// Thread-safe. `Run` never runs the work inside the call.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual void Run(Work work) = 0;
  // Runs `work` once, `delay` from now. Cancel returns false when it has run or begun.
  virtual TimerId RunAfter(absl::Duration delay, Work work) = 0;
  virtual bool Cancel(TimerId timer) = 0;
};

// Runs what is posted to it in order, one at a time, on an Executor. Thread-safe. What was posted before the strand is
// destroyed still runs.
class Strand {
 public:
  // `executor` is borrowed and must outlive the strand and the work posted to it.
  explicit Strand(Executor& executor);
  ~Strand();
  Strand(const Strand&) = delete;
  Strand& operator=(const Strand&) = delete;
  void Post(Work work);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace strata::runtime

#endif  // STRATA_COMMON_RUNTIME_EXECUTOR_H_
