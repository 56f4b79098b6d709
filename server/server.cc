#include "server/server.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/adapter/manifest.h"
#include "common/config/convert.h"
#include "server/convert.h"
#include "server/server_core.h"

namespace strata::server {
namespace {

// Posts `work`, or answers why the server takes no requests.
template <typename T, typename Body>
void Ask(ServerCore& core, Reply<T> reply, Body body) {
  core.Post([reply = std::move(reply), body = std::move(body)](ServerCore& core) mutable {
    if (const absl::Status open = core.CheckOpen(); !open.ok()) return std::move(reply)(open);
    body(core, std::move(reply));
  });
}

std::vector<adapter::Metric> MetricsOf(const v1::SubmitEvaluationRequest& request) {
  std::vector<adapter::Metric> metrics;
  for (const v1::Metric& metric : request.metrics()) metrics.push_back({metric.name(), metric.value()});
  return metrics;
}

}  // namespace

FederationServer::FederationServer(const runtime::Runtime& runtime, const ServerOptions& options)
    : core_(std::make_shared<ServerCore>(runtime, options)) {}
FederationServer::~FederationServer() = default;

absl::Status FederationServer::Start() { return core_->Start(); }

void FederationServer::Stop(absl::AnyInvocable<void() &&> done) {
  core_->Post([done = std::move(done)](ServerCore& core) mutable { core.Stop(std::move(done)); });
}

uint64_t FederationServer::CheckIn(const Caller& caller, const v1::CheckInRequest& request,
                                   Reply<v1::CheckInResponse> reply) {
  const uint64_t token = core_->NewToken();
  Ask<v1::CheckInResponse>(*core_, std::move(reply), [caller, request, token](ServerCore& core, auto reply) {
    core.SawSite(caller.site);
    core.CheckIn(caller, request, token, std::move(reply));
  });
  return token;
}

void FederationServer::CancelCheckIn(uint64_t token) {
  core_->Post(
      [token](ServerCore& core) { core.CancelCheckIn(token, absl::CancelledError("the site ended the call")); });
}

void FederationServer::OpenBlob(const Caller& caller, const std::string& sha256,
                                Reply<std::shared_ptr<const runtime::Mapping>> reply) {
  using Mapped = std::shared_ptr<const runtime::Mapping>;
  Ask<Mapped>(*core_, std::move(reply), [caller, sha256](ServerCore& core, auto reply) {
    if (!caller.admin) core.SawSite(caller.site);
    core.OpenBlob(caller, sha256, std::move(reply));
  });
}

void FederationServer::BeginSubmit(const Caller& caller, const v1::BeginSubmitRequest& request,
                                   Reply<v1::BeginSubmitResponse> reply) {
  // Parsed here, not on the strand.
  auto manifest = adapter::ParseManifest(request.manifest().manifest());
  Ask<v1::BeginSubmitResponse>(*core_, std::move(reply),
                               [caller, request, manifest = std::move(manifest)](ServerCore& core, auto reply) {
                                 core.SawSite(caller.site);
                                 core.BeginSubmit(caller, request, manifest, std::move(reply));
                               });
}

void FederationServer::OpenUpload(const Caller& caller, const std::string& assignment,
                                  Reply<std::unique_ptr<service::UploadSink>> reply) {
  Ask<std::unique_ptr<service::UploadSink>>(*core_, std::move(reply),
                                            [caller, assignment](ServerCore& core, auto reply) {
                                              core.SawSite(caller.site);
                                              core.OpenUpload(caller, assignment, std::move(reply));
                                            });
}

void FederationServer::SubmitEvaluation(const Caller& caller, const v1::SubmitEvaluationRequest& request,
                                        Reply<v1::Receipt> reply) {
  Ask<v1::Receipt>(*core_, std::move(reply), [caller, request](ServerCore& core, auto reply) {
    core.SawSite(caller.site);
    for (const v1::Metric& metric : request.metrics()) {
      if (std::isfinite(metric.value())) continue;
      const absl::Status fault = absl::InvalidArgumentError(
          absl::StrCat("metric ", metric.name(), " is ", metric.value(), ", expected a finite number"));
      core.Handle(round::UpdateRefused{caller.site, request.assignment(), std::string(fault.message())});
      return std::move(reply)(fault);
    }
    const uint64_t token = core.NewToken();
    core.Handle(round::Evaluated{token, caller.site, request.assignment(), MetricsOf(request)}, token,
                [reply = std::move(reply)](const round::Answer& answer) mutable {
                  if (!answer.status.ok()) return std::move(reply)(answer.status);
                  std::move(reply)(ToProto(std::get<round::Receipt>(answer.value)));
                });
  });
}

void FederationServer::Progress(const Caller& caller, const v1::ProgressRequest& request,
                                Reply<v1::ProgressResponse> reply) {
  Ask<v1::ProgressResponse>(*core_, std::move(reply), [caller, request](ServerCore& core, auto reply) {
    core.SawSite(caller.site);
    core.TouchJobOf(request.assignment());
    const uint64_t token = core.NewToken();
    core.Handle(round::ProgressMade{token, caller.site, request.assignment(), FromProto(request)}, token,
                [reply = std::move(reply)](const round::Answer& answer) mutable {
                  if (!answer.status.ok()) return std::move(reply)(answer.status);
                  const auto& progress = std::get<round::ProgressAnswer>(answer.value);
                  v1::ProgressResponse response;
                  if (progress.stop) {
                    response.set_stop(progress.reason);
                  } else {
                    response.set_carry_on(true);
                  }
                  std::move(reply)(std::move(response));
                });
  });
}

void FederationServer::Release(const Caller& caller, const v1::ReleaseRequest& request,
                               Reply<v1::ReleaseResponse> reply) {
  Ask<v1::ReleaseResponse>(*core_, std::move(reply), [caller, request](ServerCore& core, auto reply) {
    core.SawSite(caller.site);
    const uint64_t token = core.NewToken();
    core.Handle(round::GivenBack{token, caller.site, request.assignment(), request.reason()}, token,
                [reply = std::move(reply)](const round::Answer& answer) mutable {
                  if (!answer.status.ok()) return std::move(reply)(answer.status);
                  std::move(reply)(v1::ReleaseResponse());
                });
  });
}

void FederationServer::SubmitJob(const v1::SubmitJobRequest& request, Reply<v1::SubmitJobResponse> reply) {
  absl::StatusOr<config::JobOptions> options = config::FromProto(request.job());
  if (!options.ok()) {
    // Never inside the call.
    return core_->RunOff(
        [status = options.status(), reply = std::move(reply)](ServerCore&) mutable { std::move(reply)(status); });
  }
  Ask<v1::SubmitJobResponse>(*core_, std::move(reply), [options = *std::move(options)](ServerCore& core, auto reply) {
    core.SubmitJob(options, std::move(reply));
  });
}

void FederationServer::ListJobs(Reply<v1::ListJobsResponse> reply) {
  Ask<v1::ListJobsResponse>(*core_, std::move(reply),
                            [](ServerCore& core, auto reply) { std::move(reply)(core.ListJobs()); });
}

void FederationServer::ShowJob(const std::string& id, Reply<v1::JobReport> reply) {
  Ask<v1::JobReport>(*core_, std::move(reply),
                     [id](ServerCore& core, auto reply) { std::move(reply)(core.ShowJob(id)); });
}

uint64_t FederationServer::WatchJob(const std::string& id, uint64_t seen,
                                    Reply<std::pair<uint64_t, v1::JobReport>> reply) {
  const uint64_t token = core_->NewToken();
  using Revision = std::pair<uint64_t, v1::JobReport>;
  Ask<Revision>(*core_, std::move(reply),
                [id, seen, token](ServerCore& core, auto reply) { core.WatchJob(id, seen, token, std::move(reply)); });
  return token;
}

void FederationServer::CancelWatch(uint64_t token) {
  core_->Post(
      [token](ServerCore& core) { core.CancelWatch(token, absl::CancelledError("the operator ended the call")); });
}

void FederationServer::AbortJob(const v1::AbortJobRequest& request, Reply<v1::JobSummary> reply) {
  Ask<v1::JobSummary>(*core_, std::move(reply),
                      [request](ServerCore& core, auto reply) { core.AbortJob(request, std::move(reply)); });
}

void FederationServer::ListSites(Reply<v1::ListSitesResponse> reply) {
  Ask<v1::ListSitesResponse>(*core_, std::move(reply),
                             [](ServerCore& core, auto reply) { std::move(reply)(core.ListSites()); });
}

void FederationServer::ListVersions(const std::string& job, Reply<v1::ListVersionsResponse> reply) {
  Ask<v1::ListVersionsResponse>(*core_, std::move(reply),
                                [job](ServerCore& core, auto reply) { std::move(reply)(core.ListVersions(job)); });
}

void FederationServer::ReadManifest(const std::string& sha256, Reply<std::string> reply) {
  Ask<std::string>(*core_, std::move(reply),
                   [sha256](ServerCore& core, auto reply) { core.store().ReadManifest(sha256, std::move(reply)); });
}

}  // namespace strata::server
