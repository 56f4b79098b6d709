#include "deploy/simulator/simulation.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "client/client.h"
#include "client/link/grpc_federation_link.h"
#include "client/train/native_trainer.h"
#include "common/config/convert.h"
#include "common/runtime/process.h"
#include "common/status/status_macros.h"
#include "deploy/simulator/await.h"
#include "deploy/simulator/inputs.h"
#include "deploy/simulator/observed_trainer.h"
#include "deploy/simulator/results.h"
#include "deploy/simulator/single_sites.h"
#include "server/server.h"
#include "server/service/listener.h"

namespace strata::sim {
namespace {

// Check-ins are not parked, so sites ask again; and those that wait for their turn to train report that they wait. So
// often do all of them together, whatever their number: a round is noticed at once, and many sites cost no more than
// few.
constexpr int kCheckInsPerSecond = 100;
constexpr int kReportsPerSecond = 5;
constexpr absl::Duration kShortestPoll = absl::Milliseconds(50);
constexpr absl::Duration kShortestReport = absl::Seconds(1);
constexpr absl::Duration kNever = absl::Hours(24 * 365);

bool HasEnded(const v1::JobReport& job) {
  const v1::JobState state = job.summary().state();
  return state == v1::DONE || state == v1::FAILED || state == v1::ABORTED;
}

server::ServerOptions ServerOptionsOf(const config::SimOptions& options, const Results& results) {
  server::ServerOptions server;
  server.state_dir = results.server();
  server.num_threads = options.threads > 0 ? static_cast<int>(options.threads) : runtime::NumCores();
  const absl::Duration each = absl::Seconds(1) * options.sites.count;
  server.progress_interval = std::max(kShortestReport, each / kReportsPerSecond);
  server.controller.poll_interval = std::max(kShortestPoll, each / kCheckInsPerSecond);
  server.controller.liveness_timeout = kNever;  // nobody dies alone in one process
  return server;
}

// One simulated site. The link outlives the client, as the client's calls do not.
struct Site {
  std::unique_ptr<link::GrpcFederationLink> link;
  std::unique_ptr<Client> client;
  absl::Notification finished;
};

// Server, channel and sites; gone when it is destroyed, in the order that each can bear.
class Federation {
 public:
  Federation(const runtime::Runtime& runtime, const server::ServerOptions& options)
      : runtime_(runtime), server_(runtime, options) {}
  ~Federation() { Stop(); }

  absl::Status Start() {
    STRATA_RETURN_IF_ERROR(server_.Start());
    STRATA_ASSIGN_OR_RETURN(listener_, service::Listener::Start({}, server_, runtime_));
    channel_ = listener_->InProcessChannel();
    return absl::OkStatus();
  }
  absl::Status AddSite(ClientSetup setup, runtime::Executor& training, train::LocalTrainer& trainer);
  server::FederationServer& server() { return server_; }

 private:
  void Stop();

  runtime::Runtime runtime_;
  server::FederationServer server_;
  std::unique_ptr<service::Listener> listener_;
  std::shared_ptr<grpc::Channel> channel_;
  std::vector<std::unique_ptr<Site>> sites_;
};

absl::Status Federation::AddSite(ClientSetup setup, runtime::Executor& training, train::LocalTrainer& trainer) {
  link::LinkOptions options;
  options.channel = channel_;
  options.site = setup.options.name;
  options.software = "strata-sim";
  auto site = std::make_unique<Site>();
  STRATA_ASSIGN_OR_RETURN(site->link, link::GrpcFederationLink::Create(options, runtime_));
  STRATA_ASSIGN_OR_RETURN(
      site->client, Client::Open({.runtime = runtime_, .training = training, .link = *site->link, .trainer = trainer},
                                 std::move(setup)));
  site->client->Start([raw = site.get()](const absl::Status&) { raw->finished.Notify(); });
  sites_.push_back(std::move(site));
  return absl::OkStatus();
}

void Federation::Stop() {
  for (const auto& site : sites_) site->client->Stop();
  for (const auto& site : sites_) site->finished.WaitForNotification();
  for (const auto& site : sites_) {
    site->link->Shutdown();
    site->client.reset();
  }
  sites_.clear();
  channel_.reset();
  if (listener_ == nullptr) return;
  absl::Notification drained;
  server_.Stop([&] { drained.Notify(); });
  drained.WaitForNotification();
  listener_->Shutdown(absl::ZeroDuration());
  listener_.reset();
}

}  // namespace

class Simulation::Core {
 public:
  Core(const config::SimOptions& options, const runtime::Runtime& runtime, Watchers watchers)
      : options_(options),
        runtime_(runtime),
        watchers_(std::move(watchers)),
        native_(runtime.files, runtime.clock,
                {.device = options.job.training.device, .threads = static_cast<int>(options.threads)}),
        trainer_(native_, watchers_.on_step, [this](const absl::Status& status) { End(status); }),
        training_(1) {}

