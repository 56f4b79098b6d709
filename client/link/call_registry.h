// The calls under way of one link: their time-outs, their cancellation, and the end of the last.
#ifndef STRATA_CLIENT_LINK_CALL_REGISTRY_H_
#define STRATA_CLIENT_LINK_CALL_REGISTRY_H_

#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/runtime/executor.h"

namespace strata::link {

// One gRPC call with its time-out. Thread-safe. It owns a reference to its channel, and gRPC 1.51 breaks when the last
// of those goes on one of its own callback threads; so it is destroyed on the executor, never in a reaction.
class CallContext : public std::enable_shared_from_this<CallContext> {
 public:
  CallContext(runtime::Executor& executor, uint64_t id) : executor_(executor), id_(id) {}

  uint64_t id() const { return id_; }
  grpc::ClientContext& grpc() { return grpc_; }
  // Ends the call with DEADLINE_EXCEEDED when `timeout` passes without Progress. Called once, before the call starts.
  void Watch(absl::Duration timeout);
  void Progress() { progress_.fetch_add(1, std::memory_order_relaxed); }
  void StopWatching();
  // Ends the call; the first reason counts.
  void End(absl::Status reason);
  // What to tell the caller: the reason of End where there is one, else what the call itself says.
  absl::Status Result(const grpc::Status& status);

 private:
  void Arm() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Tick();

  runtime::Executor& executor_;
  const uint64_t id_;
  grpc::ClientContext grpc_;
  std::atomic<uint64_t> progress_{0};
  absl::Mutex mutex_;
  absl::Duration timeout_ ABSL_GUARDED_BY(mutex_);
  uint64_t seen_ ABSL_GUARDED_BY(mutex_) = 0;
  runtime::TimerId timer_ ABSL_GUARDED_BY(mutex_) = 0;
  bool watching_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status reason_ ABSL_GUARDED_BY(mutex_);
};

// Thread-safe.
class CallRegistry {
 public:
  CallRegistry(runtime::Executor& executor, std::string site) : executor_(executor), site_(std::move(site)) {}

  // A context for a new call, with the site's name in its metadata; null after Shutdown.
  std::shared_ptr<CallContext> Begin();
  // The last thing that a call does with this link; its context may already be gone.
  void Finish(uint64_t id);
  void Shutdown();
  void AwaitEnd();

  runtime::Executor& executor() { return executor_; }

 private:
  runtime::Executor& executor_;
  const std::string site_;
  absl::Mutex mutex_;
  bool shut_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<uint64_t, std::weak_ptr<CallContext>> calls_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
};

absl::Status ShutDownStatus();

}  // namespace strata::link

#endif  // STRATA_CLIENT_LINK_CALL_REGISTRY_H_
