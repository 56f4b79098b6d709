// Streams a mapped blob as chunks that are never copied.
#ifndef STRATA_SERVER_SERVICE_FETCH_REACTOR_H_
#define STRATA_SERVER_SERVICE_FETCH_REACTOR_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <memory>
#include <string>

#include "server/service/backend.h"

namespace strata::service {

// One Fetch call. The next chunk is made when gRPC has taken the one before, so that a slow reader holds one chunk, not
// the blob. Deletes itself.
class FetchReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  // Sends [offset, end) of what OpenBlob answers. INVALID_ARGUMENT: an offset behind the end.
  void Begin(Backend& backend, const Caller& caller, const std::string& sha256, uint64_t offset);
  FetchReactor* Fail(const absl::Status& status);

 private:
  void Opened(absl::StatusOr<std::shared_ptr<const runtime::Mapping>> mapping);
  void SendNext();
  void OnWriteDone(bool ok) override;
  void OnDone() override { delete this; }

  std::shared_ptr<const runtime::Mapping> mapping_;
  uint64_t offset_ = 0;
  grpc::ByteBuffer chunk_;
};

}  // namespace strata::service

#endif  // STRATA_SERVER_SERVICE_FETCH_REACTOR_H_
