// report.json, and what the terminal shows.
#ifndef STRATA_DEPLOY_SIMULATOR_SIM_REPORT_H_
#define STRATA_DEPLOY_SIMULATOR_SIM_REPORT_H_

#include <map>
#include <string>

#include "proto/admin.pb.h"

namespace strata::sim {

// {site that trained alone: {site whose held-out rows were scored: loss}}
using SingleLosses = std::map<std::string, std::map<std::string, double>>;

// The demo's shape. Each site's losses are those on its own held-out rows, so `loss_before` and `loss_after` have one
// entry. `best_single_site` is the one of least mean loss; {} where none was trained alone. What was not measured is
// left out of the maps, or null.
std::string ReportJson(const v1::JobReport& job, const SingleLosses& alone);

// "round 2 of 5, 7 of 12 sites reported"
std::string ProgressLine(const v1::JobReport& job);
// "round 2: 12 sites, loss before 3.0210, rank 96 -> 60, error 0, added up in 0.80 s"
std::string RoundLine(const v1::RoundReport& round);
// How the job ended, what it reached and where that lies; lines.
std::string Summary(const v1::JobReport& job, const SingleLosses& alone, const std::string& out);

}  // namespace strata::sim

#endif  // STRATA_DEPLOY_SIMULATOR_SIM_REPORT_H_
