// A federation of many sites on one machine: the real FederationServer, the real clients and trainer, one base model in
// memory, sites in turn.
#ifndef STRATA_DEPLOY_SIMULATOR_SIMULATION_H_
#define STRATA_DEPLOY_SIMULATOR_SIMULATION_H_

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "common/config/options.h"
#include "common/runtime/runtime.h"
#include "proto/admin.pb.h"

namespace strata::sim {

// Runs the job to its end and writes OUT: report.json, adapter/ (the last version), rounds/N/SITE/ (what each site
// sent), data/SITE.jsonl, server/ and clients/ (their state). `on_report` gets every report of the job, on this thread.
// Returns the last report, whatever the job's state. FAILED_PRECONDITION: OUT holds a simulation already.
// INVALID_ARGUMENT: the model or the data.
absl::StatusOr<v1::JobReport> RunSimulation(const config::SimOptions& options, runtime::Runtime runtime,
                                            const std::function<void(const v1::JobReport&)>& on_report);

}  // namespace strata::sim

#endif  // STRATA_DEPLOY_SIMULATOR_SIMULATION_H_
