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

// The Upload call of a SubmitCall. Deletes itself.
class UploadStream final : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  UploadStream(std::shared_ptr<SubmitCall> owner, std::shared_ptr<CallContext> call, uint64_t offset)
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
    const absl::Status result = call_->Result(status);
    owner_->registry_->Finish(call_);
    owner_->Finish(result.ok() ? ReadReceipt(response_, owner_->plan_.assignment) : result);
    delete this;
  }

  const std::shared_ptr<SubmitCall> owner_;
  const std::shared_ptr<CallContext> call_;
  uint64_t offset_;
  grpc::ByteBuffer chunk_, response_;
};

SubmitCall::SubmitCall(SubmitPlan plan, std::shared_ptr<CallRegistry> registry, Callback<Receipt> done)
    : plan_(std::move(plan)),
      registry_(std::move(registry)),
      done_(std::move(done)),
      stub_(v1::Federation::NewStub(plan_.channel)) {}

void SubmitCall::Start() {
  call_ = registry_->Begin();
  if (call_ == nullptr) return Finish(ShutDownStatus());
  request_.set_assignment(plan_.assignment);
  request_.mutable_manifest()->set_manifest(plan_.update.manifest);
  request_.mutable_manifest()->set_signature(plan_.update.signature);
  request_.mutable_manifest()->set_key_id(plan_.update.key_id);
  call_->Watch(plan_.call_timeout);
  stub_->async()->BeginSubmit(&call_->grpc(), &request_, &response_, [self = shared_from_this()](grpc::Status status) {
    self->Announced(self->call_->Result(status));
  });
}

void SubmitCall::Announced(const absl::Status& status) {
  call_->StopWatching();
  if (!status.ok()) return Finish(status);
  if (response_.has_receipt()) return Finish(FromProto(response_.receipt(), plan_.assignment));
  const uint64_t size = plan_.update.tensors->bytes().size();
  if (response_.answer_case() != v1::BeginSubmitResponse::kOffset || response_.offset() > size) {
    return Finish(absl::InternalError(absl::StrCat("the server's answer breaks the protocol: it wants an update of ",
                                                   size, " bytes from ", response_.offset(), " on")));
  }
  // The announcement stays registered until the upload has ended.
  const std::shared_ptr<CallContext> upload = registry_->Begin();
  if (upload == nullptr) return Finish(ShutDownStatus());
  upload->Watch(plan_.idle_timeout);
  (new UploadStream(shared_from_this(), upload, response_.offset()))->Begin();
}

void SubmitCall::Finish(absl::StatusOr<Receipt> result) {
  registry_->executor().Run(
      [done = std::move(done_), result = std::move(result)]() mutable { std::move(done)(std::move(result)); });
  if (call_ != nullptr) registry_->Finish(call_);
}

}  // namespace strata::link
