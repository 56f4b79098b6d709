// report.json, and what the terminal shows meanwhile.
#ifndef STRATA_DEPLOY_SIMULATOR_SIM_REPORT_H_
#define STRATA_DEPLOY_SIMULATOR_SIM_REPORT_H_

#include <string>

#include "proto/admin.pb.h"

namespace strata::sim {

// The same shape as the demo's. Each site's losses are those on its own held-out rows, so `loss_before` and
// `loss_after` have one entry; `best_single_site` is empty: single sites are not trained here.
std::string ReportJson(const v1::JobReport& job);

// "round 2 of 5 · 7 of 12 sites reported · site-08 step 3 of 8, loss 2.913"
std::string ProgressLine(const v1::JobReport& job);
// "round 2: 12 sites, loss before 3.021, rank 96 -> 60, error 0, 0.8 s"
std::string RoundLine(const v1::RoundReport& round);

}  // namespace strata::sim

#endif  // STRATA_DEPLOY_SIMULATOR_SIM_REPORT_H_
