#include "client/link/call_registry.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/wire/chunk.h"
#include "common/wire/codes.h"

namespace strata::link {

absl::Status ShutDownStatus() { return absl::CancelledError("the link to the server was shut down"); }

void CallContext::Watch(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  timeout_ = timeout;
  watching_ = true;
  Arm();
}

void CallContext::Arm() {
  timer_ = executor_.RunAfter(timeout_, [weak = weak_from_this()] {
    if (const std::shared_ptr<CallContext> call = weak.lock()) call->Tick();
  });
}

void CallContext::Tick() {
  {
    absl::MutexLock lock(&mutex_);
    if (!watching_) return;
    const uint64_t now = progress_.load(std::memory_order_relaxed);
    if (now != seen_) {
      seen_ = now;
      Arm();
      return;
    }
    watching_ = false;
  }
  End(absl::DeadlineExceededError("the server did not move for too long"));
}

void CallContext::StopWatching() {
  absl::MutexLock lock(&mutex_);
  if (watching_) executor_.Cancel(timer_);
  watching_ = false;
}

void CallContext::End(absl::Status reason) {
  {
    absl::MutexLock lock(&mutex_);
    if (reason_.ok()) reason_ = std::move(reason);
  }
  grpc_.TryCancel();
}

absl::Status CallContext::Result(const grpc::Status& status) {
  absl::MutexLock lock(&mutex_);
  return reason_.ok() ? wire::FromGrpc(status) : reason_;
}

std::shared_ptr<CallContext> CallRegistry::Begin() {
  absl::MutexLock lock(&mutex_);
  if (shut_) return nullptr;
  auto call = std::make_shared<CallContext>(executor_, ++last_id_);
  if (!site_.empty()) call->grpc().AddMetadata(std::string(wire::kSiteKey), site_);
  calls_.emplace(call->id(), call);
  return call;
}

void CallRegistry::Finish(uint64_t id) {
  absl::MutexLock lock(&mutex_);
  calls_.erase(id);
}

void CallRegistry::Shutdown() {
  std::vector<std::shared_ptr<CallContext>> calls;
  {
    absl::MutexLock lock(&mutex_);
    shut_ = true;
    for (const auto& [id, call] : calls_) calls.push_back(call.lock());
  }
  for (const auto& call : calls) {
    if (call != nullptr) call->End(ShutDownStatus());
  }
}

void CallRegistry::AwaitEnd() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(
      +[](std::map<uint64_t, std::weak_ptr<CallContext>>* calls) { return calls->empty(); }, &calls_));
}

}  // namespace strata::link
