// Rows shared out among simulated sites.
#ifndef STRATA_DEPLOY_SIMULATOR_PARTITION_H_
#define STRATA_DEPLOY_SIMULATOR_PARTITION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/data/row_source.h"
#include "common/config/options.h"

namespace strata::sim {

struct SiteShare {
  std::string name;  // site-01, site-02, ..; for `key` the value where all of them make site names
  std::string rows;  // JSONL
  uint64_t num_rows = 0;
};

struct Shares {
  std::vector<SiteShare> sites;
  data::BadRows bad;  // that were left out
};

// iid: a random permutation dealt out. dirichlet: sites of equal size, each with its own mixture of the classes of
// `options.key`, drawn from a symmetric Dirichlet distribution (Hsu et al. 2019, arXiv 1909.06335, with a flat prior);
// a class that is used up leaves the mixture. key: one site for each value of `options.key`, in the order of the file.
// Every row goes to exactly one site; rows keep the file's order within a site. Deterministic in `seed`. Rows that are
// no JSON object or lack the key are left out with `skip_bad_rows`. INVALID_ARGUMENT: such rows without it, each as
// FILE:ROW; fewer rows than sites; another number of values than `count`.
absl::StatusOr<Shares> Partition(data::RowSource& rows, const config::SimSitesOptions& options, bool skip_bad_rows,
                                 uint64_t seed);

}  // namespace strata::sim

#endif  // STRATA_DEPLOY_SIMULATOR_PARTITION_H_
