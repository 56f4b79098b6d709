#include "server/service/admin_service.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/wire/chunk.h"
#include "common/wire/version.h"
#include "server/service/reply.h"

namespace strata::service {
namespace {

bool HasEnded(v1::JobState state) { return state == v1::DONE || state == v1::FAILED || state == v1::ABORTED; }

// Follows one job. A wait at the backend and a write never overlap.
class WatchReactor final : public grpc::ServerWriteReactor<v1::JobReport> {
 public:
  WatchReactor(Backend& backend, std::string job) : backend_(backend), job_(std::move(job)) {}

  // Waits for a report newer than `seen_`. The wait's token outlives the reactor: the answer may delete it before
  // WatchJob returns.
  void Wait() {
    const std::shared_ptr<Token> token = token_;
    {
      absl::MutexLock lock(&token->mutex);
      token->waiting = 0;
    }
    using Answer = std::pair<uint64_t, v1::JobReport>;
    Backend& backend = backend_;
    const uint64_t waiting = backend.WatchJob(
        job_, seen_, MakeReply<Answer>([this](absl::StatusOr<Answer> answer) { Answered(std::move(answer)); }));
    bool cancelled = false;
    {
      absl::MutexLock lock(&token->mutex);
      token->waiting = waiting;
      cancelled = token->cancelled;
    }
    if (cancelled) backend.CancelWatch(waiting);
  }

 private:
  struct Token {
    absl::Mutex mutex;
    uint64_t waiting ABSL_GUARDED_BY(mutex) = 0;
    bool cancelled ABSL_GUARDED_BY(mutex) = false;
  };

  void Answered(absl::StatusOr<std::pair<uint64_t, v1::JobReport>> answer) {
    if (!answer.ok()) return Finish(ToGrpc(answer.status()));
    seen_ = answer->first;
    report_ = std::move(answer->second);
    StartWrite(&report_);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(ToGrpc(absl::CancelledError("the watcher is gone")));
    if (HasEnded(report_.summary().state())) return Finish(grpc::Status::OK);
    Wait();
  }

  void OnCancel() override {
    uint64_t waiting = 0;
    {
      absl::MutexLock lock(&token_->mutex);
      token_->cancelled = true;
      waiting = token_->waiting;
    }
    if (waiting != 0) backend_.CancelWatch(waiting);
  }

  void OnDone() override { delete this; }

  Backend& backend_;
  const std::string job_;
  uint64_t seen_ = 0;
  v1::JobReport report_;
  const std::shared_ptr<Token> token_ = std::make_shared<Token>();
};

// Sends a blob with its manifest in the first part.
class ReadBlobReactor final : public grpc::ServerWriteReactor<v1::BlobPart> {
 public:
  ReadBlobReactor(Backend& backend, std::string sha256) : backend_(backend), sha256_(std::move(sha256)) {}

  void Begin() {
    backend_.ReadManifest(sha256_, MakeReply<std::string>([this](absl::StatusOr<std::string> manifest) {
                            if (!manifest.ok()) return Finish(ToGrpc(manifest.status()));
                            part_.set_manifest(*std::move(manifest));
                            Open();
                          }));
  }

 private:
  void Open() {
    using Reference = std::shared_ptr<const runtime::Mapping>;
    backend_.OpenBlob(Caller{.site = "", .admin = true}, sha256_,
                      MakeReply<Reference>([this](absl::StatusOr<Reference> mapping) {
                        if (!mapping.ok()) return Finish(ToGrpc(mapping.status()));
                        mapping_ = *std::move(mapping);
                        part_.set_size(mapping_->bytes().size());
                        SendNext();
                      }));
  }

  void SendNext() {
    const auto rest = mapping_->bytes().subspan(offset_);
    const auto data = rest.first(std::min(rest.size(), wire::kChunkBytes));
    part_.set_offset(offset_);
    part_.set_data(data.data(), data.size());
    offset_ += data.size();
    StartWrite(&part_);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(ToGrpc(absl::CancelledError("the reader is gone")));
    if (offset_ == mapping_->bytes().size()) return Finish(grpc::Status::OK);
    part_.clear_manifest();
    SendNext();
  }

  void OnDone() override { delete this; }

  Backend& backend_;
  const std::string sha256_;
  std::shared_ptr<const runtime::Mapping> mapping_;
  uint64_t offset_ = 0;
  v1::BlobPart part_;
};

class FailedRead final : public grpc::ServerWriteReactor<v1::BlobPart> {
 public:
  explicit FailedRead(const absl::Status& status) { Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

grpc::ServerUnaryReactor* AdminService::SubmitJob(grpc::CallbackServerContext* /*context*/,
                                                  const v1::SubmitJobRequest* request,
                                                  v1::SubmitJobResponse* response) {
  auto* reactor = new UnaryReactor<v1::SubmitJobResponse>(response);
  backend_.SubmitJob(*request, reactor->Answer());
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::ListJobs(grpc::CallbackServerContext* /*context*/,
                                                 const v1::ListJobsRequest* /*request*/,
                                                 v1::ListJobsResponse* response) {
  auto* reactor = new UnaryReactor<v1::ListJobsResponse>(response);
  backend_.ListJobs(reactor->Answer());
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::ShowJob(grpc::CallbackServerContext* /*context*/,
                                                const v1::ShowJobRequest* request, v1::JobReport* response) {
  auto* reactor = new UnaryReactor<v1::JobReport>(response);
  backend_.ShowJob(request->id(), reactor->Answer());
  return reactor;
}

grpc::ServerWriteReactor<v1::JobReport>* AdminService::WatchJob(grpc::CallbackServerContext* /*context*/,
                                                                const v1::ShowJobRequest* request) {
  auto* reactor = new WatchReactor(backend_, request->id());
  reactor->Wait();
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::AbortJob(grpc::CallbackServerContext* /*context*/,
                                                 const v1::AbortJobRequest* request, v1::JobSummary* response) {
  auto* reactor = new UnaryReactor<v1::JobSummary>(response);
  backend_.AbortJob(*request, reactor->Answer());
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::ListSites(grpc::CallbackServerContext* /*context*/,
                                                  const v1::ListSitesRequest* /*request*/,
                                                  v1::ListSitesResponse* response) {
  auto* reactor = new UnaryReactor<v1::ListSitesResponse>(response);
  backend_.ListSites(reactor->Answer());
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::ListVersions(grpc::CallbackServerContext* /*context*/,
                                                     const v1::ListVersionsRequest* request,
                                                     v1::ListVersionsResponse* response) {
  auto* reactor = new UnaryReactor<v1::ListVersionsResponse>(response);
  backend_.ListVersions(request->job(), reactor->Answer());
  return reactor;
}

grpc::ServerWriteReactor<v1::BlobPart>* AdminService::ReadBlob(grpc::CallbackServerContext* /*context*/,
                                                               const v1::ReadBlobRequest* request) {
  if (request->sha256().size() != wire::kDigestBytes) {
    return new FailedRead(absl::InvalidArgumentError(
        absl::StrCat("`sha256` has ", request->sha256().size(), " bytes; expected ", wire::kDigestBytes)));
  }
  auto* reactor = new ReadBlobReactor(backend_, request->sha256());
  reactor->Begin();
  return reactor;
}

}  // namespace strata::service
