// The answer of a call that answers later.
#ifndef STRATA_DEPLOY_SIMULATOR_AWAIT_H_
#define STRATA_DEPLOY_SIMULATOR_AWAIT_H_

#include <utility>

#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "server/service/reply.h"

namespace strata::sim {

// Runs `call` with a reply and blocks until that was answered; UNAVAILABLE: it was dropped unanswered. REQUIRES: the
// answer needs no thread that waits here.
template <typename T, typename Call>
absl::StatusOr<T> Await(Call call) {
  absl::StatusOr<T> result = absl::UnknownError("no answer");
  absl::Notification done;
  call(service::MakeReply<T>([&](absl::StatusOr<T> answer) {
    result = std::move(answer);
    done.Notify();
  }));
  done.WaitForNotification();
  return result;
}

}  // namespace strata::sim

#endif  // STRATA_DEPLOY_SIMULATOR_AWAIT_H_
