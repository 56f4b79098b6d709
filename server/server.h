// The server's core behind the gRPC handlers: joins RoundController, aggregation and store on one strand.
#ifndef STRATA_SERVER_SERVER_H_
#define STRATA_SERVER_SERVER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/runtime/runtime.h"
#include "server/round/round_controller.h"
#include "server/service/backend.h"

namespace strata::server {

struct ServerOptions {
  std::string state_dir;                                 // database, blobs, uploads; made when missing
  uint64_t max_update_bytes = 2ULL << 30;                // larger updates are refused
  absl::Duration progress_interval = absl::Seconds(10);  // how often a site reports
  round::ControllerOptions controller;                   // time-outs
  absl::Duration retry_interval = absl::Seconds(5);      // between attempts to write to a full disk
  int num_threads = 1;                                   // of an aggregation
};

// Every decision is made on one strand: request -> Handle(event, now) -> actions -> one group-committed transaction ->
// answers. Hashing, maths and disk run on the executor and come back as events. Nothing is answered as accepted,
// assigned or submitted before the rows behind it are durable. A disk that is full fails the requests that need it with
// RESOURCE_EXHAUSTED; what was decided meanwhile is kept in memory and written when there is room. Thread-safe. Time
// and concurrency are the Runtime's alone, so a simulated one makes a run reproducible. Replies still waiting when the
// server is destroyed are dropped.
class FederationServer : public service::Backend {
 public:
  // The runtime's parts are borrowed and must outlive the server and the work that it has posted.
  FederationServer(const runtime::Runtime& runtime, const ServerOptions& options);
  ~FederationServer() override;

  // Opens the state folder and goes on with what was acknowledged. Blocks for disk reads. Once, before any other call.
  // FAILED_PRECONDITION: written by a newer release. DATA_LOSS: damaged rows. RESOURCE_EXHAUSTED: the disk is full.
  absl::Status Start();
  // Drains: parked check-ins and watches end with UNAVAILABLE, as do new requests; `done` runs when what was decided is
  // durable (or cannot be made so).
  void Stop(absl::AnyInvocable<void() &&> done);

  uint64_t CheckIn(const service::Caller& caller, const v1::CheckInRequest& request,
                   service::Reply<v1::CheckInResponse> reply) override;
  void CancelCheckIn(uint64_t token) override;
  void OpenBlob(const service::Caller& caller, const std::string& sha256,
                service::Reply<std::shared_ptr<const runtime::Mapping>> reply) override;
  void BeginSubmit(const service::Caller& caller, const v1::BeginSubmitRequest& request,
                   service::Reply<v1::BeginSubmitResponse> reply) override;
  void OpenUpload(const service::Caller& caller, const std::string& assignment,
                  service::Reply<std::unique_ptr<service::UploadSink>> reply) override;
  void SubmitEvaluation(const service::Caller& caller, const v1::SubmitEvaluationRequest& request,
                        service::Reply<v1::Receipt> reply) override;
  void Progress(const service::Caller& caller, const v1::ProgressRequest& request,
                service::Reply<v1::ProgressResponse> reply) override;
  void Release(const service::Caller& caller, const v1::ReleaseRequest& request,
               service::Reply<v1::ReleaseResponse> reply) override;

  void SubmitJob(const v1::SubmitJobRequest& request, service::Reply<v1::SubmitJobResponse> reply) override;
  void ListJobs(service::Reply<v1::ListJobsResponse> reply) override;
  void ShowJob(const std::string& id, service::Reply<v1::JobReport> reply) override;
  uint64_t WatchJob(const std::string& id, uint64_t seen,
                    service::Reply<std::pair<uint64_t, v1::JobReport>> reply) override;
  void CancelWatch(uint64_t token) override;
  void AbortJob(const v1::AbortJobRequest& request, service::Reply<v1::JobSummary> reply) override;
  void ListSites(service::Reply<v1::ListSitesResponse> reply) override;
  void ListVersions(const std::string& job, service::Reply<v1::ListVersionsResponse> reply) override;
  void ReadManifest(const std::string& sha256, service::Reply<std::string> reply) override;

 private:
  std::shared_ptr<class ServerCore> core_;
};

}  // namespace strata::server

#endif  // STRATA_SERVER_SERVER_H_
