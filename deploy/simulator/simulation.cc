#include "deploy/simulator/simulation.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "client/client.h"
#include "client/link/grpc_federation_link.h"
#include "client/model_offers.h"
#include "client/train/native_trainer.h"
#include "common/config/convert.h"
#include "common/runtime/process.h"
#include "common/secure/digest.h"
#include "common/status/status_macros.h"
#include "deploy/simulator/outputs.h"
#include "deploy/simulator/partition.h"
#include "deploy/simulator/sim_report.h"
#include "server/server.h"
#include "server/service/listener.h"

namespace strata::sim {
namespace {

using runtime::JoinPath;

constexpr char kModelLabel[] = "model";

// Waits for the answer of an asynchronous call.
template <typename T, typename Call>
absl::StatusOr<T> Await(Call call) {
  absl::StatusOr<T> result = absl::UnavailableError("the server is gone");
  absl::Notification done;
  call([&](absl::StatusOr<T> answer) {
    result = std::move(answer);
    done.Notify();
  });
  done.WaitForNotification();
  return result;
}

// One training at a time, whoever asks: sites share the machine's cores and the one base model.
class InTurn : public runtime::Executor {
 public:
  explicit InTurn(runtime::Executor& executor) : executor_(executor), strand_(executor) {}
  void Run(runtime::Work work) override { strand_.Post(std::move(work)); }
  runtime::TimerId RunAfter(absl::Duration delay, runtime::Work work) override {
    return executor_.RunAfter(delay, std::move(work));
  }
  bool Cancel(runtime::TimerId timer) override { return executor_.Cancel(timer); }

 private:
  runtime::Executor& executor_;
  runtime::Strand strand_;
};

struct Site {
  std::string name;
  std::unique_ptr<link::GrpcFederationLink> link;
  std::unique_ptr<Client> client;
  absl::Notification finished;
};

class Federation {
 public:
  Federation(const config::SimOptions& options, runtime::Runtime runtime)
      : options_(options),
        runtime_(runtime),
        in_turn_(runtime.executor),
        trainer_(runtime.files, runtime.clock,
                 {.device = options.job.training.device, .threads = static_cast<int>(options.threads)}),
        server_(runtime, ServerOptionsOf(options)) {}
  ~Federation() { Stop(); }

  absl::Status Start();
  absl::StatusOr<v1::JobReport> Follow(const std::function<void(const v1::JobReport&)>& on_report);
  void Stop();
  absl::Status WriteOutputs(const v1::JobReport& report);

 private:
  static server::ServerOptions ServerOptionsOf(const config::SimOptions& options);
  absl::Status AddSites(const std::vector<SiteShare>& shares, const std::vector<link::ModelOffer>& offers);
  absl::Status SubmitJob(const std::vector<SiteShare>& shares, const link::ModelOffer& offer);
  std::string Out(const std::string& name) const { return JoinPath(options_.out, name); }
  std::string BlobPath(const std::string& digest) const {
    return JoinPath(JoinPath(Out("server"), "blobs"), secure::ToHex(digest));
  }

