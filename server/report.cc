#include "server/report.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "common/config/convert.h"
#include "server/convert.h"

namespace strata::server {
namespace {

using round::AssignmentRecord;
using round::AssignmentState;

std::optional<double> MetricOf(const AssignmentRecord& record, std::string_view name) {
  for (const adapter::Metric& metric : record.report.metrics) {
    if (metric.name == name && std::isfinite(metric.value)) return metric.value;
  }
  return std::nullopt;
}

void AddMetric(google::protobuf::RepeatedPtrField<v1::Metric>& metrics, const std::string& name, double value) {
  v1::Metric* metric = metrics.Add();
  metric->set_name(name);
  metric->set_value(value);
}

// The newest record of each site in an attempt; reports kept from earlier attempts belong to the last one.
std::map<std::string, const AssignmentRecord*> SitesOf(const round::JobRecord& job, uint32_t round, uint32_t attempt,
                                                       bool last_attempt, round::Task task) {
  std::map<std::string, const AssignmentRecord*> sites;
  for (const auto& [id, record] : job.assignments) {
    if (record.assignment.round != round || record.assignment.task != task) continue;
    const bool kept = last_attempt && record.state == AssignmentState::kAccepted && record.assignment.attempt < attempt;
    if (record.assignment.attempt != attempt && !kept) continue;
    const AssignmentRecord*& newest = sites[record.assignment.site];
    if (newest == nullptr || newest->issued <= record.issued) newest = &record;
  }
  return sites;
}

std::vector<std::pair<std::string, double>> Evaluation(const std::map<std::string, const AssignmentRecord*>& sites) {
  std::vector<std::pair<std::string, double>> evaluation;
  double sum = 0;
  double tokens = 0;
  for (const auto& [site, record] : sites) {
    if (record->state != AssignmentState::kAccepted) continue;
    std::optional<double> loss = MetricOf(*record, "loss_before");
    if (!loss.has_value()) loss = MetricOf(*record, "loss");
    if (!loss.has_value()) continue;
    evaluation.emplace_back(absl::StrCat("loss.", site), *loss);
    const double weight = MetricOf(*record, "heldout_tokens").value_or(0);
    if (weight <= 0) continue;
    sum += weight * *loss;
    tokens += weight;
  }
  if (tokens > 0) evaluation.insert(evaluation.begin(), {"loss", sum / tokens});
  return evaluation;
}

uint32_t LastAttempt(const round::JobRecord& job, uint32_t round, const StoredRounds& rounds) {
  uint32_t last = round == job.round ? job.attempt : 0;
  for (const auto& [key, report] : rounds) {
    if (key.first == round) last = std::max(last, key.second);
  }
  return last;
}

v1::SiteRound SiteOf(const AssignmentRecord& record, double weight, const FetchedBytes& bytes_down) {
  v1::SiteRound site;
  site.set_site(record.assignment.site);
  site.set_state(std::string(NameOf(record.state, record)));
  site.set_reason(record.reason);
  site.set_rank(record.rank);
  site.set_num_examples(record.report.num_examples);
  site.set_weight(weight);
  site.set_bytes_up(record.report.tensors_bytes);
  const auto fetched = bytes_down.find(record.assignment.id);
  if (fetched != bytes_down.end()) site.set_bytes_down(fetched->second);
  for (const adapter::Metric& metric : record.report.metrics) {
    AddMetric(*site.mutable_metrics(), metric.name, metric.value);
  }
  if (record.state == AssignmentState::kAccepted) site.set_update_sha256(record.report.tensors_sha256);
  site.set_phase(record.progress.phase);
  site.set_step(record.progress.step);
  site.set_of(record.progress.of);
  site.set_loss(record.progress.loss);
  site.set_tokens_per_second(record.progress.tokens_per_second);
  return site;
}

std::string StateOf(const round::JobRecord& job) {
  if (job.state != round::JobState::kRunning) return "ended";
  return job.stage == round::Stage::kAggregating ? "aggregating" : "open";
}

void FillSites(v1::RoundReport& report, const round::JobRecord& job, const StoredRounds& rounds,
               const FetchedBytes& bytes_down) {
  const bool last = LastAttempt(job, report.round(), rounds) == report.attempt();
  const auto sites = SitesOf(job, report.round(), report.attempt(), last, round::Task::kTrain);
  double total = 0;
  for (const auto& [site, record] : sites) {
    if (record->state == AssignmentState::kAccepted) total += static_cast<double>(record->report.num_examples);
  }
  const bool weighed = total > 0 && (report.state() == "committed" || report.state() == "aggregating");
  for (const auto& [site, record] : sites) {
    const bool counts = weighed && record->state == AssignmentState::kAccepted;
    const double weight = counts ? static_cast<double>(record->report.num_examples) / total : 0;
    *report.add_sites() = SiteOf(*record, weight, bytes_down);
  }
  for (const auto& [name, value] : Evaluation(sites)) AddMetric(*report.mutable_evaluation(), name, value);
}

std::optional<double> MeanOf(const std::vector<std::pair<std::string, double>>& evaluation) {
  if (evaluation.empty() || evaluation.front().first != "loss") return std::nullopt;
  return evaluation.front().second;
}

std::vector<std::pair<std::string, double>> FinalEvaluation(const round::JobRecord& job) {
  return Evaluation(SitesOf(job, job.round, job.attempt, true, round::Task::kEvaluate));
}

std::optional<uint32_t> BestVersion(const round::JobRecord& job) {
  const std::map<uint32_t, double> losses = LossOfVersions(job);
  const auto best = std::ranges::min_element(losses, {}, [](const auto& entry) { return entry.second; });
  if (best == losses.end()) return std::nullopt;
  return best->first;
}

}  // namespace

std::map<uint32_t, double> LossOfVersions(const round::JobRecord& job) {
  std::map<uint32_t, double> losses;
  for (uint32_t round = 1; round <= job.version; ++round) {
    // Of a committed round only its counted reports are still accepted, whatever their attempt.
    const auto sites = SitesOf(job, round, std::numeric_limits<uint32_t>::max(), true, round::Task::kTrain);
    if (const std::optional<double> mean = MeanOf(Evaluation(sites))) losses[round - 1] = *mean;
  }
  if (const std::optional<double> mean = MeanOf(FinalEvaluation(job))) losses[job.version] = *mean;
  return losses;
}

v1::JobReport ReportOf(const round::JobRecord& job, const StoredRounds& rounds, const FetchedBytes& bytes_down) {
  v1::JobReport report;
  *report.mutable_summary() = SummaryOf(job);
  *report.mutable_config() = config::ToProto(job.options);
  for (const auto& [key, stored] : rounds) {
    v1::RoundReport* added = report.add_rounds();
    *added = stored;
    FillSites(*added, job, rounds, bytes_down);
  }
  if (job.round > 0 && !rounds.contains({job.round, job.attempt})) {
    v1::RoundReport* current = report.add_rounds();
    current->set_round(job.round);
    current->set_attempt(job.attempt);
    current->set_state(StateOf(job));
    current->set_reason(job.attempt > 1 ? job.reason : "");
    FillSites(*current, job, rounds, bytes_down);
  }
  for (const auto& [name, value] : FinalEvaluation(job)) AddMetric(*report.mutable_final_evaluation(), name, value);
  report.set_best_version(BestVersion(job).value_or(0));
  return report;
}

v1::ListVersionsResponse VersionsOf(const round::JobRecord& job, const std::vector<store::VersionRow>& versions,
                                    const std::map<std::string, uint64_t>& blob_bytes) {
  v1::ListVersionsResponse response;
  const std::map<uint32_t, double> losses = LossOfVersions(job);
  const std::optional<uint32_t> best = BestVersion(job);
  const auto add = [&](const store::VersionRow& version) {
    v1::VersionInfo* info = response.add_versions();
    info->set_version(version.version);
    info->set_round(version.round);
    info->set_max_rank(version.max_rank);
    uint64_t bytes = 0;
    for (const std::string& sha256 : version.blobs) {
      info->add_blobs(sha256);
      const auto found = blob_bytes.find(sha256);
      if (found != blob_bytes.end()) bytes += found->second;
    }
    info->set_bytes(bytes);
    const auto loss = losses.find(version.version);
    info->set_loss(loss == losses.end() ? std::numeric_limits<double>::quiet_NaN() : loss->second);
    info->set_best(best.has_value() && *best == version.version);
  };
  if (job.round > 0) add({job.id, 0, 0, 0, {}});
  for (const store::VersionRow& version : versions) add(version);
  return response;
}

}  // namespace strata::server
