#include "server/ctl/job_text.h"

#include <algorithm>
#include <array>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"

namespace strata::ctl {
namespace {

constexpr int kBarWidth = 20;

std::string Bar(uint32_t step, uint32_t of) {
  const auto filled = static_cast<size_t>(uint64_t{std::min(step, of)} * kBarWidth / of);
  return absl::StrCat("[", std::string(filled, '#'), std::string(kBarWidth - filled, '.'), "]");
}

std::string Evaluation(const google::protobuf::RepeatedPtrField<v1::Metric>& metrics) {
  std::string text;
  for (const v1::Metric& metric : metrics) {
    absl::StrAppend(&text, text.empty() ? "" : "  ", metric.name(), absl::StrFormat(" %.4f", metric.value()));
  }
  return text;
}

}  // namespace

std::string StateName(v1::JobState state) { return absl::AsciiStrToLower(v1::JobState_Name(state)); }

bool HasEnded(v1::JobState state) { return state == v1::DONE || state == v1::FAILED || state == v1::ABORTED; }

std::string FormatBytes(uint64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "kB", "MB", "GB", "TB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1000 && unit + 1 < kUnits.size(); ++unit) value /= 1000;
  return absl::StrFormat(unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
}

std::optional<double> FindMetric(const google::protobuf::RepeatedPtrField<v1::Metric>& metrics,
                                 const std::string& name) {
  for (const v1::Metric& metric : metrics) {
    if (metric.name() == name) return metric.value();
  }
  return std::nullopt;
}

std::string JobTable(const v1::ListJobsResponse& jobs) {
  size_t width = 2;
  for (const v1::JobSummary& job : jobs.jobs()) width = std::max(width, job.id().size());
  std::string text =
      absl::StrFormat("%-*s  %-9s %-9s %8s  %-19s %s\n", width, "id", "state", "round", "version", "submitted", "note");
  for (const v1::JobSummary& job : jobs.jobs()) {
    absl::StrAppend(&text,
                    absl::StrFormat("%-*s  %-9s %-9s %8d  %-19s %s\n", width, job.id(), StateName(job.state()),
                                    absl::StrCat(job.round(), " of ", job.rounds()), job.version(),
                                    absl::FormatTime("%Y-%m-%d %H:%M:%S", absl::FromUnixMillis(job.created_unix_ms()),
                                                     absl::LocalTimeZone()),
                                    job.reason()));
  }
  return jobs.jobs().empty() ? "no jobs; submit one with: stratactl job submit job.yaml\n" : text;
}

std::string JobLine(const v1::JobReport& report) {
  const v1::JobSummary& job = report.summary();
  std::string line = absl::StrCat("job ", job.id(), "  ", StateName(job.state()), "  round ", job.round(), " of ",
                                  job.rounds(), "  version ", job.version());
  if (!job.reason().empty()) absl::StrAppend(&line, "  (", job.reason(), ")");
  return line;
}

std::string RoundLine(const v1::RoundReport& round) {
  std::string line = absl::StrCat("round ", round.round(),
                                  round.attempt() > 1 ? absl::StrCat(".", round.attempt()) : "", "  ", round.state());
  if (round.state() == "committed") {
    absl::StrAppend(&line, absl::StrFormat("  version %d  rank %d -> %d  error %.2e  bound %.2e  %.2f s",
                                           round.version(), round.max_rank_in(), round.max_rank_out(), round.error(),
                                           round.bound(), round.seconds()));
  }
  if (!round.reason().empty()) absl::StrAppend(&line, "  (", round.reason(), ")");
  return line;
}

std::string SiteLine(const v1::SiteRound& site) {
  std::string line = absl::StrFormat("%-16s %-10s", site.site(), site.state());
  if (site.rank() > 0) absl::StrAppend(&line, absl::StrFormat(" rank %-3d", site.rank()));
  const bool ended = site.state() == "accepted" || site.state() == "refused" || site.state() == "released";
  if (!ended && site.of() > 0) {
    absl::StrAppend(&line, " ", Bar(site.step(), site.of()),
                    absl::StrFormat(" %d/%d  loss %.3f  %.0f tokens/s", site.step(), site.of(), site.loss(),
                                    site.tokens_per_second()));
  } else if (!ended && !site.phase().empty()) {
    absl::StrAppend(&line, " ", site.phase());
  }
  if (site.state() == "accepted") {
    absl::StrAppend(&line, " ", site.num_examples(), " rows, up ", FormatBytes(site.bytes_up()), ", down ",
                    FormatBytes(site.bytes_down()));
  }
  const std::optional<double> before = FindMetric(site.metrics(), "loss_before");
  if (before) absl::StrAppend(&line, absl::StrFormat("  held-out loss %.4f", *before));
  const std::optional<double> after = FindMetric(site.metrics(), "loss_after");
  if (after) absl::StrAppend(&line, absl::StrFormat(" -> %.4f", *after));
  if (!site.reason().empty()) absl::StrAppend(&line, "  (", site.reason(), ")");
  return line;
}

std::string JobText(const v1::JobReport& report) {
  std::string text = absl::StrCat(JobLine(report), "\n");
  for (const v1::RoundReport& round : report.rounds()) {
    absl::StrAppend(&text, "\n", RoundLine(round), "\n");
    if (round.evaluation_size() > 0) absl::StrAppend(&text, "  before it: ", Evaluation(round.evaluation()), "\n");
    for (const v1::SiteRound& site : round.sites()) absl::StrAppend(&text, "  ", SiteLine(site), "\n");
    if (round.state() != "committed" || round.zero_pad_distance() <= 0) continue;
    absl::StrAppend(&text, absl::StrFormat("  zero_pad would have been off by %.2e", round.zero_pad_distance()));
    if (round.fedit_distance() >= 0) absl::StrAppend(&text, absl::StrFormat(", fedit by %.2e", round.fedit_distance()));
    absl::StrAppend(&text, "\n");
  }
  if (report.final_evaluation_size() > 0) {
    absl::StrAppend(&text, "\nlast version: ", Evaluation(report.final_evaluation()), "\n");
  }
  if (report.best_version() > 0) absl::StrAppend(&text, "best version: ", report.best_version(), "\n");
  return text;
}

}  // namespace strata::ctl
