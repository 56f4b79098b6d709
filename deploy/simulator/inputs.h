// What a simulation is made of, read and checked before anything starts.
#ifndef STRATA_DEPLOY_SIMULATOR_INPUTS_H_
#define STRATA_DEPLOY_SIMULATOR_INPUTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/link/federation_link.h"
#include "client/train/local_trainer.h"
#include "common/config/options.h"
#include "common/runtime/file_system.h"
#include "deploy/simulator/partition.h"

namespace strata::sim {

// What every site calls the base model.
inline constexpr char kModelLabel[] = "model";

struct SimInputs {
  std::vector<SiteShare> shares;
  link::ModelOffer model;
  config::JobOptions job;  // complete: base model, modules, the names of the sites
};

// Opens the model, identifies it (with a digest cache in `cache_directory`) and shares the rows out. INVALID_ARGUMENT,
// one line per fault, each with its key: a model or rows that cannot be used, a model that is not among the job's
// digests, target_modules that name none of the model's.
absl::StatusOr<SimInputs> ReadInputs(runtime::FileSystem& files, const config::SimOptions& options,
                                     const std::string& cache_directory);

// The rank of site number `index` (from 0): its own or, where the file names none, the job's (0).
uint32_t OwnRank(const config::SimOptions& options, size_t index);

}  // namespace strata::sim

#endif  // STRATA_DEPLOY_SIMULATOR_INPUTS_H_