  const config::SimOptions& options_;
  runtime::Runtime runtime_;
  InTurn in_turn_;
  train::NativeTrainer trainer_;
  server::FederationServer server_;
  std::unique_ptr<service::Listener> listener_;
  std::vector<std::unique_ptr<Site>> sites_;
  std::string job_;
};

server::ServerOptions Federation::ServerOptionsOf(const config::SimOptions& options) {
  server::ServerOptions server;
  server.state_dir = JoinPath(options.out, "server");
  server.num_threads = options.threads > 0 ? static_cast<int>(options.threads) : runtime::NumCores();
  server.controller.liveness_timeout = absl::Minutes(10);  // nobody dies alone in one process
  return server;
}

absl::Status Federation::Start() {
  runtime::FileSystem& files = runtime_.files;
  if (files.Exists(Out("server"))) {
    return absl::FailedPreconditionError(
        absl::StrCat("out: ", options_.out, " holds a simulation already; name another folder or remove that one"));
  }
  for (const char* folder : {"server", "clients", "data", "cache"}) {
    STRATA_RETURN_IF_ERROR(files.MakeDirectories(Out(folder)));
  }
  auto text = files.ReadFile(options_.sites.data);
  if (!text.ok()) return absl::InvalidArgumentError(absl::StrCat("sites.data: ", text.status().message()));
  STRATA_ASSIGN_OR_RETURN(const auto shares, Partition(*text, options_.sites.data, options_.sites, options_.seed));
  STRATA_ASSIGN_OR_RETURN(const auto offers, OfferModels(files, {{kModelLabel, options_.model}}, Out("cache")));
  STRATA_RETURN_IF_ERROR(server_.Start());
  STRATA_ASSIGN_OR_RETURN(listener_, service::Listener::Start({}, server_, runtime_));
  STRATA_RETURN_IF_ERROR(SubmitJob(shares, offers.front()));
  return AddSites(shares, offers);
}

absl::Status Federation::SubmitJob(const std::vector<SiteShare>& shares, const link::ModelOffer& offer) {
  config::JobOptions job = options_.job;
  if (job.model_digests.empty()) job.model_digests = {offer.identity.Digest()};
  if (job.modules.empty()) job.modules = offer.modules;
  for (const SiteShare& share : shares) job.sites.push_back(share.name);
  v1::SubmitJobRequest request;
  *request.mutable_job() = config::ToProto(job);
  STRATA_ASSIGN_OR_RETURN(const auto response, Await<v1::SubmitJobResponse>(
                                                   [&](auto reply) { server_.SubmitJob(request, std::move(reply)); }));
  job_ = response.id();
  return absl::OkStatus();
}

absl::Status Federation::AddSites(const std::vector<SiteShare>& shares, const std::vector<link::ModelOffer>& offers) {
  const auto channel = listener_->InProcessChannel();
  for (size_t i = 0; i < shares.size(); ++i) {
    auto site = std::make_unique<Site>();
    site->name = shares[i].name;
    const std::string data = JoinPath(Out("data"), site->name + ".jsonl");
    STRATA_RETURN_IF_ERROR(runtime_.files.WriteFile(data, shares[i].rows));
    ClientSetup setup;
    setup.options.state_dir = JoinPath(Out("clients"), site->name);
    setup.options.models = {{kModelLabel, options_.model}};
    setup.options.data = {{options_.job.data, data}};
    setup.options.device = options_.job.training.device;
    setup.options.name = site->name;
    if (!options_.sites.ranks.empty()) setup.options.rank = options_.sites.ranks[i % options_.sites.ranks.size()];
    setup.offers = offers;
    link::LinkOptions link_options;
    link_options.channel = channel;
    link_options.site = site->name;
    link_options.software = "strata-sim";
    STRATA_ASSIGN_OR_RETURN(site->link, link::GrpcFederationLink::Create(link_options, runtime_));
    STRATA_ASSIGN_OR_RETURN(
        site->client,
        Client::Open({.runtime = runtime_, .training = in_turn_, .link = *site->link, .trainer = trainer_},
                     std::move(setup)));
    site->client->Start([raw = site.get()](const absl::Status&) { raw->finished.Notify(); });
    sites_.push_back(std::move(site));
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::JobReport> Federation::Follow(const std::function<void(const v1::JobReport&)>& on_report) {
  uint64_t seen = 0;
  while (true) {
    using Revision = std::pair<uint64_t, v1::JobReport>;
    STRATA_ASSIGN_OR_RETURN(const Revision next,
                            Await<Revision>([&](auto reply) { server_.WatchJob(job_, seen, std::move(reply)); }));
    seen = next.first;
    on_report(next.second);
    const v1::JobState state = next.second.summary().state();
    if (state == v1::DONE || state == v1::FAILED || state == v1::ABORTED) return next.second;
  }
}

void Federation::Stop() {
  for (const auto& site : sites_) site->client->Stop();
  for (const auto& site : sites_) site->finished.WaitForNotification();
  for (const auto& site : sites_) {
    site->link->Shutdown();
    site->client.reset();
  }
  sites_.clear();
  if (listener_ == nullptr) return;
  absl::Notification drained;
  server_.Stop([&] { drained.Notify(); });
  drained.WaitForNotification();
  listener_->Shutdown(absl::ZeroDuration());
  listener_.reset();
}

absl::Status Federation::WriteOutputs(const v1::JobReport& report) {
  STRATA_RETURN_IF_ERROR(runtime_.files.WriteFile(Out("report.json"), ReportJson(report)));
  for (const v1::RoundReport& round : report.rounds()) {
    if (round.state() != "committed") continue;
    for (const v1::SiteRound& site : round.sites()) {
      if (site.state() != "accepted" || site.update_sha256().empty()) continue;
      STRATA_ASSIGN_OR_RETURN(const std::string manifest, Await<std::string>([&](auto reply) {
                                server_.ReadManifest(site.update_sha256(), std::move(reply));
                              }));
      const std::string directory = JoinPath(JoinPath(Out("rounds"), absl::StrCat(round.round())), site.site());
      STRATA_RETURN_IF_ERROR(WriteUpdate(runtime_.files, BlobPath(site.update_sha256()), manifest, site, directory));
    }
  }
  STRATA_ASSIGN_OR_RETURN(const auto versions, Await<v1::ListVersionsResponse>(
                                                   [&](auto reply) { server_.ListVersions(job_, std::move(reply)); }));
  if (versions.versions().empty()) return absl::OkStatus();
  std::vector<std::string> blobs;
  for (const std::string& digest : versions.versions().rbegin()->blobs()) blobs.push_back(BlobPath(digest));
  return WriteVersion(runtime_.files, blobs, options_.model, Out("adapter"));
}

}  // namespace

absl::StatusOr<v1::JobReport> RunSimulation(const config::SimOptions& options, runtime::Runtime runtime,
                                            const std::function<void(const v1::JobReport&)>& on_report) {
  Federation federation(options, runtime);
  STRATA_RETURN_IF_ERROR(federation.Start());
  STRATA_ASSIGN_OR_RETURN(v1::JobReport report, federation.Follow(on_report));
  STRATA_RETURN_IF_ERROR(federation.WriteOutputs(report));
  return report;
}

}  // namespace strata::sim
