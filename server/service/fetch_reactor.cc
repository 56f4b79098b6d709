#include "server/service/fetch_reactor.h"

#include "absl/strings/str_cat.h"
#include "common/wire/chunk.h"
#include "common/wire/chunk_buffer.h"
#include "server/service/reply.h"

namespace strata::service {

void FetchReactor::Begin(Backend& backend, const Caller& caller, const std::string& sha256, uint64_t offset) {
  offset_ = offset;
  using MappingReply = std::shared_ptr<const runtime::Mapping>;
  backend.OpenBlob(caller, sha256, MakeReply<MappingReply>([this](absl::StatusOr<MappingReply> mapping) {
                     Opened(std::move(mapping));
                   }));
}

FetchReactor* FetchReactor::Fail(const absl::Status& status) {
  Finish(ToGrpc(status));
  return this;
}

void FetchReactor::Opened(absl::StatusOr<std::shared_ptr<const runtime::Mapping>> mapping) {
  if (!mapping.ok()) return Finish(ToGrpc(mapping.status()));
  mapping_ = *std::move(mapping);
  const uint64_t size = mapping_->bytes().size();
  if (offset_ > size) {
    return Finish(ToGrpc(absl::InvalidArgumentError(
        absl::StrCat("the blob has ", size, " bytes, the fetch begins at ", offset_, "; begin at 0"))));
  }
  SendNext();
}

void FetchReactor::SendNext() {
  if (offset_ == mapping_->bytes().size()) return Finish(grpc::Status::OK);
  chunk_ = wire::MappedChunk<grpc::Slice, grpc::ByteBuffer>(mapping_, offset_, wire::kChunkBytes, &offset_);
  StartWrite(&chunk_);
}

void FetchReactor::OnWriteDone(bool ok) {
  if (!ok) return Finish(ToGrpc(absl::CancelledError("the site closed the stream")));
  SendNext();
}

}  // namespace strata::service