  absl::StatusOr<SimOutcome> Run();
  // Ends the job; the first status is Run's.
  void End(const absl::Status& status);

 private:
  absl::StatusOr<v1::JobReport> RunJob(Federation& federation, const SimInputs& inputs, Results& results);
  absl::StatusOr<SingleLosses> RunAlone(const SimInputs& inputs, const Results& results);
  absl::Status Submit(server::FederationServer& server, const config::JobOptions& job);
  absl::Status AddSites(Federation& federation, const SimInputs& inputs, const Results& results);
  absl::StatusOr<v1::JobReport> Follow(server::FederationServer& server, Results& results);
  void Abort(server::FederationServer& server, const absl::Status& why);
  absl::Status ended();

  const config::SimOptions options_;
  runtime::Runtime runtime_;
  Watchers watchers_;
  train::NativeTrainer native_;
  ObservedTrainer trainer_;
  // Its one thread trains: sites take turns, and LibTorch's thread count, which goes by thread, is the same for all.
  runtime::SystemRuntime training_;
  std::string job_;
  absl::Mutex mutex_;
  server::FederationServer* running_ ABSL_GUARDED_BY(mutex_) = nullptr;  // while there is a job to abort
  absl::Status end_ ABSL_GUARDED_BY(mutex_);
};

void Simulation::Core::End(const absl::Status& status) {
  const absl::MutexLock lock(&mutex_);
  if (!end_.ok()) return;
  end_ = status;
  if (running_ != nullptr) Abort(*running_, status);
}

absl::Status Simulation::Core::ended() {
  const absl::MutexLock lock(&mutex_);
  return end_;
}

void Simulation::Core::Abort(server::FederationServer& server, const absl::Status& why) {
  v1::AbortJobRequest request;
  request.set_id(job_);
  request.set_reason(std::string(why.message()));
  server.AbortJob(request, [](const absl::StatusOr<v1::JobSummary>&) {});
}

absl::StatusOr<SimOutcome> Simulation::Core::Run() {
  STRATA_ASSIGN_OR_RETURN(Results results, Results::Claim(runtime_.files, options_.out));
  STRATA_RETURN_IF_ERROR(runtime_.files.MakeDirectories(results.cache()));
  STRATA_ASSIGN_OR_RETURN(const SimInputs inputs, ReadInputs(runtime_.files, options_, results.cache()));
  STRATA_RETURN_IF_ERROR(ended());
  STRATA_RETURN_IF_ERROR(results.Clear());
  SimOutcome outcome;
  {
    Federation federation(runtime_, ServerOptionsOf(options_, results));
    STRATA_RETURN_IF_ERROR(federation.Start());
    STRATA_ASSIGN_OR_RETURN(outcome.job, RunJob(federation, inputs, results));
  }
  STRATA_RETURN_IF_ERROR(results.RemoveState());
  if (options_.single_sites && outcome.job.summary().state() == v1::DONE) {
    STRATA_ASSIGN_OR_RETURN(outcome.alone, RunAlone(inputs, results));
    STRATA_RETURN_IF_ERROR(results.WriteReport(ReportJson(outcome.job, outcome.alone)));
  }
  if (const absl::Status end = ended(); !end.ok() && !absl::IsCancelled(end)) return end;
  return outcome;
}

absl::StatusOr<v1::JobReport> Simulation::Core::RunJob(Federation& federation, const SimInputs& inputs,
                                                       Results& results) {
  server::FederationServer& server = federation.server();
  STRATA_RETURN_IF_ERROR(Submit(server, inputs.job));
  const absl::Status added = AddSites(federation, inputs, results);
  absl::StatusOr<v1::JobReport> report = added.ok() ? Follow(server, results) : added;
  {
    const absl::MutexLock lock(&mutex_);
    running_ = nullptr;
  }
  STRATA_RETURN_IF_ERROR(report.status());
  STRATA_RETURN_IF_ERROR(results.WriteAdapter(server, job_, options_.model));
  STRATA_RETURN_IF_ERROR(results.WriteReport(ReportJson(*report, {})));
  return report;
}

absl::StatusOr<SingleLosses> Simulation::Core::RunAlone(const SimInputs& inputs, const Results& results) {
  std::vector<std::string> rows;
  for (const SiteShare& share : inputs.shares) rows.push_back(results.rows(share.name));
  absl::StatusOr<SingleLosses> losses;
  absl::Notification done;
  training_.get().executor.Run([&] {
    losses = TrainAlone(options_, inputs, rows, trainer_, [this] { return ended().ok(); });
    done.Notify();
  });
  done.WaitForNotification();
  if (absl::IsCancelled(losses.status())) return SingleLosses();
  return losses;
}

absl::Status Simulation::Core::Submit(server::FederationServer& server, const config::JobOptions& job) {
  v1::SubmitJobRequest request;
  *request.mutable_job() = config::ToProto(job);
  STRATA_ASSIGN_OR_RETURN(const auto response, Await<v1::SubmitJobResponse>(
                                                   [&](auto reply) { server.SubmitJob(request, std::move(reply)); }));
  const absl::MutexLock lock(&mutex_);
  job_ = response.id();
  running_ = &server;
  if (!end_.ok()) Abort(server, end_);  // asked for meanwhile
  return absl::OkStatus();
}

absl::Status Simulation::Core::AddSites(Federation& federation, const SimInputs& inputs, const Results& results) {
  for (size_t i = 0; i < inputs.shares.size(); ++i) {
    const SiteShare& share = inputs.shares[i];
    const std::string rows = results.rows(share.name);
    STRATA_RETURN_IF_ERROR(runtime_.files.WriteFile(rows, share.rows));
    ClientSetup setup;
    setup.options.name = share.name;
    setup.options.state_dir = results.client(share.name);
    setup.options.models = {{kModelLabel, options_.model}};
    setup.options.data = {{inputs.job.data, rows}};
    setup.options.device = options_.job.training.device;
    if (const uint32_t rank = OwnRank(options_, i); rank > 0) setup.options.rank = rank;
    setup.offers = {inputs.model};
    setup.session.max_wait = absl::ZeroDuration();
    STRATA_RETURN_IF_ERROR(federation.AddSite(std::move(setup), training_.get().executor, trainer_));
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::JobReport> Simulation::Core::Follow(server::FederationServer& server, Results& results) {
  using Revision = std::pair<uint64_t, v1::JobReport>;
  uint64_t seen = 0;
  while (true) {
    STRATA_ASSIGN_OR_RETURN(Revision next,
                            Await<Revision>([&](auto reply) { server.WatchJob(job_, seen, std::move(reply)); }));
    seen = next.first;
    STRATA_RETURN_IF_ERROR(results.WriteRounds(server, next.second, options_.model));
    if (watchers_.on_report) watchers_.on_report(next.second);
    if (HasEnded(next.second)) return std::move(next.second);
  }
}

Simulation::Simulation(const config::SimOptions& options, runtime::Runtime runtime, Watchers watchers)
    : core_(std::make_unique<Core>(options, runtime, std::move(watchers))) {}
Simulation::~Simulation() = default;

absl::StatusOr<SimOutcome> Simulation::Run() { return core_->Run(); }
void Simulation::Stop() { core_->End(absl::CancelledError("interrupted")); }

}  // namespace strata::sim
