// Jobs as people read them.
#ifndef STRATA_SERVER_CTL_JOB_TEXT_H_
#define STRATA_SERVER_CTL_JOB_TEXT_H_

#include <optional>
#include <string>

#include "proto/admin.pb.h"

namespace strata::ctl {

std::string StateName(v1::JobState state);  // "running"
bool HasEnded(v1::JobState state);
std::string FormatBytes(uint64_t bytes);  // "1.4 MB"
std::optional<double> FindMetric(const google::protobuf::RepeatedPtrField<v1::Metric>& metrics,
                                 const std::string& name);

std::string JobTable(const v1::ListJobsResponse& jobs);
std::string JobText(const v1::JobReport& report);
// "demo-1  running  round 2 of 3": one line.
std::string JobLine(const v1::JobReport& report);
// "round 1  committed  rank 28 -> 24  error 1.2e-07 .."
std::string RoundLine(const v1::RoundReport& round);
std::string SiteLine(const v1::SiteRound& site);

}  // namespace strata::ctl

#endif  // STRATA_SERVER_CTL_JOB_TEXT_H_
