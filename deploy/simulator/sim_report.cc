#include "deploy/simulator/sim_report.h"

#include <algorithm>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"

namespace strata::sim {
namespace {

using nlohmann::ordered_json;

constexpr char kLossOf[] = "loss.";

template <typename Metrics>
std::optional<double> Find(const Metrics& metrics, const std::string& name) {
  for (const v1::Metric& metric : metrics) {
    if (metric.name() == name) return metric.value();
  }
  return std::nullopt;
}

// {site: loss} of "loss.SITE" metrics.
template <typename Metrics>
ordered_json Losses(const Metrics& metrics) {
  ordered_json losses = ordered_json::object();
  for (const v1::Metric& metric : metrics) {
    if (absl::StartsWith(metric.name(), kLossOf)) losses[metric.name().substr(sizeof(kLossOf) - 1)] = metric.value();
  }
  return losses;
}

ordered_json SiteJson(const v1::SiteRound& site) {
  ordered_json json = {{"name", site.site()},
                       {"rank", site.rank()},
                       {"num_examples", site.num_examples()},
                       {"weight", site.weight()},
                       {"loss_before", ordered_json::object()},
                       {"loss_after", ordered_json::object()},
                       {"tokens_per_second", nullptr},
                       {"bytes_up", site.bytes_up()},
                       {"bytes_down", site.bytes_down()}};
  for (const char* when : {"loss_before", "loss_after"}) {
    if (const auto loss = Find(site.metrics(), when)) json[when][site.site()] = *loss;
  }
  if (const auto speed = Find(site.metrics(), "tokens_per_second")) json["tokens_per_second"] = *speed;
  return json;
}

ordered_json RoundJson(const v1::RoundReport& round) {
  ordered_json json = {{"round", round.round()}, {"sites", ordered_json::array()}};
  for (const v1::SiteRound& site : round.sites()) {
    if (site.state() == "accepted") json["sites"].push_back(SiteJson(site));
  }
  json["server"] = {{"rank_in", round.max_rank_in()},
                    {"rank_out", round.max_rank_out()},
                    {"error", round.error()},
                    {"bound", round.bound()},
                    {"learning_rate", round.learning_rate()},
                    {"seconds", round.seconds()},
                    {"fedit_distance", round.fedit_distance()},
                    {"zero_pad_distance", round.zero_pad_distance()}};
  if (const auto loss = Find(round.evaluation(), "loss")) json["server"]["loss_before"] = *loss;
  return json;
}

}  // namespace

std::string ReportJson(const v1::JobReport& job) {
  ordered_json report = {{"job", job.summary().name()},
                         {"state", v1::JobState_Name(job.summary().state())},
                         {"reason", job.summary().reason()},
                         {"rounds", ordered_json::array()}};
  ordered_json base = ordered_json::object();
  for (const v1::RoundReport& round : job.rounds()) {
    if (round.state() != "committed") continue;
    if (round.round() == 1) base = Losses(round.evaluation());
    report["rounds"].push_back(RoundJson(round));
  }
  report["final"] = {{"base", base},
                     {"federated", Losses(job.final_evaluation())},
                     {"best_single_site", ordered_json::object()},
                     {"best_version", job.best_version()}};
  return report.dump(2) + "\n";
}

std::string ProgressLine(const v1::JobReport& job) {
  const v1::JobSummary& summary = job.summary();
  std::string line = absl::StrCat("round ", summary.round(), " of ", summary.rounds());
  if (job.rounds().empty()) return line;
  const v1::RoundReport& round = *job.rounds().rbegin();
  int reported = 0;
  const v1::SiteRound* at_work = nullptr;
  for (const v1::SiteRound& site : round.sites()) {
    if (site.state() == "accepted") ++reported;
    if (site.state() != "accepted" && site.step() > 0 && (at_work == nullptr || site.step() < site.of())) {
      at_work = &site;
    }
  }
  absl::StrAppend(&line, " · ", reported, " of ", round.sites_size(), " sites reported");
  if (at_work != nullptr) {
    absl::StrAppend(&line, absl::StrFormat(" · %s step %d of %d, loss %.3f", at_work->site(), at_work->step(),
                                           at_work->of(), at_work->loss()));
  }
  return line;
}

std::string RoundLine(const v1::RoundReport& round) {
  const auto accepted = std::count_if(round.sites().begin(), round.sites().end(),
                                      [](const v1::SiteRound& site) { return site.state() == "accepted"; });
  std::string line = absl::StrFormat("round %d: %d sites", round.round(), accepted);
  if (const auto loss = Find(round.evaluation(), "loss")) absl::StrAppendFormat(&line, ", loss before %.4f", *loss);
  absl::StrAppendFormat(&line, ", rank %d -> %d, error %.2g, added up in %.2f s", round.max_rank_in(),
                        round.max_rank_out(), round.error(), round.seconds());
  return line;
}

}  // namespace strata::sim
