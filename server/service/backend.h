// What the gRPC handlers hand over to: the server's core, in plain structs. server.cc implements it on the strand;
// handlers decide nothing.
#ifndef STRATA_SERVER_SERVICE_BACKEND_H_
#define STRATA_SERVER_SERVICE_BACKEND_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/runtime/file_system.h"
#include "proto/admin.pb.h"
#include "proto/federation.pb.h"

namespace strata::service {

// Who calls. Nothing else knows where identity came from.
struct Caller {
  std::string site;  // the certificate's common name, or the loopback name
  bool admin = false;
};

template <typename T>
using Reply = absl::AnyInvocable<void(absl::StatusOr<T>) &&>;

// Receives one upload's chunks after the handler has checked each chunk's CRC and offset. Calls are made one at a time,
// off the strand; WriteChunk writes synchronously. Dropping the sink without Finish keeps what was synced, for a later
// resume.
class UploadSink {
 public:
  virtual ~UploadSink() = default;
  virtual uint64_t expected_offset() const = 0;  // where the next chunk must begin
  // RESOURCE_EXHAUSTED: the disk is full. INVALID_ARGUMENT: more bytes than announced.
  virtual absl::Status WriteChunk(std::string_view data) = 0;
  // All bytes are there: digest, sync, rename, commit; then the durable receipt.
  virtual void Finish(Reply<v1::Receipt> reply) = 0;
};

// Thread-safe. Replies run on any thread, exactly once.
class Backend {
 public:
  virtual ~Backend() = default;
  // Parks until there is work or max_wait is over. The returned token cancels the wait when the caller is gone
  // (Cancel(token)).
  virtual uint64_t CheckIn(const Caller& caller, const v1::CheckInRequest& request,
                           Reply<v1::CheckInResponse> reply) = 0;
  virtual void CancelCheckIn(uint64_t token) = 0;
  // The blob's file, mapped; only what a version or an accepted update refers to. A site may read blobs of the versions
  // of jobs it takes part in; admin everything.
  virtual void OpenBlob(const Caller& caller, const std::string& sha256,
                        Reply<std::shared_ptr<const runtime::Mapping>> reply) = 0;
  virtual void BeginSubmit(const Caller& caller, const v1::BeginSubmitRequest& request,
                           Reply<v1::BeginSubmitResponse> reply) = 0;
  virtual void OpenUpload(const Caller& caller, const std::string& assignment,
                          Reply<std::unique_ptr<UploadSink>> reply) = 0;
  virtual void SubmitEvaluation(const Caller& caller, const v1::SubmitEvaluationRequest& request,
                                Reply<v1::Receipt> reply) = 0;
  virtual void Progress(const Caller& caller, const v1::ProgressRequest& request,
                        Reply<v1::ProgressResponse> reply) = 0;
  virtual void Release(const Caller& caller, const v1::ReleaseRequest& request, Reply<v1::ReleaseResponse> reply) = 0;

  virtual void SubmitJob(const v1::SubmitJobRequest& request, Reply<v1::SubmitJobResponse> reply) = 0;
  virtual void ListJobs(Reply<v1::ListJobsResponse> reply) = 0;
  virtual void ShowJob(const std::string& id, Reply<v1::JobReport> reply) = 0;
  // Replies when the job's report differs from revision `seen` (0: at once); the report comes with its revision.
  virtual uint64_t WatchJob(const std::string& id, uint64_t seen, Reply<std::pair<uint64_t, v1::JobReport>> reply) = 0;
  virtual void CancelWatch(uint64_t token) = 0;
  virtual void AbortJob(const v1::AbortJobRequest& request, Reply<v1::JobSummary> reply) = 0;
  virtual void ListSites(Reply<v1::ListSitesResponse> reply) = 0;
  virtual void ListVersions(const std::string& job, Reply<v1::ListVersionsResponse> reply) = 0;
  virtual void ReadManifest(const std::string& sha256, Reply<std::string> reply) = 0;  // manifest bytes beside a blob
};

}  // namespace strata::service

#endif  // STRATA_SERVER_SERVICE_BACKEND_H_
