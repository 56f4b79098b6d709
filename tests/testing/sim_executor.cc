#include "tests/testing/sim_executor.h"

#include <algorithm>

namespace strata::testing {

absl::Time SimClock::Now() const { return absl::FromUnixSeconds(1767225600) + Monotonic(); }

absl::Duration SimClock::Monotonic() const {
  const absl::MutexLock lock(&mutex_);
  return elapsed_;
}

void SimClock::Advance(absl::Duration by) {
  const absl::MutexLock lock(&mutex_);
  elapsed_ += by;
}

void SimExecutor::Run(runtime::Work work) { RunAfter(absl::ZeroDuration(), std::move(work)); }

runtime::TimerId SimExecutor::RunAfter(absl::Duration delay, runtime::Work work) {
  const absl::Duration time = clock_.Monotonic() + std::max(delay, absl::ZeroDuration());
  const absl::MutexLock lock(&mutex_);
  const runtime::TimerId id = next_++;
  events_.emplace(Key(time, id), std::move(work));
  times_.emplace(id, time);
  return id;
}

bool SimExecutor::Cancel(runtime::TimerId timer) {
  runtime::Work dropped;  // destroyed outside the lock
  const absl::MutexLock lock(&mutex_);
  const auto time = times_.find(timer);
  if (time == times_.end()) return false;
  const auto event = events_.find(Key(time->second, timer));
  dropped = std::move(event->second);
  events_.erase(event);
  times_.erase(time);
  return true;
}

bool SimExecutor::StepUntil(absl::Duration latest) {
  runtime::Work work;
  absl::Duration time;
  size_t number = 0;
  {
    const absl::MutexLock lock(&mutex_);
    if (events_.empty() || events_.begin()->first.first > latest) return false;
    const auto first = events_.begin();
    time = first->first.first;
    work = std::move(first->second);
    times_.erase(first->first.second);
    events_.erase(first);
    number = ++num_run_;
  }
  clock_.Advance(std::max(absl::ZeroDuration(), time - clock_.Monotonic()));
  if (observer_) observer_(number);
  std::move(work)();
  return true;
}

bool SimExecutor::Step() { return StepUntil(absl::InfiniteDuration()); }

size_t SimExecutor::RunUntilIdle(size_t limit) {
  size_t count = 0;
  while (count < limit && StepUntil(clock_.Monotonic())) ++count;
  return count;
}

size_t SimExecutor::RunFor(absl::Duration duration) {
  const absl::Duration end = clock_.Monotonic() + duration;
  size_t count = 0;
  while (StepUntil(end)) ++count;
  clock_.Advance(std::max(absl::ZeroDuration(), end - clock_.Monotonic()));
  return count;
}

bool SimExecutor::RunUntil(const std::function<bool()>& done, absl::Duration limit) {
  const absl::Duration end = clock_.Monotonic() + limit;
  while (!done()) {
    if (!StepUntil(end)) return false;
  }
  return true;
}

bool SimExecutor::DueNow() const { return !events_.empty() && events_.begin()->first.first <= clock_.Monotonic(); }

bool SimExecutor::WaitForEvent(absl::Duration real_time) {
  const absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(this, &SimExecutor::DueNow), real_time);
}

absl::Duration SimExecutor::UntilNext() const {
  const absl::MutexLock lock(&mutex_);
  if (events_.empty()) return absl::InfiniteDuration();
  return std::max(absl::ZeroDuration(), events_.begin()->first.first - clock_.Monotonic());
}

void SimExecutor::Clear() {
  std::map<Key, runtime::Work> dropped;  // destroyed outside the lock: it may cancel timers
  {
    const absl::MutexLock lock(&mutex_);
    dropped.swap(events_);
    times_.clear();
  }
}

size_t SimExecutor::num_pending() const {
  const absl::MutexLock lock(&mutex_);
  return events_.size();
}

size_t SimExecutor::num_run() const {
  const absl::MutexLock lock(&mutex_);
  return num_run_;
}

}  // namespace strata::testing
