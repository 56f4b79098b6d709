// Replies that cannot be forgotten, and the reactors built on them.
#ifndef STRATA_SERVER_SERVICE_REPLY_H_
#define STRATA_SERVER_SERVICE_REPLY_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>
#include <grpcpp/support/slice.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/runtime/executor.h"
#include "common/wire/codes.h"
#include "server/service/backend.h"

namespace strata::service {

inline grpc::Status ToGrpc(const absl::Status& status) { return wire::ToGrpc<grpc::Status>(status); }

// A continuation that runs exactly once: with what it is given, or with UNAVAILABLE when it is dropped (a call that is
// never finished would keep the server from shutting down).
template <typename T>
class Once {
 public:
  explicit Once(Reply<T> then) : then_(std::make_unique<Reply<T>>(std::move(then))) {}
  Once(Once&&) noexcept = default;
  Once& operator=(Once&&) = delete;
  ~Once() {
    if (then_ != nullptr) (*this)(absl::UnavailableError("the server is shutting down; try again later"));
  }
  void operator()(absl::StatusOr<T> result) {
    const std::unique_ptr<Reply<T>> then = std::move(then_);
    if (then != nullptr) std::move (*then)(std::move(result));
  }

 private:
  std::unique_ptr<Reply<T>> then_;
};

template <typename T>
Reply<T> MakeReply(Reply<T> then) {
  return [once = Once<T>(std::move(then))](absl::StatusOr<T> result) mutable { once(std::move(result)); };
}

// Work for an executor; `dropped` is run instead when the executor is torn down before.
inline runtime::Work MakeWork(absl::AnyInvocable<void(absl::Status) &&> then) {
  return [once = Once<bool>([then = std::move(then)](absl::StatusOr<bool> result) mutable {
            std::move(then)(result.status());
          })]() mutable { once(true); };
}

// Answers one unary call when the backend replies, on whatever thread; holds no thread meanwhile. Deletes itself.
template <typename Response>
class UnaryReactor final : public grpc::ServerUnaryReactor {
 public:
  explicit UnaryReactor(Response* response) : response_(response) {}

  Reply<Response> Answer() {
    return MakeReply<Response>([this](absl::StatusOr<Response> result) {
      if (result.ok()) *response_ = *std::move(result);
      Finish(ToGrpc(result.status()));
    });
  }
  UnaryReactor* Fail(const absl::Status& status) {
    Finish(ToGrpc(status));
    return this;
  }
  // Runs when the caller is gone. REQUIRES: set before the handler returns.
  void set_on_cancel(absl::AnyInvocable<void()> on_cancel) { on_cancel_ = std::move(on_cancel); }

 private:
  void OnCancel() override {
    if (on_cancel_) on_cancel_();
  }
  void OnDone() override { delete this; }

  Response* response_;
  absl::AnyInvocable<void()> on_cancel_;
};

template <typename Message>
grpc::ByteBuffer ToBuffer(const Message& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

template <typename Message>
bool FromBuffer(const grpc::ByteBuffer& buffer, Message* message) {
  grpc::Slice slice;
  if (!buffer.Valid()) return message->ParseFromString("");
  if (!buffer.DumpToSingleSlice(&slice).ok()) return false;
  return message->ParseFromArray(slice.begin(), static_cast<int>(slice.size()));
}

}  // namespace strata::service

#endif  // STRATA_SERVER_SERVICE_REPLY_H_
