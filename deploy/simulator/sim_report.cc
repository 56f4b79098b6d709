#include "deploy/simulator/sim_report.h"

#include <algorithm>
#include <optional>

#include "absl/strings/ascii.h"
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
std::map<std::string, double> Losses(const Metrics& metrics) {
  std::map<std::string, double> losses;
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

ordered_json DistanceJson(double distance) {  // negative: does not apply
  return distance < 0 ? ordered_json() : ordered_json(distance);
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
                    {"fedit_distance", DistanceJson(round.fedit_distance())},
                    {"zero_pad_distance", DistanceJson(round.zero_pad_distance())}};
  if (const auto loss = Find(round.evaluation(), "loss")) json["server"]["loss_before"] = *loss;
  return json;
}

int64_t NumAccepted(const v1::RoundReport& round) {
  return std::count_if(round.sites().begin(), round.sites().end(),
                       [](const v1::SiteRound& site) { return site.state() == "accepted"; });
}

double Mean(const std::map<std::string, double>& losses) {
  double sum = 0;
  for (const auto& [site, loss] : losses) sum += loss;
  return sum / static_cast<double>(losses.size());
}

SingleLosses::const_iterator Best(const SingleLosses& alone) {
  return std::min_element(alone.begin(), alone.end(),
                          [](const auto& a, const auto& b) { return Mean(a.second) < Mean(b.second); });
}

}  // namespace

std::string ReportJson(const v1::JobReport& job, const SingleLosses& alone) {
  ordered_json report = {{"job", job.summary().name()},
                         {"state", absl::AsciiStrToLower(v1::JobState_Name(job.summary().state()))},
                         {"reason", job.summary().reason()},
                         {"rounds", ordered_json::array()}};
  std::map<std::string, double> base;
  for (const v1::RoundReport& round : job.rounds()) {
    if (round.state() != "committed") continue;
    if (round.round() == 1) base = Losses(round.evaluation());
    report["rounds"].push_back(RoundJson(round));
  }
  const auto best = Best(alone);
  report["final"] = {{"base", base},
                     {"federated", Losses(job.final_evaluation())},
                     {"best_single_site", best == alone.end() ? ordered_json::object() : ordered_json(best->second)}};
  if (best != alone.end()) {
    report["final"]["best_single_site_name"] = best->first;
    report["final"]["single_sites"] = alone;
  }
  return report.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

std::string ProgressLine(const v1::JobReport& job) {
  const v1::JobSummary& summary = job.summary();
  if (summary.round() == 0) return "starting";
  int64_t reported = 0;
  if (!job.rounds().empty()) {
    const v1::RoundReport& round = *job.rounds().rbegin();
    if (round.state() == "committed") return absl::StrCat("scoring the last version");
    reported = NumAccepted(round);
  }
  return absl::StrFormat("round %d of %d, %d of %d sites reported", summary.round(), summary.rounds(), reported,
                         job.config().sites_size());
}

std::string RoundLine(const v1::RoundReport& round) {
  std::string line = absl::StrFormat("round %d: %d sites", round.round(), NumAccepted(round));
  if (const auto loss = Find(round.evaluation(), "loss")) absl::StrAppendFormat(&line, ", loss before %.4f", *loss);
  absl::StrAppendFormat(&line, ", rank %d -> %d, error %.2g, added up in %.2f s", round.max_rank_in(),
                        round.max_rank_out(), round.error(), round.seconds());
  return line;
}

std::string Summary(const v1::JobReport& job, const SingleLosses& alone, const std::string& out) {
  const v1::JobSummary& summary = job.summary();
  const auto rounds = std::count_if(job.rounds().begin(), job.rounds().end(),
                                    [](const v1::RoundReport& round) { return round.state() == "committed"; });
  std::string text =
      absl::StrFormat("%s: %d of %d rounds%s%s\n", absl::AsciiStrToLower(v1::JobState_Name(summary.state())), rounds,
                      summary.rounds(), summary.reason().empty() ? "" : ", ", summary.reason());
  const auto federated = Losses(job.final_evaluation());
  if (rounds > 0 && !federated.empty()) {
    absl::StrAppendFormat(&text, "held-out loss, mean over sites: %.4f with the base model, %.4f federated",
                          Mean(Losses(job.rounds(0).evaluation())), Mean(federated));
    if (const auto best = Best(alone); best != alone.end()) {
      absl::StrAppendFormat(&text, ", %.4f with the best single site's (%s)", Mean(best->second), best->first);
    }
    absl::StrAppend(&text, "\n");
  }
  absl::StrAppend(&text, "report: ", out, "/report.json\n");
  if (rounds > 0) absl::StrAppend(&text, "adapter: ", out, "/adapter\n");
  return text;
}

}  // namespace strata::sim
