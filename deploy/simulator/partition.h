// One JSONL file shared out among simulated sites.
#ifndef STRATA_DEPLOY_SIMULATOR_PARTITION_H_
#define STRATA_DEPLOY_SIMULATOR_PARTITION_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/config/options.h"

namespace strata::sim {

struct SiteShare {
  std::string name;  // site-01, site-02, ..; for `key` the value where all of them make site names
  std::string rows;  // JSONL
  uint64_t num_rows = 0;
};

// iid: a random permutation dealt out. dirichlet: sites of equal size, each with its own mixture of the classes of
// `options.key`, drawn from a symmetric Dirichlet distribution (Hsu et al. 2019, arXiv 1909.06335, with a flat prior);
// a class that is used up leaves the mixture. key: one site for each value of `options.key`, in the order of the file.
// Every row goes to exactly one site; rows keep the file's order within a site. Deterministic in `seed`.
// INVALID_ARGUMENT: fewer rows than sites, a row that is no JSON object or lacks the key (PLACE:LINE), another number
// of values than `count`.
absl::StatusOr<std::vector<SiteShare>> Partition(std::string_view jsonl, std::string_view place,
                                                 const config::SimSitesOptions& options, uint64_t seed);

}  // namespace strata::sim

#endif  // STRATA_DEPLOY_SIMULATOR_PARTITION_H_
