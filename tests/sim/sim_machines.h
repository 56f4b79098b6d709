// The machines of a simulated federation: each with its own disk, all on one clock.
#ifndef STRATA_TESTS_SIM_SIM_MACHINES_H_
#define STRATA_TESTS_SIM_SIM_MACHINES_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "client/client.h"
#include "client/link/grpc_federation_link.h"
#include "common/runtime/runtime.h"
#include "server/server.h"
#include "server/service/listener.h"
#include "tests/sim/gated_link.h"
#include "tests/sim/wire_backend.h"
#include "tests/testing/fake_trainer.h"
#include "tests/testing/faulty_link.h"
#include "tests/testing/sim_entropy.h"
#include "tests/testing/sim_executor.h"
#include "tests/testing/sim_file_system.h"

namespace strata::sim {

// The server runs on `executor`, what gRPC's threads bring it on `wire`.
class ServerMachine {
 public:
  ServerMachine(testing::SimClock& clock, testing::SimExecutor& executor, testing::SimExecutor& wire, uint64_t seed);
  ~ServerMachine();

  // Starts the real server on what its disk holds. REQUIRES: it is off.
  absl::Status PowerOn();
  // The process dies in the middle of whatever it does: what it had not answered ends with UNAVAILABLE, and nothing
  // more reaches its disk.
  void Die();
  // Clears away what Die left. `lose`: unsynced bytes too, as in a power failure. REQUIRES: no call is under way, no
  // link is connected.
  void Bury(bool lose);

  bool on() const { return server_ != nullptr; }
  // Requests that the server has not answered yet.
  int num_open() const { return backend_.num_open(); }
  server::FederationServer& server() { return *server_; }
  std::shared_ptr<grpc::Channel> Channel() { return listener_->InProcessChannel(); }
  testing::SimFileSystem& files() { return files_; }
  const std::string& state_dir() const { return state_dir_; }

 private:
  const std::string state_dir_ = "/server";
  testing::SimExecutor& executor_;
  testing::SimExecutor& wire_;
  testing::SimEntropy entropy_;
  testing::SimFileSystem files_;
  runtime::Runtime runtime_, wire_runtime_;
  WireBackend backend_;
  std::unique_ptr<server::FederationServer> server_;
  std::unique_ptr<service::Listener> listener_;
};

// Lets a training take simulated time before it runs.
class TrainingExecutor : public runtime::Executor {
 public:
  TrainingExecutor(runtime::Executor& executor, uint64_t seed) : executor_(executor), draws_(seed) {}
  void Run(runtime::Work work) override {
    executor_.RunAfter(absl::Seconds(5 + 60 * draws_.Uniform(drawn_++)), std::move(work));
  }
  runtime::TimerId RunAfter(absl::Duration delay, runtime::Work work) override {
    return executor_.RunAfter(delay, std::move(work));
  }
  bool Cancel(runtime::TimerId timer) override { return executor_.Cancel(timer); }

 private:
  runtime::Executor& executor_;
  runtime::Philox draws_;
  uint64_t drawn_ = 0;
};

struct SiteOptions {
  std::string name;
  uint64_t seed = 0;
  uint32_t rank = 0;
  double alpha = 0;
  double failure_rate = 0;  // of trainings
  testing::LinkFaults faults;
  std::vector<link::ModelOffer> offers;
};

class SiteMachine {
 public:
  // `executor` runs the client, `wire` what a call does on this side.
  SiteMachine(const SiteOptions& options, testing::SimClock& clock, testing::SimExecutor& executor,
              testing::SimExecutor& wire, CallGate& gate, Journal& journal, std::function<bool()> server_is_well);
  ~SiteMachine() { PowerOff(); }

  absl::Status PowerOn();
  void PowerOff();
  void Crash(bool lose);
  bool on() const { return client_ != nullptr; }
  // A new connection; null when the server is gone.
  absl::Status Connect(std::shared_ptr<grpc::Channel> channel);
  void StopFaults() {
    options_.faults = {};
    options_.failure_rate = 0;
    if (faulty_ != nullptr) faulty_->set_faults({});
    trainer_.set_failure_rate(0);
  }

  const std::string& name() const { return options_.name; }
  // What went wrong on its wire, over all its lives that have ended.
  const std::map<std::string, int>& link_faults() const { return link_faults_; }
  const testing::FakeTrainer& trainer() const { return trainer_; }
  testing::SimFileSystem& files() { return files_; }

 private:
  SiteOptions options_;
  CallGate& gate_;
  testing::SimEntropy entropy_;
  testing::SimFileSystem files_;
  runtime::Runtime runtime_, wire_runtime_;
  TrainingExecutor training_;
  testing::FakeTrainer trainer_;
  GatedLink gated_;
  std::unique_ptr<link::GrpcFederationLink> grpc_;
  std::unique_ptr<testing::FaultyLink> faulty_;
  std::unique_ptr<Client> client_;
  uint64_t lives_ = 0;
  std::map<std::string, int> link_faults_;
};

}  // namespace strata::sim

#endif  // STRATA_TESTS_SIM_SIM_MACHINES_H_
