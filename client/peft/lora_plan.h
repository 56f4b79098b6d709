// Which modules get an adapter of which rank and scaling, by PEFT's rules.
#ifndef STRATA_CLIENT_PEFT_LORA_PLAN_H_
#define STRATA_CLIENT_PEFT_LORA_PLAN_H_

#include <vector>

#include "absl/status/statusor.h"
#include "client/train/local_trainer.h"
#include "common/adapter/adapter.h"
#include "common/config/options.h"

namespace strata::peft {

// Targets in the order of `modules` (model order). INVALID_ARGUMENT: no module matches (names what there is), an
// expression that is none, the head named, a rank of 0.
absl::StatusOr<std::vector<train::Target>> PlanLora(const config::AdapterOptions& options,
                                                    const std::vector<config::ModuleShape>& modules);
// Those of target_modules' names that no linear module of the model has.
std::vector<std::string> IdleTargets(const config::AdapterOptions& options,
                                     const std::vector<config::ModuleShape>& modules);
// One target per module of an existing adapter, with its ranks and scalings. INVALID_ARGUMENT: a module that the model
// lacks or whose shape differs.
absl::StatusOr<std::vector<train::Target>> PlanFromAdapter(const adapter::Adapter& adapter,
                                                           const std::vector<config::ModuleShape>& modules);
// INVALID_ARGUMENT unless both name the same modules with the same ranks, scalings and use_dora; names the first
// difference.
absl::Status CheckSamePlan(const std::vector<train::Target>& configured, const std::vector<train::Target>& initial);

}  // namespace strata::peft

#endif  // STRATA_CLIENT_PEFT_LORA_PLAN_H_
