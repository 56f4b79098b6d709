#include "tests/sim/sim_federation.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/config/convert.h"
#include "common/runtime/random.h"
#include "tests/sim/invariants.h"
#include "tests/sim/sim_machines.h"

namespace strata::sim {
namespace {

constexpr double kFaultsUntil = 600;                       // seconds: later nothing is planned to break; most jobs
                                                           // are done by then
constexpr absl::Duration kFaultyTime = absl::Minutes(25);  // afterwards nothing goes wrong any more
constexpr absl::Duration kLimit = absl::Hours(12);
constexpr uint64_t kMaxEvents = 400'000;
constexpr absl::Duration kPatience = absl::Seconds(30);  // what a server may take to answer, a full disk included
constexpr absl::Duration kStuck = absl::Seconds(20);     // of real time: gRPC's threads do nothing any more

class Simulation {
 public:
  Simulation(uint64_t seed, bool verbose)
      : draws_(runtime::RandomKey{.purpose = "simulation", .seed = seed, .round = 0, .site = ""}),
        journal_(clock_, verbose),
        server_(clock_, server_executor_, wire_, seed * 10 + 1),
        job_(DrawJob()) {
    invariants_ = std::make_unique<Invariants>(job_, journal_);
    const bool calm = Chance(0.1);
    const uint64_t num_sites = 3 + Below(3);
    for (uint64_t i = 0; i < num_sites; ++i) AddSite(static_cast<int>(i), seed, calm);
    if (!calm) PlanFaults();
  }

  SimResult Run();

 private:
  bool Chance(double probability) { return draws_.Uniform(drawn_++) < probability; }
  uint64_t Below(uint64_t bound) { return draws_.Below(drawn_++, bound); }
  absl::Duration Between(double low, double high) {
    return absl::Seconds(low + (high - low) * draws_.Uniform(drawn_++));
  }

  config::JobOptions DrawJob();
  void AddSite(int number, uint64_t seed, bool calm);
  void PlanFaults();
  void PlanServerFault(absl::Duration when);
  void PlanSiteFault(absl::Duration when, SiteMachine& site);
  void SiteDown(SiteMachine& site, bool lose, const std::string& fault, absl::Duration pause);
  void At(absl::Duration when, std::function<void()> what) { plan_.emplace(when, std::move(what)); }
  void Count(const std::string& fault, const std::string& who) {
    ++result_.faults[fault];
    journal_.Note(who, fault);
  }

  void ServerUp();
  void ServerDown(bool lose, const std::string& fault, absl::Duration pause);
  void StopServer(bool lose);
  void SubmitJob();
  void Watch();
  void Observe();
  bool Step();
  bool BuryTheDead();
  bool ContinueCall();
  void AwaitWire();
  bool RunPlanned();
  bool AdvanceTime();
  bool Ended() const;

  runtime::Philox draws_;
  uint64_t drawn_ = 0;
  testing::SimClock clock_;
  // gRPC's threads post to the wire, nobody else's do anything.
  testing::SimExecutor server_executor_{clock_}, wire_{clock_}, client_executor_{clock_};
  Journal journal_;
  CallGate gate_;
  ServerMachine server_;
  config::JobOptions job_;
  std::unique_ptr<Invariants> invariants_;
  std::vector<std::unique_ptr<SiteMachine>> sites_;
  std::vector<size_t> seen_requests_;
  std::multimap<absl::Duration, std::function<void()>> plan_;
  bool doomed_ = false;        // the server's disk is set to halt
  absl::Duration call_began_;  // of the call under way

