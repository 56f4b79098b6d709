#include "client/link/fetch_call.h"

#include <grpcpp/channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/client_callback.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "common/status/status_macros.h"
#include "common/wire/chunk.h"
#include "common/wire/chunk_buffer.h"
#include "proto/federation.pb.h"

namespace strata::link {
namespace {

constexpr char kMethod[] = "/strata.v1.Federation/Fetch";

absl::Status WentAway() { return absl::CancelledError("the executor was torn down"); }

}  // namespace

// One Fetch call of a FetchCall. Owns itself until OnDone, then the executor's work does.
class FetchStream final : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  FetchStream(std::shared_ptr<FetchCall> owner, std::shared_ptr<CallContext> call)
      : owner_(std::move(owner)), call_(std::move(call)) {}

  void Begin(uint64_t offset) {
    v1::FetchRequest request;
    request.set_sha256(owner_->plan_.blob.sha256);
    request.set_offset(offset);
    const grpc::Slice slice(request.SerializeAsString());
    request_ = grpc::ByteBuffer(&slice, 1);
    grpc::GenericStub stub(owner_->plan_.channel);
    stub.PrepareBidiStreamingCall(&call_->grpc(), kMethod, grpc::StubOptions(), this);
    AddHold();  // chunks are consumed, and the next asked for, on the executor
    StartRead(&chunk_);
    StartWriteLast(&request_, grpc::WriteOptions());
    StartCall();
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return RemoveHold();
    call_->Progress();
    auto dropped = absl::MakeCleanup([this] { Stop(WentAway()); });
    owner_->runtime_.executor.Run([this, dropped = std::move(dropped)]() mutable {
      std::move(dropped).Cancel();
      if (absl::Status status = owner_->Append(chunk_); !status.ok()) return Stop(std::move(status));
      StartRead(&chunk_);
    });
  }

  void Stop(absl::Status reason) {
    call_->End(std::move(reason));
    RemoveHold();
  }

  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<CallRegistry> registry = owner_->registry_;
    const uint64_t id = call_->id();
    const absl::Status result = call_->Result(status);
    call_->StopWatching();
    FetchCall& owner = *owner_;
    owner.Post([stream = std::unique_ptr<FetchStream>(this), result]() mutable {
      const std::shared_ptr<FetchCall> owner = stream->owner_;
      stream.reset();
      owner->StreamEnded(result);
    });
    registry->Finish(id);
  }

  const std::shared_ptr<FetchCall> owner_;
  const std::shared_ptr<CallContext> call_;
  grpc::ByteBuffer request_, chunk_;
};

FetchCall::FetchCall(FetchPlan plan, runtime::Runtime runtime, std::shared_ptr<CallRegistry> registry,
                     Callback<uint64_t> done)
    : plan_(std::move(plan)),
      part_path_(absl::StrCat(plan_.path, ".part")),
      runtime_(runtime),
      registry_(std::move(registry)),
      done_(std::move(done)) {}

void FetchCall::Start() {
  whole_ = registry_->Begin();
  Post([self = shared_from_this()] { self->Prepare(); });
}

void FetchCall::Post(absl::AnyInvocable<void() &&> step) {
  auto dropped = absl::MakeCleanup([self = shared_from_this()] { self->Finish(WentAway()); });
  runtime_.executor.Run([self = shared_from_this(), step = std::move(step), dropped = std::move(dropped)]() mutable {
    std::move(dropped).Cancel();
    const absl::Status ended = self->whole_ == nullptr ? ShutDownStatus() : self->whole_->Result(grpc::Status::OK);
    if (!ended.ok()) return self->Finish(ended);
    std::move(step)();
  });
}

void FetchCall::Prepare() {
  if (absl::Status status = OpenPart(); !status.ok()) return Finish(status);
  resumed_ = offset_ > 0;
  BeginStream();
}

absl::Status FetchCall::OpenPart() {
  STRATA_ASSIGN_OR_RETURN(part_, runtime_.files.Open(part_path_, runtime::OpenMode::kCreate));
  STRATA_ASSIGN_OR_RETURN(uint64_t size, part_->Size());
  if (size > plan_.blob.size) {
    size = 0;
    STRATA_RETURN_IF_ERROR(part_->Truncate(0));
  }
  std::vector<std::byte> buffer(std::min<uint64_t>(size, wire::kChunkBytes));
  while (offset_ < size) {
    STRATA_ASSIGN_OR_RETURN(const size_t count, part_->ReadAt(offset_, buffer));
    if (count == 0) break;
    digest_.Update(std::span(buffer).first(count));
    offset_ += count;
  }
  return absl::OkStatus();
}

void FetchCall::BeginStream() {
  if (offset_ == plan_.blob.size) return Conclude();
  const std::shared_ptr<CallContext> call = registry_->Begin();
  if (call == nullptr) return Finish(ShutDownStatus());
  call->Watch(plan_.idle_timeout);
  (new FetchStream(shared_from_this(), call))->Begin(offset_);
}

absl::Status FetchCall::Append(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  STRATA_ASSIGN_OR_RETURN(const wire::ChunkView chunk, wire::ParseChunkBuffer(buffer, slices));
  if (chunk.offset != offset_ || chunk.data_bytes == 0 || chunk.data_bytes > plan_.blob.size - offset_) {
    return absl::InternalError(absl::StrCat("the server sent ", chunk.data_bytes, " bytes at ", chunk.offset,
                                            " of a blob of ", plan_.blob.size, "; expected those at ", offset_));
  }
  for (const auto& piece : chunk.data) {
    STRATA_RETURN_IF_ERROR(part_->WriteAt(offset_, piece));
    digest_.Update(piece);
    offset_ += piece.size();
    received_ += piece.size();
  }
  return absl::OkStatus();
}

void FetchCall::StreamEnded(const absl::Status& status) {
  if (!status.ok()) return Finish(status);
  Conclude();
}

void FetchCall::Conclude() {
  if (offset_ != plan_.blob.size) {
    return Finish(absl::DataLossError(absl::StrCat("the server ended the blob after ", offset_, " of ", plan_.blob.size,
                                                   " bytes; what came is kept in ", part_path_)));
  }
  if (digest_.Finish() == plan_.blob.sha256) {
    if (absl::Status status = Publish(); !status.ok()) return Finish(status);
    return Finish(received_);
  }
  digest_ = secure::Sha256Stream();
  offset_ = 0;
  if (absl::Status status = part_->Truncate(0); !status.ok()) return Finish(status);
  if (resumed_) {
    // The part on disk may have been torn by a crash: once more from the start.
    resumed_ = false;
    return BeginStream();
  }
  part_.reset();
  absl::Status removed = runtime_.files.Remove(part_path_);
  Finish(absl::DataLossError(absl::StrCat("blob ", secure::ToHex(plan_.blob.sha256),
                                          " arrived with another digest; it was not kept",
                                          removed.ok() ? "" : ", but its part could not be removed")));
}

absl::Status FetchCall::Publish() {
  STRATA_RETURN_IF_ERROR(part_->Sync());
  part_.reset();
  STRATA_RETURN_IF_ERROR(runtime_.files.Rename(part_path_, plan_.path));
  return runtime_.files.SyncDirectory(runtime::DirName(plan_.path));
}

void FetchCall::Finish(absl::StatusOr<uint64_t> result) {
  if (finished_) return;
  finished_ = true;
  part_.reset();
  std::move(done_)(std::move(result));
  if (whole_ != nullptr) registry_->Finish(whole_->id());
}

}  // namespace strata::link
