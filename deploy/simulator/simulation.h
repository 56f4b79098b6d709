// A federation of many sites on one machine: the real FederationServer, the real clients and trainer, one base model in
// memory, sites in turn.
#ifndef STRATA_DEPLOY_SIMULATOR_SIMULATION_H_
#define STRATA_DEPLOY_SIMULATOR_SIMULATION_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "client/train/local_trainer.h"
#include "common/config/options.h"
#include "common/runtime/runtime.h"
#include "deploy/simulator/sim_report.h"
#include "proto/admin.pb.h"

namespace strata::sim {

struct SimOutcome {
  v1::JobReport job;   // the last report, whatever the job's state
  SingleLosses alone;  // with single_sites
};

// Told what happens; either may be empty.
struct Watchers {
  // Each new report of the job. On the thread of Run.
  std::function<void(const v1::JobReport&)> on_report;
  // Each optimiser step of the site at work. On the thread that trains.
  std::function<void(const std::string& site, const train::TrainProgress& step)> on_step;
};

// Determinism: same options, files, machine and thread count, same bytes of every adapter.
class Simulation {
 public:
  // The runtime's parts are borrowed; its executor needs at least four threads beside Run's.
  Simulation(const config::SimOptions& options, runtime::Runtime runtime, Watchers watchers);
  ~Simulation();
  Simulation(const Simulation&) = delete;
  Simulation& operator=(const Simulation&) = delete;

  // Runs the job to its end and writes OUT (results.h), the rounds as they are committed. Once; blocks. After Stop the
  // job is ABORTED (unless it was done before) and OUT holds the rounds that were committed. CANCELLED: stopped before
  // the job began.
  // INVALID_ARGUMENT: the model or the data. FAILED_PRECONDITION: OUT is not to be had. Else what a site's training
  // failed with (one that fails ends the simulation: nobody is there to mend it), with OUT as after Stop.
  absl::StatusOr<SimOutcome> Run();
  // Ends Run at the next optimiser step. Thread-safe.
  void Stop();

 private:
  class Core;
  std::unique_ptr<Core> core_;
};

}  // namespace strata::sim

#endif  // STRATA_DEPLOY_SIMULATOR_SIMULATION_H_
