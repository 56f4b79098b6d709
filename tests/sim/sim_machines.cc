#include "tests/sim/sim_machines.h"

#include <utility>

#include "common/status/status_macros.h"

namespace strata::sim {

ServerMachine::ServerMachine(testing::SimClock& clock, testing::SimExecutor& executor, testing::SimExecutor& wire,
                             uint64_t seed)
    : executor_(executor),
      wire_(wire),
      entropy_(seed),
      files_(clock),
      runtime_{.clock = clock, .executor = executor, .entropy = entropy_, .files = files_},
      wire_runtime_{.clock = clock, .executor = wire, .entropy = entropy_, .files = files_},
      backend_(wire) {}

ServerMachine::~ServerMachine() {
  Die();
  Bury(true);
}

absl::Status ServerMachine::PowerOn() {
  server::ServerOptions options;
  options.state_dir = state_dir_;
  server_ = std::make_unique<server::FederationServer>(runtime_, options);
  absl::Status started = server_->Start();
  if (started.ok()) {
    auto listener = service::Listener::Start({}, backend_, wire_runtime_);
    started = listener.status();
    if (listener.ok()) listener_ = *std::move(listener);
  }
  if (started.ok()) {
    backend_.set_server(server_.get());
  } else {
    server_ = nullptr;
    executor_.Clear();
  }
  return started;
}

void ServerMachine::Die() {
  files_.HaltAfter(0);
  backend_.set_server(nullptr);
  executor_.Clear();
  server_ = nullptr;
}

void ServerMachine::Bury(bool lose) {
  if (listener_ != nullptr) listener_->Shutdown(absl::ZeroDuration());
  listener_ = nullptr;
  wire_.Clear();
  lose ? files_.Crash() : files_.Kill();
}

SiteMachine::SiteMachine(const SiteOptions& options, testing::SimClock& clock, testing::SimExecutor& executor,
                         testing::SimExecutor& wire, CallGate& gate, Journal& journal,
                         std::function<bool()> server_is_well)
    : options_(options),
      gate_(gate),
      entropy_(options.seed),
      files_(clock),
      runtime_{.clock = clock, .executor = executor, .entropy = entropy_, .files = files_},
      wire_runtime_{.clock = clock, .executor = wire, .entropy = entropy_, .files = files_},
      training_(executor, options.seed + 1),
      trainer_({.failure_rate = options.failure_rate, .failure_seed = options.seed + 2, .on_step = {}}),
      gated_(options.name, gate, journal, std::move(server_is_well)) {}

absl::Status SiteMachine::PowerOn() {
  ClientSetup setup;
  setup.options.state_dir = "/client";
  setup.options.name = options_.name;
  setup.options.rank = options_.rank;
  setup.options.alpha = options_.alpha;
  for (const link::ModelOffer& offer : options_.offers) setup.options.models[offer.label] = "/models/" + offer.label;
  setup.options.data = {{"notes", "/data/notes.jsonl"}};
  setup.offers = options_.offers;
  setup.session.max_wait = absl::ZeroDuration();  // nothing is parked: a call ends before time goes on
  faulty_ = std::make_unique<testing::FaultyLink>(runtime_, options_.seed + 3 + 1000 * ++lives_, options_.faults);
  faulty_->set_target(&gated_);
  STRATA_ASSIGN_OR_RETURN(
      client_, Client::Open({.runtime = runtime_, .training = training_, .link = *faulty_, .trainer = trainer_},
                            std::move(setup)));
  client_->Start([](const absl::Status&) {});
  return absl::OkStatus();
}

void SiteMachine::PowerOff() {
  client_ = nullptr;
  if (faulty_ != nullptr) {
    for (const auto& [fault, times] : faulty_->counts()) link_faults_[fault] += times;
  }
  faulty_ = nullptr;
  gate_.Forget(options_.name);
}

void SiteMachine::Crash(bool lose) {
  PowerOff();
  lose ? files_.Crash() : files_.Kill();
}

absl::Status SiteMachine::Connect(std::shared_ptr<grpc::Channel> channel) {
  gated_.set_target(nullptr);
  grpc_ = nullptr;
  if (channel == nullptr) return absl::OkStatus();
  link::LinkOptions options;
  options.channel = std::move(channel);
  options.site = options_.name;
  options.chunk_bytes = 400;  // several chunks an update, so that a server also dies between them
  STRATA_ASSIGN_OR_RETURN(grpc_, link::GrpcFederationLink::Create(options, wire_runtime_));
  gated_.set_target(grpc_.get());
  return absl::OkStatus();
}

}  // namespace strata::sim
