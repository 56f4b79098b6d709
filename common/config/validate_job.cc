#include <algorithm>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/config/validate.h"

namespace strata::config {
namespace {

bool IsDigest(std::string_view text) {
  // Two SHA-256 in lower-case hexadecimal around a colon.
  return text.size() == 129 && text[64] == ':' &&
         text.find_first_not_of("0123456789abcdef:") == std::string_view::npos && text.find(':') == 64 &&
         text.rfind(':') == 64;
}

RoundsOptions ValidateRounds(const v1::RoundsConfig& proto, const Section& section, size_t num_sites) {
  RoundsOptions options;
  options.count = proto.count();
  if (proto.count() == 0 && !section.Given("count")) {
    section.Missing("count", "how many rounds to run");
  } else {
    section.RequireAtLeast("count", options.count, 1);
  }
  if (proto.has_min_sites()) options.min_sites = proto.min_sites();
  section.RequireAtLeast("min_sites", options.min_sites, 1);
  if (num_sites > 0 && options.min_sites > num_sites) {
    section.Refuse("min_sites", absl::StrCat(options.min_sites, proto.has_min_sites() ? "" : " (the default)"),
                   absl::StrCat("at most ", num_sites, ", the number of `sites`"));
  }
  if (proto.has_report_goal()) {
    options.report_goal = proto.report_goal();
    section.RequireAtLeast("report_goal", proto.report_goal(), std::max<uint32_t>(1, options.min_sites));
    if (num_sites > 0 && proto.report_goal() > num_sites) {
      section.Refuse("report_goal", absl::StrCat(proto.report_goal()),
                     absl::StrCat("at most ", num_sites, ", the number of `sites`"));
    }
  }
  if (proto.has_timeout()) options.timeout = section.ReadDuration("timeout", proto.timeout());
  options.start = proto.start() == v1::WARM ? Start::kWarm : Start::kFresh;
  if (proto.has_max_attempts()) options.max_attempts = proto.max_attempts();
  section.RequireAtLeast("max_attempts", options.max_attempts, 1);
  return options;
}

AggregationMethod ToMethod(v1::AggregationMethod method) {
  if (method == v1::FEDIT) return AggregationMethod::kFedit;
  return method == v1::ZERO_PAD ? AggregationMethod::kZeroPad : AggregationMethod::kStack;
}

void CheckBudgets(const v1::AggregationConfig& proto, const Section& section) {
  if (proto.has_energy() && proto.has_max_rank()) {
    section.Fault("max_rank", "`max_rank` contradicts `energy`; keep one of them");
  }
  if (proto.exact() && (proto.has_energy() || proto.has_max_rank())) {
    section.Fault("exact", absl::StrCat("`exact: true` contradicts `", proto.has_energy() ? "energy" : "max_rank",
                                        "`; keep one of them"));
  }
  if (proto.has_exact() && !proto.exact() && !proto.has_energy() && !proto.has_max_rank() && !proto.raw_stack()) {
    section.Fault("exact", "`exact: false` needs `energy` or `max_rank` to say what is kept");
  }
  if (proto.raw_stack() && (proto.has_energy() || proto.has_max_rank() || proto.exact())) {
    section.Fault("raw_stack",
                  "`raw_stack: true` contradicts `energy`, `max_rank` and `exact`: a raw stack is not re-factorised");
  }
  if (proto.raw_stack() && (proto.method() == v1::FEDIT || proto.method() == v1::ZERO_PAD)) {
    section.Fault("raw_stack", "`raw_stack: true` needs `method: stack`: the other methods make no stack");
  }
}

AggregationOptions ValidateAggregation(const v1::AggregationConfig& proto, const Section& section) {
  AggregationOptions options;
  options.method = ToMethod(proto.method());
  if (proto.has_energy()) {
    options.energy = proto.energy();
    section.Require(proto.energy() > 0 && proto.energy() <= 1, "energy", proto.energy(),
                    "a number above 0 and up to 1");
  }
  if (proto.has_max_rank()) {
    options.max_rank = proto.max_rank();
    section.RequireAtLeast("max_rank", proto.max_rank(), 1);
  }
  CheckBudgets(proto, section);
  options.raw_stack = proto.raw_stack();
  if (proto.has_server_learning_rate()) options.server_learning_rate = proto.server_learning_rate();
  section.Require(options.server_learning_rate > 0, "server_learning_rate", options.server_learning_rate,
                  "a number greater than 0");
  if (proto.has_max_blobs()) options.max_blobs = proto.max_blobs();
  section.RequireAtLeast("max_blobs", options.max_blobs, 1);
  if (proto.has_absent_modules()) {
    section.RequireWord("absent_modules", proto.absent_modules(), {"zero", "renormalise"});
    options.renormalise_absent = proto.absent_modules() == "renormalise";
  }
  if (proto.has_compaction_max_rank()) {
    options.compaction_max_rank = proto.compaction_max_rank();
    section.RequireAtLeast("compaction_max_rank", proto.compaction_max_rank(), 1);
  }
  return options;
}

EvaluationOptions ValidateEvaluation(const v1::EvaluationConfig& proto, const Section& section) {
  EvaluationOptions options;
  options.holdout = proto.holdout();
  section.Require(options.holdout >= 0 && options.holdout < 1, "holdout", options.holdout,
                  "a number from 0 to below 1");
  if (proto.has_every()) options.every = proto.every();
  return options;
}

void ValidateSites(const v1::JobConfig& proto, const Section& section, JobOptions& options) {
  options.sites.assign(proto.sites().begin(), proto.sites().end());
  if (proto.all_sites() && !options.sites.empty()) section.Fault("sites", "`sites` is both `all` and a list");
  if (section.Given("sites") && !proto.all_sites() && options.sites.empty()) {
    section.Refuse("sites", "an empty list", "`all` or the names of sites");
  }
  std::set<std::string> seen;
  for (size_t i = 0; i < options.sites.size(); ++i) {
    const std::string& site = options.sites[i];
    const std::string path = absl::StrCat("sites[", i, "]");
    if (!IsName(site)) {
      section.Fault(path, absl::StrCat("site name `", site, "`; expected up to 64 letters, digits, `.`, `_`, `-`"));
    }
    if (!seen.insert(site).second) section.Fault(path, absl::StrCat("site `", site, "` is listed twice"));
  }
}

void ValidateModules(const v1::JobConfig& proto, const Section& section, JobOptions& options) {
  std::set<std::string> seen;
  for (const v1::ModuleShape& module : proto.modules()) {
    const std::string path = absl::StrCat("modules[", options.modules.size(), "]");
    if (module.name().empty() || module.out() == 0 || module.in() == 0) {
      section.Fault(path,
                    absl::StrCat("module `", module.name(), "` needs a name and sizes `out` and `in` of at least 1"));
    }
    if (!seen.insert(module.name()).second)
      section.Fault(path, absl::StrCat("module `", module.name(), "` is listed twice"));
    options.modules.push_back({.name = module.name(), .out = module.out(), .in = module.in()});
  }
}

void CheckRanks(const JobOptions& options, const Section& section) {
  const auto over = absl::StrCat("at most ", options.max_rank, ", the job's `max_rank`");
  const AdapterOptions& adapter = options.training.adapter;
  if (adapter.rank > options.max_rank) {
    section.Refuse(adapter.specified ? "training.adapter.rank" : "max_rank",
                   absl::StrCat(adapter.specified ? adapter.rank : options.max_rank),
                   adapter.specified ? over : absl::StrCat("at least ", adapter.rank, ", the default rank"));
  }
  for (size_t i = 0; i < adapter.rank_pattern.size(); ++i) {
    const auto& [key, rank] = adapter.rank_pattern[i];
    if (rank <= options.max_rank) continue;
    section.Fault(absl::StrCat("training.adapter.rank_pattern[", i, "]"),
                  absl::StrCat("`", key, "` has rank ", rank, "; expected ", over));
  }
}

}  // namespace

JobOptions ValidateJob(const v1::JobConfig& proto, const Section& section) {
  JobOptions options;
  options.name = proto.name();
  if (proto.name().empty()) section.Missing("name", "what the job is called");
  if (!proto.name().empty() && !IsName(proto.name())) {
    section.Refuse("name", absl::StrCat("`", proto.name(), "`"), "up to 64 letters, digits, `.`, `_`, `-`");
  }
  options.model_digests.assign(proto.model().digests().begin(), proto.model().digests().end());
  for (size_t i = 0; i < options.model_digests.size(); ++i) {
    if (IsDigest(options.model_digests[i])) continue;
    section.Fault(
        absl::StrCat("model.digests[", i, "]"),
        absl::StrCat("digest `", options.model_digests[i].substr(0, 140),
                     "`; expected WEIGHTS:SEMANTICS, 64 hexadecimal digits each, as `strata-client digest` prints it"));
  }
  options.data = proto.data();
  if (proto.data().empty()) section.Missing("data", "the label under which each site's own config names its data");
  ValidateSites(proto, section, options);
  if (!proto.has_rounds()) {
    section.Missing("rounds", "expected at least `rounds: {count: N}`");
  } else {
    options.rounds = ValidateRounds(proto.rounds(), section.Sub("rounds"), options.sites.size());
  }
  options.training = ValidateTrain(proto.training(), section.Sub("training"));
  if (options.training.adapter.use_dora) {
    section.Fault("training.adapter.use_dora",
                  "`use_dora` in a job: the server adds low-rank products up, not yet the row gains that DoRA's "
                  "magnitudes are; leave it out, or train it alone with strata-client train");
  }
  options.aggregation = ValidateAggregation(proto.aggregation(), section.Sub("aggregation"));
  options.evaluation = ValidateEvaluation(proto.evaluation(), section.Sub("evaluation"));
  if (proto.has_max_rank()) options.max_rank = proto.max_rank();
  section.RequireAtLeast("max_rank", options.max_rank, 1);
  if (options.max_rank >= 1) CheckRanks(options, section);
  ValidateModules(proto, section, options);
  return options;
}

}  // namespace strata::config
