// What each site reaches without the others.
#ifndef STRATA_DEPLOY_SIMULATOR_SINGLE_SITES_H_
#define STRATA_DEPLOY_SIMULATOR_SINGLE_SITES_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/train/local_trainer.h"
#include "common/config/options.h"
#include "deploy/simulator/inputs.h"
#include "deploy/simulator/sim_report.h"

namespace strata::sim {

// Trains each site by itself, as long as in all rounds together, and scores its adapter on the held-out rows of all
// (a site that has none is not scored).
// `rows`: of each share, the file that it lies in. CANCELLED: keep_going said no. Else the trainer's errors. Blocks.
absl::StatusOr<SingleLosses> TrainAlone(const config::SimOptions& options, const SimInputs& inputs,
                                        const std::vector<std::string>& rows, train::LocalTrainer& trainer,
                                        const std::function<bool()>& keep_going);

}  // namespace strata::sim

#endif  // STRATA_DEPLOY_SIMULATOR_SINGLE_SITES_H_
