// Where calls leave gRPC's threads and enter the simulation.
#ifndef STRATA_TESTS_SIM_WIRE_BACKEND_H_
#define STRATA_TESTS_SIM_WIRE_BACKEND_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/runtime/executor.h"
#include "server/service/backend.h"

namespace strata::sim {

// Stands before a server that may die while a call is under way. A site's request becomes an event of the wire, so that
// only the simulation's own thread ever speaks to the server, and is counted until its answer is given: while one is
// open, gRPC's threads have nothing to do. Requests that meet no server get UNAVAILABLE.
class WireBackend : public service::Backend {
 public:
  // `wire` is borrowed.
  explicit WireBackend(runtime::Executor& wire) : wire_(wire) {}

  // Borrowed; null: the server has died. On the simulation's thread, as num_open.
  void set_server(service::Backend* server) { server_ = server; }
  int num_open() const { return *num_open_; }

  uint64_t CheckIn(const service::Caller& caller, const v1::CheckInRequest& request,
                   service::Reply<v1::CheckInResponse> reply) override {
    Bring(std::move(reply),
          [caller, request](Backend& server, auto answer) { server.CheckIn(caller, request, std::move(answer)); });
    return 0;
  }
  void CancelCheckIn(uint64_t) override {}  // no check-in of a simulated site is parked
  void OpenBlob(const service::Caller& caller, const std::string& sha256,
                service::Reply<std::shared_ptr<const runtime::Mapping>> reply) override {
    Bring(std::move(reply),
          [caller, sha256](Backend& server, auto answer) { server.OpenBlob(caller, sha256, std::move(answer)); });
  }
  void BeginSubmit(const service::Caller& caller, const v1::BeginSubmitRequest& request,
                   service::Reply<v1::BeginSubmitResponse> reply) override {
    Bring(std::move(reply),
          [caller, request](Backend& server, auto answer) { server.BeginSubmit(caller, request, std::move(answer)); });
  }
  void OpenUpload(const service::Caller& caller, const std::string& assignment,
                  service::Reply<std::unique_ptr<service::UploadSink>> reply) override {
    using Sink = std::unique_ptr<service::UploadSink>;
    Bring<Sink>(std::move(reply), [this, caller, assignment](Backend& server, service::Reply<Sink> answer) {
      server.OpenUpload(caller, assignment, [this, answer = std::move(answer)](absl::StatusOr<Sink> sink) mutable {
        if (sink.ok()) sink = std::make_unique<WireSink>(*this, *std::move(sink));
        std::move(answer)(std::move(sink));
      });
    });
  }
  void SubmitEvaluation(const service::Caller& caller, const v1::SubmitEvaluationRequest& request,
                        service::Reply<v1::Receipt> reply) override {
    Bring(std::move(reply), [caller, request](Backend& server, auto answer) {
      server.SubmitEvaluation(caller, request, std::move(answer));
    });
  }
  void Progress(const service::Caller& caller, const v1::ProgressRequest& request,
                service::Reply<v1::ProgressResponse> reply) override {
    Bring(std::move(reply),
          [caller, request](Backend& server, auto answer) { server.Progress(caller, request, std::move(answer)); });
  }
  void Release(const service::Caller& caller, const v1::ReleaseRequest& request,
               service::Reply<v1::ReleaseResponse> reply) override {
    Bring(std::move(reply),
          [caller, request](Backend& server, auto answer) { server.Release(caller, request, std::move(answer)); });
  }

  // The operator of a simulation asks the server itself.
  void SubmitJob(const v1::SubmitJobRequest&, service::Reply<v1::SubmitJobResponse> reply) override { Refuse(reply); }
  void ListJobs(service::Reply<v1::ListJobsResponse> reply) override { Refuse(reply); }
  void ShowJob(const std::string&, service::Reply<v1::JobReport> reply) override { Refuse(reply); }
  uint64_t WatchJob(const std::string&, uint64_t, service::Reply<std::pair<uint64_t, v1::JobReport>> reply) override {
    Refuse(reply);
    return 0;
  }
  void CancelWatch(uint64_t) override {}
  void AbortJob(const v1::AbortJobRequest&, service::Reply<v1::JobSummary> reply) override { Refuse(reply); }
  void ListSites(service::Reply<v1::ListSitesResponse> reply) override { Refuse(reply); }
  void ListVersions(const std::string&, service::Reply<v1::ListVersionsResponse> reply) override { Refuse(reply); }
  void ReadManifest(const std::string&, service::Reply<std::string> reply) override { Refuse(reply); }

 private:
  // Counts one open request while it lives.
  class Open {
   public:
    explicit Open(std::shared_ptr<int> count) : count_(std::move(count)) { ++*count_; }
    ~Open() { --*count_; }
    Open(const Open&) = delete;
    Open& operator=(const Open&) = delete;

   private:
    std::shared_ptr<int> count_;
  };

  // Chunks are events of the wire already: the listener's executor is the wire. Only the end is asked of the server.
  class WireSink : public service::UploadSink {
   public:
    WireSink(WireBackend& wire, std::unique_ptr<service::UploadSink> sink) : wire_(wire), sink_(std::move(sink)) {}
    uint64_t expected_offset() const override { return sink_->expected_offset(); }
    absl::Status WriteChunk(std::string_view data) override { return sink_->WriteChunk(data); }
    void Finish(service::Reply<v1::Receipt> reply) override { sink_->Finish(wire_.Counted(std::move(reply))); }

   private:
    WireBackend& wire_;
    std::unique_ptr<service::UploadSink> sink_;
  };

  template <typename T>
  service::Reply<T> Counted(service::Reply<T> reply) {
    return [open = std::make_unique<Open>(num_open_), reply = std::move(reply)](absl::StatusOr<T> result) mutable {
      open.reset();
      std::move(reply)(std::move(result));
    };
  }

  template <typename T, typename Ask>
  void Bring(service::Reply<T> reply, Ask ask) {
    wire_.Run([this, reply = std::move(reply), ask = std::move(ask)]() mutable {
      if (server_ == nullptr) return std::move(reply)(absl::UnavailableError("the server has died (simulated)"));
      ask(*server_, Counted(std::move(reply)));
    });
  }

  template <typename T>
  static void Refuse(service::Reply<T>& reply) {
    std::move(reply)(
        absl::PermissionDeniedError("the operator of a simulation asks the server itself, not over the wire"));
  }

  runtime::Executor& wire_;
  service::Backend* server_ = nullptr;
  std::shared_ptr<int> num_open_ = std::make_shared<int>(0);
};

}  // namespace strata::sim

#endif  // STRATA_TESTS_SIM_WIRE_BACKEND_H_
