// Simulated time and concurrency: one event queue, run by whoever pumps it.
#ifndef STRATA_TESTS_TESTING_SIM_EXECUTOR_H_
#define STRATA_TESTS_TESTING_SIM_EXECUTOR_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <unordered_map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/runtime/clock.h"
#include "common/runtime/executor.h"

namespace strata::testing {

// Starts at 2026-01-01 UTC; moves only by Advance (or by the executor that owns it). Thread-safe.
class SimClock : public runtime::Clock {
 public:
  absl::Time Now() const override;
  absl::Duration Monotonic() const override;
  // REQUIRES: by >= 0.
  void Advance(absl::Duration by);

 private:
  mutable absl::Mutex mutex_;
  absl::Duration elapsed_ ABSL_GUARDED_BY(mutex_);
};

// Events are ordered by (time, sequence of being posted), so a run is a function of what is posted. Posting is
// thread-safe (for link threads); pumping is for one thread, and never from inside an event.
class SimExecutor : public runtime::Executor {
 public:
  explicit SimExecutor(SimClock& clock) : clock_(clock) {}

  void Run(runtime::Work work) override;
  runtime::TimerId RunAfter(absl::Duration delay, runtime::Work work) override;
  bool Cancel(runtime::TimerId timer) override;

  // Runs the next event, moving the clock to its time. False: there is none.
  bool Step();
  // Runs what is due now, and what that posts for now; timers ahead wait. Returns the number of events; stops at the
  // limit, which only a loop without end reaches.
  size_t RunUntilIdle(size_t limit = 1'000'000);
  // Runs everything that is due within `duration`; the clock then stands at its end.
  size_t RunFor(absl::Duration duration);
  // Steps until `done` holds (asked before every event). False: no event was left, or the clock would pass `limit` from
  // now.
  bool RunUntil(const std::function<bool()>& done, absl::Duration limit = absl::Hours(24));
  // Time from now to the next event; 0 when one is due, InfiniteDuration when there is none.
  absl::Duration UntilNext() const;
  // Blocks in real time until an event is due now, for work that other threads post. False: none came.
  bool WaitForEvent(absl::Duration real_time);

  // Drops every event that has not run, as a crash of the process would.
  void Clear();
  size_t num_pending() const;
  size_t num_run() const;
  // Called before every event with its number; for invariants and fault injection.
  void set_observer(std::function<void(size_t)> observer) { observer_ = std::move(observer); }

 private:
  using Key = std::pair<absl::Duration, runtime::TimerId>;

  bool StepUntil(absl::Duration latest);
  bool DueNow() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  SimClock& clock_;
  std::function<void(size_t)> observer_;
  mutable absl::Mutex mutex_;
  std::map<Key, runtime::Work> events_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<runtime::TimerId, absl::Duration> times_ ABSL_GUARDED_BY(mutex_);
  runtime::TimerId next_ ABSL_GUARDED_BY(mutex_) = 1;
  size_t num_run_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace strata::testing

#endif  // STRATA_TESTS_TESTING_SIM_EXECUTOR_H_
