#include "client/link/submit_call.h"

#include <grpcpp/channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/client_callback.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/link/convert.h"
#include "common/wire/chunk.h"
#include "common/wire/chunk_buffer.h"

namespace strata::link {
namespace {

constexpr char kMethod[] = "/strata.v1.Federation/Upload";

absl::StatusOr<Receipt> ReadReceipt(const grpc::ByteBuffer& buffer, const std::string& assignment) {
  grpc::Slice slice;
  v1::Receipt receipt;
  const bool read = buffer.Valid() && buffer.DumpToSingleSlice(&slice).ok() &&
                    receipt.ParseFromArray(slice.begin(), static_cast<int>(slice.size()));
  if (!read) return absl::InternalError("the server's answer breaks the protocol: an upload without a receipt");
  return FromProto(receipt, assignment);
}

}  // namespace

// The Upload call of a SubmitCall. Owns itself until OnDone, then the executor's work does.
class UploadStream final : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  UploadStream(std::unique_ptr<SubmitCall> owner, std::shared_ptr<CallContext> call, uint64_t offset)
      : owner_(std::move(owner)), call_(std::move(call)), offset_(offset) {}

  void Begin() {
    call_->grpc().AddMetadata(std::string(wire::kAssignmentKey), owner_->plan_.assignment);
    grpc::GenericStub stub(owner_->plan_.channel);
    stub.PrepareBidiStreamingCall(&call_->grpc(), kMethod, grpc::StubOptions(), this);
    StartRead(&response_);
    if (offset_ == size()) {
      StartWritesDone();
    } else {
      SendNext();
    }
    StartCall();
  }

 private:
  uint64_t size() const { return owner_->plan_.update.tensors->bytes().size(); }

  void SendNext() {
    chunk_ = wire::MappedChunk<grpc::Slice, grpc::ByteBuffer>(owner_->plan_.update.tensors, offset_,
                                                              owner_->plan_.chunk_bytes, &offset_);
    if (offset_ == size()) {
      StartWriteLast(&chunk_, grpc::WriteOptions());
    } else {
      StartWrite(&chunk_);
    }
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return;  // OnDone says why
    call_->Progress();
    if (offset_ < size()) SendNext();
  }

  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<CallRegistry> registry = owner_->registry_;
    const uint64_t id = call_->id();
    const absl::Status result = call_->Result(status);
    call_->StopWatching();
    registry->executor().Run([stream = std::unique_ptr<UploadStream>(this), result]() mutable {
      absl::StatusOr<Receipt> receipt = result.ok() ? ReadReceipt(stream->response_, stream->owner_->plan_.assignment)
                                                    : absl::StatusOr<Receipt>(result);
      Callback<Receipt> done = std::move(stream->owner_->done_);
      stream.reset();
      std::move(done)(std::move(receipt));
    });
    registry->Finish(id);
  }

  const std::unique_ptr<SubmitCall> owner_;
  const std::shared_ptr<CallContext> call_;
  uint64_t offset_;
  grpc::ByteBuffer chunk_, response_;
};

SubmitCall::SubmitCall(SubmitPlan plan, std::shared_ptr<CallRegistry> registry, Callback<Receipt> done)
    : plan_(std::move(plan)),
      registry_(std::move(registry)),
      done_(std::move(done)),
      stub_(v1::Federation::NewStub(plan_.channel)) {}

void SubmitCall::Start(std::unique_ptr<SubmitCall> call) {
  call->call_ = call->registry_->Begin();
  if (call->call_ == nullptr) return Finish(std::move(call), ShutDownStatus());
  call->request_.set_assignment(call->plan_.assignment);
  v1::SignedManifest* manifest = call->request_.mutable_manifest();
  manifest->set_manifest(call->plan_.update.manifest);
  manifest->set_signature(call->plan_.update.signature);
  manifest->set_key_id(call->plan_.update.key_id);
  call->call_->Watch(call->plan_.call_timeout);
  SubmitCall* raw = call.release();
  raw->stub_->async()->BeginSubmit(&raw->call_->grpc(), &raw->request_, &raw->response_,
                                   [raw](const grpc::Status& status) {
                                     const absl::Status result = raw->call_->Result(status);
                                     Announced(std::unique_ptr<SubmitCall>(raw), result);
                                   });
}

void SubmitCall::Announced(std::unique_ptr<SubmitCall> call, const absl::Status& status) {
  call->call_->StopWatching();
  if (!status.ok()) return Finish(std::move(call), status);
  if (call->response_.has_receipt()) {
    absl::StatusOr<Receipt> receipt = FromProto(call->response_.receipt(), call->plan_.assignment);
    return Finish(std::move(call), std::move(receipt));
  }
  const uint64_t size = call->plan_.update.tensors->bytes().size();
  const uint64_t offset = call->response_.offset();
  if (call->response_.answer_case() != v1::BeginSubmitResponse::kOffset || offset > size) {
    return Finish(std::move(call),
                  absl::InternalError(absl::StrCat("the server's answer breaks the protocol: it wants an update of ",
                                                   size, " bytes from ", offset, " on")));
  }
  const std::shared_ptr<CallRegistry> registry = call->registry_;
  const uint64_t announced = call->call_->id();
  std::shared_ptr<CallContext> upload = registry->Begin();
  if (upload == nullptr) return Finish(std::move(call), ShutDownStatus());
  registry->Finish(announced);
  upload->Watch(call->plan_.idle_timeout);
  (new UploadStream(std::move(call), std::move(upload), offset))->Begin();
}

void SubmitCall::Finish(std::unique_ptr<SubmitCall> call, absl::StatusOr<Receipt> result) {
  const std::shared_ptr<CallRegistry> registry = call->registry_;
  const uint64_t id = call->call_ == nullptr ? 0 : call->call_->id();
  registry->executor().Run([call = std::move(call), result = std::move(result)]() mutable {
    Callback<Receipt> done = std::move(call->done_);
    call.reset();
    std::move(done)(std::move(result));
  });
  registry->Finish(id);
}

}  // namespace strata::link
