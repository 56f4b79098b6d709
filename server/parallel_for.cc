#include "server/parallel_for.h"

#include <algorithm>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace strata::server {
namespace {

class Loop {
 public:
  Loop(int64_t count, const std::function<void(int64_t)>& body) : body_(body), count_(count) {}

  // Takes iterations until none is left. `body_` is only touched while one is taken: a helper that comes late finds
  // none.
  void Work() {
    int64_t index = 0;
    while (Take(index)) {
      body_(index);
      absl::MutexLock lock(&mutex_);
      --running_;
    }
  }

  void WaitForHelpers() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(
        +[](int* running) { return *running == 0; }, &running_));
  }

 private:
  bool Take(int64_t& index) {
    absl::MutexLock lock(&mutex_);
    if (next_ == count_) return false;
    index = next_++;
    ++running_;
    return true;
  }

  const std::function<void(int64_t)>& body_;
  const int64_t count_;
  absl::Mutex mutex_;
  int64_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  int running_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace

void ParallelFor(runtime::Executor& executor, int num_threads, int64_t count,
                 const std::function<void(int64_t)>& body) {
  auto loop = std::make_shared<Loop>(count, body);
  const int64_t helpers = std::min<int64_t>(num_threads, count) - 1;
  for (int64_t i = 0; i < helpers; ++i) executor.Run([loop] { loop->Work(); });
  loop->Work();
  loop->WaitForHelpers();
}

}  // namespace strata::server
