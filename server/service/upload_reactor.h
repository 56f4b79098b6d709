// Takes an update's chunks off the wire and hands them to the backend's sink.
#ifndef STRATA_SERVER_SERVICE_UPLOAD_REACTOR_H_
#define STRATA_SERVER_SERVICE_UPLOAD_REACTOR_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/runtime/executor.h"
#include "server/service/backend.h"

namespace strata::service {

// One Upload call. Chunks are checked (CRC, offset) and written on the executor, one at a time; the next is asked for
// when the one before is written, so that HTTP/2's flow control holds back a site that is faster than the disk. The
// sink is dropped where it was called, not on a thread of gRPC's, and before the call is answered with an error of this
// class's own. Deletes itself.
class UploadReactor final : public grpc::ServerReadReactor<grpc::ByteBuffer> {
 public:
  // `context`, `response`: the call's own. `executor` is borrowed.
  UploadReactor(grpc::CallbackServerContext* context, grpc::ByteBuffer* response, runtime::Executor& executor)
      : context_(context), response_(response), executor_(executor) {}
  void Begin(Backend& backend, const Caller& caller, const std::string& assignment);
  UploadReactor* Fail(const absl::Status& status);

 private:
  // The steps follow each other and never overlap; after Finish none follows.
  void Opened(absl::StatusOr<std::unique_ptr<UploadSink>> sink);
  void OnReadDone(bool ok) override;
  void Consume(const absl::Status& started);
  absl::Status Write();
  void Complete(const absl::Status& started, bool gone);
  void OnDone() override { delete this; }

  grpc::CallbackServerContext* context_;
  grpc::ByteBuffer* response_;
  runtime::Executor& executor_;
  std::unique_ptr<UploadSink> sink_;
  grpc::ByteBuffer chunk_;
};

}  // namespace strata::service

#endif  // STRATA_SERVER_SERVICE_UPLOAD_REACTOR_H_
