#include "common/runtime/system_executor.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

namespace strata::runtime {
namespace {

using SteadyTime = std::chrono::steady_clock::time_point;

// Far enough for any timer, near enough that adding it to a time point cannot overflow.
constexpr absl::Duration kLongestDelay = absl::Hours(24 * 365 * 10);

}  // namespace

struct SystemExecutor::State {
  using TimerKey = std::pair<SteadyTime, TimerId>;  // equal times fire in the order in which they were set

  std::mutex mutex;
  std::condition_variable work_ready;
  std::condition_variable timers_changed;
  std::deque<Work> queue;
  std::map<TimerKey, Work> timers;
  std::unordered_map<TimerId, SteadyTime> timer_times;
  TimerId next_timer = 1;
  bool stopping = false;
  std::vector<std::thread> threads;
  std::thread timer_thread;

  void RunQueue() {
    std::unique_lock lock(mutex);
    while (true) {
      work_ready.wait(lock, [this] { return stopping || !queue.empty(); });
      if (queue.empty()) return;
      {
        Work work = std::move(queue.front());
        queue.pop_front();
        lock.unlock();
        std::move(work)();
      }  // what the work captured is destroyed outside the lock
      lock.lock();
    }
  }

  void RunTimers() {
    std::unique_lock lock(mutex);
    while (!stopping) {
      if (timers.empty()) {
        timers_changed.wait(lock);
        continue;
      }
      const auto first = timers.begin();
      if (first->first.first > std::chrono::steady_clock::now()) {
        const SteadyTime due = first->first.first;
        timers_changed.wait_until(lock, due);
        continue;
      }
      queue.push_back(std::move(first->second));
      timer_times.erase(first->first.second);
      timers.erase(first);
      work_ready.notify_one();
    }
  }
};

SystemExecutor::SystemExecutor(int num_threads) : state_(std::make_unique<State>()) {
  for (int i = 0; i < num_threads; ++i) state_->threads.emplace_back([state = state_.get()] { state->RunQueue(); });
  state_->timer_thread = std::thread([state = state_.get()] { state->RunTimers(); });
}

SystemExecutor::~SystemExecutor() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->timers_changed.notify_all();
  state_->timer_thread.join();
  state_->work_ready.notify_all();
  for (std::thread& thread : state_->threads) thread.join();
}

void SystemExecutor::Run(Work work) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->queue.push_back(std::move(work));
  }
  state_->work_ready.notify_one();
}

TimerId SystemExecutor::RunAfter(absl::Duration delay, Work work) {
  const auto wait = absl::ToChronoNanoseconds(std::clamp(delay, absl::ZeroDuration(), kLongestDelay));
  const SteadyTime due = std::chrono::steady_clock::now() + wait;
  TimerId id = 0;
  {
    const std::lock_guard lock(state_->mutex);
    id = state_->next_timer++;
    state_->timers.emplace(State::TimerKey(due, id), std::move(work));
    state_->timer_times.emplace(id, due);
  }
  state_->timers_changed.notify_one();
  return id;
}

bool SystemExecutor::Cancel(TimerId timer) {
  Work dropped;  // destroyed after the lock is released: it may own anything
  const std::lock_guard lock(state_->mutex);
  const auto time = state_->timer_times.find(timer);
  if (time == state_->timer_times.end()) return false;
  const auto entry = state_->timers.find(State::TimerKey(time->second, timer));
  dropped = std::move(entry->second);
  state_->timers.erase(entry);
  state_->timer_times.erase(time);
  return true;
}

}  // namespace strata::runtime
