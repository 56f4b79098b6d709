#include "common/runtime/executor.h"

#include <deque>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace strata::runtime {

struct Strand::State {
  explicit State(Executor& e) : executor(e) {}

  Executor& executor;
  absl::Mutex mutex;
  std::deque<Work> queue ABSL_GUARDED_BY(mutex);
  bool scheduled ABSL_GUARDED_BY(mutex) = false;

  // One item per turn on the executor: a busy strand does not hold a thread against others, and a simulator sees every
  // item as an event of its own.
  static void Schedule(const std::shared_ptr<State>& state) {
    state->executor.Run([state] { RunOne(state); });
  }

  static void RunOne(const std::shared_ptr<State>& state) {
    {
      Work work = state->Take();
      std::move(work)();
    }
    {
      const absl::MutexLock lock(&state->mutex);
      if (state->queue.empty()) {
        state->scheduled = false;
        return;
      }
    }
    Schedule(state);
  }

  Work Take() {
    const absl::MutexLock lock(&mutex);
    Work work = std::move(queue.front());
    queue.pop_front();
    return work;
  }
};

Strand::Strand(Executor& executor) : state_(std::make_shared<State>(executor)) {}

Strand::~Strand() = default;

void Strand::Post(Work work) {
  {
    const absl::MutexLock lock(&state_->mutex);
    state_->queue.push_back(std::move(work));
    if (state_->scheduled) return;
    state_->scheduled = true;
  }
  State::Schedule(state_);
}

}  // namespace strata::runtime
