#include "server/service/upload_reactor.h"

#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status/status_macros.h"
#include "common/wire/chunk_buffer.h"
#include "server/service/reply.h"

namespace strata::service {

void UploadReactor::Begin(Backend& backend, const Caller& caller, const std::string& assignment) {
  using Sink = std::unique_ptr<UploadSink>;
  backend.OpenUpload(caller, assignment,
                     MakeReply<Sink>([this](absl::StatusOr<Sink> sink) { Opened(std::move(sink)); }));
}

UploadReactor* UploadReactor::Fail(const absl::Status& status) {
  sink_.reset();
  Finish(ToGrpc(status));
  return this;
}

void UploadReactor::Opened(absl::StatusOr<std::unique_ptr<UploadSink>> sink) {
  if (!sink.ok()) {
    Fail(sink.status());
    return;
  }
  sink_ = *std::move(sink);
  StartRead(&chunk_);
}

void UploadReactor::OnReadDone(bool ok) {
  if (ok) {
    executor_.Run(MakeWork([this](const absl::Status& started) { Consume(started); }));
    return;
  }
  const bool gone = context_->IsCancelled();
  executor_.Run(MakeWork([this, gone](const absl::Status& started) { Complete(started, gone); }));
}

void UploadReactor::Consume(const absl::Status& started) {
  absl::Status status = started.ok() ? Write() : started;
  if (!status.ok()) {
    Fail(status);
    return;
  }
  StartRead(&chunk_);
}

absl::Status UploadReactor::Write() {
  std::vector<grpc::Slice> slices;
  STRATA_ASSIGN_OR_RETURN(const wire::ChunkView chunk, wire::ParseChunkBuffer(chunk_, slices));
  if (chunk.offset != sink_->expected_offset()) {
    return absl::InvalidArgumentError(absl::StrCat("a chunk begins at ", chunk.offset, ", expected ",
                                                   sink_->expected_offset(), "; ask BeginSubmit where to go on"));
  }
  for (const auto& piece : chunk.data) {
    STRATA_RETURN_IF_ERROR(
        sink_->WriteChunk(std::string_view(reinterpret_cast<const char*>(piece.data()), piece.size())));
  }
  return absl::OkStatus();
}

void UploadReactor::Complete(const absl::Status& started, bool gone) {
  if (!started.ok() || gone) {
    Fail(started.ok() ? absl::CancelledError("the site closed the stream before the update was whole") : started);
    return;
  }
  // The answer may come inside the sink's own call, and take this reactor with it; the sink outlives both.
  const std::unique_ptr<UploadSink> sink = std::move(sink_);
  sink->Finish(MakeReply<v1::Receipt>([this](absl::StatusOr<v1::Receipt> receipt) {
    if (receipt.ok()) *response_ = ToBuffer(*receipt);
    Finish(ToGrpc(receipt.status()));
  }));
}

}  // namespace strata::service