  std::string job_id_;
  uint64_t seen_revision_ = 0;
  bool watching_ = false;
  std::optional<v1::JobReport> fresh_report_, report_;
  std::optional<v1::ListVersionsResponse> fresh_versions_;
  uint32_t listed_version_ = 0;
  SimResult result_;
};

config::JobOptions Simulation::DrawJob() {
  config::JobOptions job;
  job.name = "simulated";
  job.data = "notes";
  job.modules = {{.name = "model.layers.0.q_proj", .out = 6, .in = 5},
                 {.name = "model.layers.0.v_proj", .out = 4, .in = 7},
                 {.name = "model.layers.1.q_proj", .out = 6, .in = 5}};
  const adapter::BaseIdentity base{
      .weights = std::string(32, 'w'), .semantics = std::string(32, 's'), .encoding = "fp32"};
  job.model_digests = {base.Digest()};
  job.rounds.count = static_cast<uint32_t>(2 + Below(4));
  job.rounds.min_sites = static_cast<uint32_t>(1 + Below(3));
  job.rounds.timeout = Between(30, 600);
  job.rounds.max_attempts = static_cast<uint32_t>(1 + Below(6));
  if (Chance(0.3)) job.rounds.report_goal = job.rounds.min_sites;
  job.training.adapter.rank = 2;
  job.training.adapter.alpha = 4;
  job.training.adapter.use_rslora = Chance(0.3);
  job.training.seed = Below(1000);
  job.aggregation.server_learning_rate = Chance(0.5) ? 1 : 0.5;
  job.aggregation.max_blobs = static_cast<uint32_t>(1 + Below(3));
  job.aggregation.raw_stack = Chance(0.2);
  if (Chance(0.5)) job.evaluation.holdout = 0.1;
  return job;
}

void Simulation::AddSite(int number, uint64_t seed, bool calm) {
  SiteOptions options;
  options.name = absl::StrCat("site-", number);
  options.seed = seed * 1'000'003 + static_cast<uint64_t>(number) * 101 + 7;
  options.rank = static_cast<uint32_t>(Below(4));
  options.alpha = options.rank > 0 && Chance(0.5) ? 3 : 0;
  if (!calm) {
    options.failure_rate = Chance(0.3) ? 0.3 : 0;
    const auto rate = [&] { return Chance(0.5) ? 0.1 * draws_.Uniform(drawn_++) : 0; };
    options.faults = {.unavailable = rate(),
                      .lose_request = rate(),
                      .lose_answer = rate(),
                      .duplicate = rate(),
                      .corrupt = 2 * rate(),
                      .timeout = absl::Seconds(30),
                      .max_delay = Chance(0.5) ? absl::Seconds(3) : absl::ZeroDuration()};
  }
  link::ModelOffer offer;
  offer.label = "base";
  offer.identity = {.weights = std::string(32, 'w'), .semantics = std::string(32, 's'), .encoding = "fp32"};
  offer.modules = job_.modules;
  options.offers = {offer};
  sites_.push_back(std::make_unique<SiteMachine>(options, clock_, client_executor_, wire_, gate_, journal_,
                                                 [this] { return server_.on() && !server_.files().halted(); }));
  seen_requests_.push_back(0);
}

void Simulation::PlanFaults() {
  for (uint64_t i = Below(7); i > 0; --i) PlanServerFault(Between(5, kFaultsUntil));
  for (auto& site : sites_) {
    for (uint64_t i = Below(4); i > 0; --i) PlanSiteFault(Between(5, kFaultsUntil), *site);
  }
  At(kFaultyTime, [this] {
    for (auto& site : sites_) {
      site->StopFaults();
      site->files().SetCapacity(std::numeric_limits<uint64_t>::max());
    }
    server_.files().SetCapacity(std::numeric_limits<uint64_t>::max());
  });
}

void Simulation::PlanServerFault(absl::Duration when) {
  const absl::Duration pause = Between(1, 200);
  switch (Below(4)) {
    case 0:
      return At(when, [this, pause] { ServerDown(true, "server_power_loss", pause); });
    case 1:
      return At(when, [this, pause] { ServerDown(false, "server_killed", pause); });
    case 2: {  // dies at a chosen write, in the middle of whatever it is doing then
      const uint64_t writes = Below(60);
      return At(when, [this, writes] {
        if (server_.on()) server_.files().HaltAfter(writes);
      });
    }
    default: {
      const uint64_t room = Below(20'000);
      At(when, [this, room] {
        Count("server_disk_full", "server");
        server_.files().SetCapacity(server_.files().used_bytes() + room);
      });
      At(when + pause, [this] { server_.files().SetCapacity(std::numeric_limits<uint64_t>::max()); });
    }
  }
}

void Simulation::PlanSiteFault(absl::Duration when, SiteMachine& site) {
  const absl::Duration pause = Between(1, 200);
  const uint64_t kind = Below(4);
  if (kind == 2) {
    const uint64_t room = Below(3'000);
    At(when, [this, &site, room] {
      Count("site_disk_full", site.name());
      site.files().SetCapacity(site.files().used_bytes() + room);
    });
    return At(when + pause, [&site] { site.files().SetCapacity(std::numeric_limits<uint64_t>::max()); });
  }
  if (kind == 3) {  // dies at a chosen write
    const uint64_t writes = Below(30);
    return At(when, [&site, writes] {
      if (site.on()) site.files().HaltAfter(writes);
    });
  }
  At(when,
     [this, &site, kind, pause] { SiteDown(site, kind == 0, kind == 0 ? "site_power_loss" : "site_killed", pause); });
}

void Simulation::SiteDown(SiteMachine& site, bool lose, const std::string& fault, absl::Duration pause) {
  if (!site.on()) return;
  Count(fault, site.name());
  site.Crash(lose);
  At(clock_.Monotonic() + pause, [this, &site] {
    if (const absl::Status status = site.PowerOn(); !status.ok()) {
      // Its disk may still be full; an operator would try again.
      journal_.Note(site.name(), "did not start: " + status.ToString());
      site.files().SetCapacity(std::numeric_limits<uint64_t>::max());
      if (const absl::Status again = site.PowerOn(); !again.ok()) journal_.Fail(again.ToString());
    }
  });
}

void Simulation::ServerUp() {
  if (absl::Status status = server_.PowerOn(); !status.ok()) {
    journal_.Note("server", "did not start: " + status.ToString());
    server_.files().SetCapacity(std::numeric_limits<uint64_t>::max());
    status = server_.PowerOn();
    if (!status.ok()) return journal_.Fail("the server does not start again: " + status.ToString());
  }
  for (auto& site : sites_) {
    if (const absl::Status status = site->Connect(server_.Channel()); !status.ok()) journal_.Fail(status.ToString());
  }
  seen_revision_ = 0;
  watching_ = false;
}

// A call under way ends with UNAVAILABLE, whatever the server was about to say.
void Simulation::StopServer(bool lose) {
  server_.Die();
  while (gate_.busy()) AwaitWire();
  for (auto& site : sites_) site->Connect(nullptr).IgnoreError();
  server_.Bury(lose);
}

void Simulation::ServerDown(bool lose, const std::string& fault, absl::Duration pause) {
  if (!server_.on()) return;
  Count(fault, "server");
  StopServer(lose);
  watching_ = false;
  fresh_report_.reset();
  fresh_versions_.reset();
  listed_version_ = invariants_->checked_version();
  At(clock_.Monotonic() + pause, [this] { ServerUp(); });
}

void Simulation::SubmitJob() {
  v1::SubmitJobRequest request;
  *request.mutable_job() = config::ToProto(job_);
  server_.server().SubmitJob(request, [this](absl::StatusOr<v1::SubmitJobResponse> response) {
    if (!response.ok()) return journal_.Fail("the job was refused: " + response.status().ToString());
    job_id_ = response->id();
  });
  server_executor_.RunUntil([this] { return !job_id_.empty() || !journal_.violations().empty(); }, absl::Seconds(10));
}

void Simulation::Watch() {
  if (watching_ || !server_.on() || job_id_.empty()) return;
  watching_ = true;
  server_.server().WatchJob(job_id_, seen_revision_, [this](absl::StatusOr<std::pair<uint64_t, v1::JobReport>> next) {
    watching_ = false;
    if (absl::IsNotFound(next.status())) return journal_.Fail("the server has forgotten the job");
    if (!next.ok()) return;
    seen_revision_ = next->first;
    fresh_report_ = next->second;
  });
}

// After every event: what the server has published since.
void Simulation::Observe() {
  for (size_t i = 0; i < sites_.size(); ++i) {
    const auto& requests = sites_[i]->trainer().requests();
    for (; seen_requests_[i] < requests.size(); ++seen_requests_[i]) invariants_->Trained(requests[seen_requests_[i]]);
  }
  if (fresh_report_.has_value()) {
    report_ = *std::exchange(fresh_report_, std::nullopt);
    invariants_->CheckReport(*report_);
    if (report_->summary().version() > listed_version_ && server_.on()) {
      server_.server().ListVersions(job_id_, [this](absl::StatusOr<v1::ListVersionsResponse> versions) {
        if (versions.ok()) fresh_versions_ = *std::move(versions);
      });
      listed_version_ = report_->summary().version();
    }
  }
  if (fresh_versions_.has_value()) {
    invariants_->CheckVersions(*std::exchange(fresh_versions_, std::nullopt), server_.files(),
                               runtime::JoinPath(server_.state_dir(), "blobs"));
  }
  Watch();
}

bool Simulation::Ended() const {
  return report_.has_value() && (report_->summary().state() == v1::DONE || report_->summary().state() == v1::FAILED);
}

// One event. Which one is next never depends on how fast gRPC's threads are: what they post goes to the wire alone,
// and the wire is looked at only when the server has nothing left to do. What one call makes them post is a chain (the
// request, the chunks one by one, the answer), so the wire has its order too.
bool Simulation::Step() {
  if (BuryTheDead()) return true;
  if (server_executor_.RunUntilIdle(1) == 1) return true;
  if (gate_.busy()) return ContinueCall();
  if (RunPlanned()) return true;
  if (gate_.StartNext()) {
    call_began_ = clock_.Monotonic();
    return true;
  }
  if (client_executor_.RunUntilIdle(1) == 1) return true;
  return AdvanceTime();
}

// A machine whose disk has halted is dead, whatever its processes still mean to do.
bool Simulation::BuryTheDead() {
  if (server_.on() && server_.files().halted()) {
    ServerDown(Chance(0.5), "server_died_writing", Between(1, 200));
    return true;
  }
  for (auto& site : sites_) {
    if (!site->on() || !site->files().halted()) continue;
    SiteDown(*site, Chance(0.5), "site_died_writing", Between(1, 200));
    return true;
  }
  return false;
}

bool Simulation::ContinueCall() {
  if (wire_.RunUntilIdle(1) == 1) return true;
  if (server_.num_open() == 0) {
    AwaitWire();
    return true;
  }
  // The server waits for a timer of its own, such as for room on its disk.
  const absl::Duration step = std::min(server_executor_.UntilNext(), wire_.UntilNext());
  if (clock_.Monotonic() + step > call_began_ + kPatience) {
    journal_.Fail("the server keeps a call waiting");
    return false;
  }
  clock_.Advance(step);
  return true;
}

// The call is with gRPC's threads: runs what they post next.
void Simulation::AwaitWire() {
  if (wire_.WaitForEvent(kStuck) && wire_.RunUntilIdle(1) == 1) return;
  // Nor would the threads end with the call.
  std::puts("a call is stuck in gRPC's threads");
  std::abort();
}

// What is planned happens between calls, on time or, when a call took longer, right after it.
bool Simulation::RunPlanned() {
  if (plan_.empty() || plan_.begin()->first > clock_.Monotonic()) return false;
  const auto planned = plan_.begin();
  const std::function<void()> what = std::move(planned->second);
  plan_.erase(planned);
  what();
  return true;
}

bool Simulation::AdvanceTime() {
  const absl::Duration now = clock_.Monotonic();
  absl::Duration step = std::min(server_executor_.UntilNext(), client_executor_.UntilNext());
  if (!plan_.empty()) step = std::min(step, plan_.begin()->first - now);
  if (step == absl::InfiniteDuration() || now > kLimit) {
    journal_.Fail(step == absl::InfiniteDuration() ? "nothing is left to happen" : "the time is up");
    return false;
  }
  clock_.Advance(step);
  return true;
}

SimResult Simulation::Run() {
  ServerUp();
  if (server_.on()) SubmitJob();
  for (auto& site : sites_) {
    if (const absl::Status status = site->PowerOn(); !status.ok()) journal_.Fail(status.ToString());
  }
  while (journal_.violations().empty() && !Ended() && result_.num_events < kMaxEvents) {
    ++result_.num_events;
    if (!Step()) break;
    Observe();
  }
  // The last versions may still have to be listed.
  while (journal_.violations().empty() && Ended() && invariants_->checked_version() < report_->summary().version()) {
    if (++result_.num_events >= kMaxEvents || !Step()) break;
    Observe();
  }
  if (journal_.violations().empty() && report_.has_value()) invariants_->CheckEnd(*report_);
  if (!report_.has_value()) journal_.Fail("the server never said anything");
  if (report_.has_value()) {
    result_.outcome = absl::StrCat(v1::JobState_Name(report_->summary().state()), " ", report_->summary().reason());
    journal_.Note("job", result_.outcome);
    for (const v1::RoundReport& round : report_->rounds()) {
      if (round.state() == "retried") ++result_.faults["round_retried"];
    }
  }
  StopServer(true);
  result_.simulated_seconds = absl::ToDoubleSeconds(clock_.Monotonic());
  result_.trace_hash = journal_.TraceHash();
  result_.violations = journal_.violations();
  for (auto& site : sites_) {
    site->PowerOff();
    for (const auto& [fault, times] : site->link_faults()) result_.faults["link_" + fault] += times;
    result_.faults["training_failed"] += site->trainer().num_failures();
  }
  client_executor_.Clear();
  return result_;
}

}  // namespace

SimResult RunSimulation(uint64_t seed, bool verbose) { return Simulation(seed, verbose).Run(); }

}  // namespace strata::sim
