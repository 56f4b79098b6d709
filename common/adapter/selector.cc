// Which modules an adapter names, and with which rank and alpha: PEFT's rules.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "common/adapter/adapter.h"
#include "common/adapter/pattern.h"
#include "common/status/cat.h"

namespace strata::adapter {
namespace {

template <typename Value>
Value LookUp(const std::vector<std::pair<std::string, Value>>& patterns, Value otherwise, std::string_view module) {
  for (const auto& [key, value] : patterns) {
    if (MatchesPatternKey(key, module)) return value;
  }
  return otherwise;
}

// The number of `.*?\.[^.]*\.(\d+)\.`: the first one with two segments before it and one after it. -1: there is none.
int64_t LayerIndex(std::string_view module) {
  size_t segment = 0;
  while (true) {
    const size_t dot = module.find('.');
    if (dot == std::string_view::npos) return -1;
    int64_t index = -1;
    const char* end = module.data() + dot;
    const auto [stop, error] = std::from_chars(module.data(), end, index);
    if (segment >= 2 && error == std::errc() && stop == end && index >= 0) return index;
    module.remove_prefix(dot + 1);
    ++segment;
  }
}

}  // namespace

bool Selects(const config::ModuleSelector& selector, std::string_view module) {
  if (selector.all_linear) return true;
  if (!selector.expression.empty()) {
    const absl::StatusOr<Pattern> pattern = Pattern::Compile(selector.expression);
    return pattern.ok() && pattern->FullMatch(module);
  }
  return std::any_of(selector.suffixes.begin(), selector.suffixes.end(), [module](const std::string& suffix) {
    if (!module.ends_with(suffix)) return false;
    return module.size() == suffix.size() || module[module.size() - suffix.size() - 1] == '.';
  });
}

bool IsTarget(const config::AdapterOptions& options, std::string_view module) {
  if (Selects(options.exclude_modules, module) || !Selects(options.target_modules, module)) return false;
  if (options.layers_to_transform.empty() || !options.target_modules.expression.empty()) return true;
  const std::vector<std::string>& suffixes = options.target_modules.suffixes;
  if (!options.target_modules.all_linear && std::find(suffixes.begin(), suffixes.end(), module) != suffixes.end()) {
    return true;  // PEFT: a module named in full is taken whatever its layer
  }
  const int64_t layer = LayerIndex(module);
  return std::any_of(options.layers_to_transform.begin(), options.layers_to_transform.end(),
                     [layer](uint32_t wanted) { return layer == wanted; });
}

absl::Status CheckExpressions(const config::AdapterOptions& options) {
  std::vector<std::string> faults;
  const auto check = [&faults](std::string_view key, const std::string& expression) {
    if (expression.empty()) return;
    if (const absl::Status status = Pattern::Compile(expression).status(); !status.ok()) {
      faults.push_back(Cat(key, ": ", status.message()));
    }
  };
  check("target_modules", options.target_modules.expression);
  check("exclude_modules", options.exclude_modules.expression);
  for (const auto& [key, rank] : options.rank_pattern) check("rank_pattern", key);
  for (const auto& [key, alpha] : options.alpha_pattern) check("alpha_pattern", key);
  if (faults.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrJoin(faults, "; "));
}

uint32_t RankOf(const config::AdapterOptions& options, std::string_view module) {
  return LookUp(options.rank_pattern, options.rank, module);
}

double AlphaOf(const config::AdapterOptions& options, std::string_view module) {
  return LookUp(options.alpha_pattern, options.alpha, module);
}

double ScalingOf(double alpha, int64_t rank, bool use_rslora) {
  if (rank <= 0) return 1;
  return use_rslora ? alpha / std::sqrt(static_cast<double>(rank)) : alpha / static_cast<double>(rank);
}

uint32_t PeftConfig::RankOf(std::string_view module) const { return adapter::RankOf(options, module); }
double PeftConfig::AlphaOf(std::string_view module) const { return adapter::AlphaOf(options, module); }
double PeftConfig::ScalingOf(std::string_view module) const {
  return adapter::ScalingOf(AlphaOf(module), RankOf(module), options.use_rslora);
}

}  // namespace strata::adapter
