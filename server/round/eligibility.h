// May this site work on this job, and with which modules and ranks? Pure.
#ifndef STRATA_SERVER_ROUND_ELIGIBILITY_H_
#define STRATA_SERVER_ROUND_ELIGIBILITY_H_

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "server/round/round_types.h"

namespace strata::round {

// The accepted offer (borrowed from `check_in`), or what does not fit: "site", "data", "base model", "adapter".
std::variant<const ModelOffer*, Mismatch> Fit(const JobRecord& job, const CheckedIn& check_in);

// The modules that `training.adapter` selects among `modules` (PEFT's rules; all-linear leaves the head out), in byte
// order of names. Rank: the site's own, else PEFT's of the job (rank_pattern); capped by the site's and the job's
// max_rank. Alpha: the site's own, else the job's, whatever the rank became. Empty: nothing is selected.
std::vector<Target> ResolveTargets(const config::JobOptions& job, const std::vector<config::ModuleShape>& modules,
                                   const CheckedIn& check_in);

// PEFT's layer index of a module's name: the last number between dots that has two components before it.
std::optional<uint32_t> LayerOf(std::string_view module);

}  // namespace strata::round

#endif  // STRATA_SERVER_ROUND_ELIGIBILITY_H_
