// What people are told about a job: computed from the records, so that it reads the same after a restart.
#ifndef STRATA_SERVER_REPORT_H_
#define STRATA_SERVER_REPORT_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "proto/admin.pb.h"
#include "server/round/round_types.h"
#include "server/store/rows.h"

namespace strata::server {

// (round, attempt) -> what was stored when it ended: everything but the sites.
using StoredRounds = std::map<std::pair<uint32_t, uint32_t>, v1::RoundReport>;
using FetchedBytes = std::map<std::string, uint64_t>;  // by assignment

// Federated evaluation: "loss" is the mean weighted by held-out tokens over the sites that reported both, "loss.SITE"
// each site's own. Version v is scored at the start of round v + 1, the last one by the evaluate-only assignments.
v1::JobReport ReportOf(const round::JobRecord& job, const StoredRounds& rounds, const FetchedBytes& bytes_down);

// Loss of each version that was evaluated.
std::map<uint32_t, double> LossOfVersions(const round::JobRecord& job);

v1::ListVersionsResponse VersionsOf(const round::JobRecord& job, const std::vector<store::VersionRow>& versions,
                                    const std::map<std::string, uint64_t>& blob_bytes);

}  // namespace strata::server

#endif  // STRATA_SERVER_REPORT_H_
