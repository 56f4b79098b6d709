#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "deploy/simulator/partition.h"
#include "deploy/simulator/sim_report.h"
#include "nlohmann/json.hpp"

namespace strata::sim {
namespace {

std::string Rows(int count, int num_classes) {
  std::string rows;
  for (int i = 0; i < count; ++i) {
    absl::StrAppend(&rows, "{\"text\":\"row ", i, "\",\"language\":\"l", i % num_classes, "\"}\n");
  }
  return rows;
}

absl::StatusOr<std::vector<SiteShare>> Split(const std::string& rows, config::SimSitesOptions options, uint64_t seed) {
  options.data = "rows.jsonl";
  auto shares = Partition(*data::RowsOf(data::LinesOf(rows), options.data), options, /*skip_bad_rows=*/false, seed);
  if (!shares.ok()) return shares.status();
  return std::move(shares->sites);
}

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines = absl::StrSplit(text, '\n', absl::SkipEmpty());
  return lines;
}

// How many rows of each class a site has.
std::map<std::string, int> Classes(const SiteShare& share) {
  std::map<std::string, int> counts;
  for (const std::string& line : Lines(share.rows)) {
    ++counts[nlohmann::json::parse(line).at("language").get<std::string>()];
  }
  return counts;
}

TEST(Partition, GivesEveryRowToOneSite) {
  for (const char* partition : {"iid", "dirichlet", "key"}) {
    config::SimSitesOptions options;
    options.count = 5;
    options.partition = partition;
    options.key = "language";
    const std::string rows = Rows(103, 5);
    const auto shares = Split(rows, options, 7);
    ASSERT_TRUE(shares.ok()) << shares.status();
    std::multiset<std::string> seen;
    for (const SiteShare& share : *shares) {
      EXPECT_EQ(Lines(share.rows).size(), share.num_rows);
      EXPECT_GE(share.num_rows, 20U) << partition;
      for (const std::string& line : Lines(share.rows)) seen.insert(line);
    }
    const std::vector<std::string> all = Lines(rows);
    EXPECT_EQ(seen, std::multiset<std::string>(all.begin(), all.end())) << partition;
    const auto again = Split(rows, options, 7);
    for (size_t i = 0; i < shares->size(); ++i) EXPECT_EQ((*again)[i].rows, (*shares)[i].rows);
  }
}

TEST(Partition, KeyMakesASiteOfEachValue) {
  config::SimSitesOptions options;
  options.count = 3;
  options.partition = "key";
  options.key = "language";
  const auto shares = Split(Rows(30, 3), options, 7);
  ASSERT_TRUE(shares.ok()) << shares.status();
  EXPECT_EQ((*shares)[1].name, "l1");
  EXPECT_EQ(Classes((*shares)[1]), (std::map<std::string, int>{{"l1", 10}}));
  options.count = 4;
  EXPECT_EQ(
      Split(Rows(30, 3), options, 7).status().message(),
      "rows.jsonl: the field `language` has 3 values; `partition: key` makes a site of each, so sites.count must be "
      "that, not 4");
}

// Mean over sites of the largest class's share: near 1 when sites are one-sided, near 1 / classes when they are alike.
double OneSidedness(double concentration) {
  config::SimSitesOptions options;
  options.count = 20;
  options.partition = "dirichlet";
  options.key = "language";
  options.concentration = concentration;
  const auto shares = Split(Rows(4000, 4), options, 3);
  double sum = 0;
  for (const SiteShare& share : *shares) {
    int most = 0;
    for (const auto& [name, count] : Classes(share)) most = std::max(most, count);
    sum += static_cast<double>(most) / static_cast<double>(share.num_rows);
  }
  return sum / 20;
}

TEST(Partition, ConcentrationSaysHowOneSidedSitesAre) {
  EXPECT_GT(OneSidedness(0.01), 0.85);
  EXPECT_LT(OneSidedness(1000), 0.35);
  EXPECT_GT(OneSidedness(0.5), OneSidedness(5));
}

TEST(Partition, NamesBadRows) {
  config::SimSitesOptions options;
  options.count = 2;
  options.partition = "dirichlet";
  options.key = "language";
  const std::string rows = "{\"language\":1}\n\nnonsense\n{\"text\":1}\n{\"language\":2}\n";
  EXPECT_EQ(Split(rows, options, 1).status().message(),
            "rows.jsonl:3: no valid JSON (at byte 2 of the line)\n"
            "rows.jsonl:4: expected the field `language` of sites.key");
  const auto shares = Partition(*data::RowsOf(data::LinesOf(rows), "rows.jsonl"), options, /*skip_bad_rows=*/true, 1);
  ASSERT_TRUE(shares.ok()) << shares.status();
  EXPECT_EQ(shares->bad.count, 2U);
  EXPECT_EQ(shares->sites.size(), 2U);
  EXPECT_EQ(Split("{\"language\":1}\n", options, 1).status().message(),
            "rows.jsonl: 1 rows for 2 sites; expected at least one for each");
}

TEST(ReportJson, HasTheDemosShape) {
  v1::JobReport job;
  job.mutable_summary()->set_state(v1::DONE);
  v1::RoundReport& round = *job.add_rounds();
  round.set_round(1);
  round.set_state("committed");
  round.set_max_rank_in(12);
  round.set_max_rank_out(9);
  v1::Metric& before = *round.add_evaluation();
  before.set_name("loss.site-1");
  before.set_value(3.5);
  v1::SiteRound& site = *round.add_sites();
  site.set_site("site-1");
  site.set_state("accepted");
  site.set_rank(8);
  v1::Metric& own = *site.add_metrics();
  own.set_name("loss_after");
  own.set_value(3.25);
  round.add_sites()->set_state("lost");
  v1::Metric& last = *job.add_final_evaluation();
  last.set_name("loss.site-1");
  last.set_value(3.0);
  const auto report = nlohmann::json::parse(ReportJson(
      job, {{"site-1", {{"site-1", 2.0}, {"site-2", 6.0}}}, {"site-2", {{"site-1", 5.0}, {"site-2", 1.0}}}}));
  ASSERT_EQ(report["rounds"].size(), 1U);
  ASSERT_EQ(report["rounds"][0]["sites"].size(), 1U);
  EXPECT_EQ(report["rounds"][0]["sites"][0]["loss_after"]["site-1"], 3.25);
  EXPECT_EQ(report["rounds"][0]["server"]["rank_in"], 12);
  EXPECT_EQ(report["final"]["base"]["site-1"], 3.5);
  EXPECT_EQ(report["final"]["federated"]["site-1"], 3.0);
  EXPECT_EQ(report["final"]["best_single_site_name"], "site-2");  // the least mean, 3 against 4
  EXPECT_EQ(report["final"]["best_single_site"]["site-1"], 5.0);
  EXPECT_EQ(nlohmann::json::parse(ReportJson(job, {}))["final"]["best_single_site"], nlohmann::json::object());
}

TEST(Display, SaysWhereTheJobIs) {
  v1::JobReport job;
  EXPECT_EQ(ProgressLine(job), "starting");
  job.mutable_summary()->set_round(2);
  job.mutable_summary()->set_rounds(5);
  job.mutable_config()->add_sites("site-1");
  job.mutable_config()->add_sites("site-2");
  v1::RoundReport& round = *job.add_rounds();
  round.set_round(2);
  round.set_state("open");
  round.add_sites()->set_state("accepted");
  EXPECT_EQ(ProgressLine(job), "round 2 of 5, 1 of 2 sites reported");
  round.set_state("committed");
  round.set_max_rank_in(12);
  round.set_max_rank_out(9);
  round.set_error(0.125);
  v1::Metric& loss = *round.add_evaluation();
  loss.set_name("loss");
  loss.set_value(3.5);
  EXPECT_EQ(RoundLine(round), "round 2: 1 sites, loss before 3.5000, rank 12 -> 9, error 0.12, added up in 0.00 s");
}

}  // namespace
}  // namespace strata::sim
