#include "server/round/eligibility.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/adapter/adapter.h"

namespace strata::round {
namespace {

constexpr size_t kNamesShown = 8;

template <typename T, typename Format>
std::string Listing(const std::vector<T>& values, Format format) {
  if (values.empty()) return "none";
  std::vector<std::string> shown;
  for (const T& value : values) {
    if (shown.size() == kNamesShown) {
      shown.push_back(absl::StrCat("and ", values.size() - kNamesShown, " more"));
      break;
    }
    shown.push_back(format(value));
  }
  return absl::StrJoin(shown, ", ");
}

std::string Listing(const std::vector<std::string>& values) {
  return Listing(values, [](const std::string& value) { return value; });
}

bool IsHead(std::string_view module) { return module == "lm_head" || module.ends_with(".lm_head"); }

bool Selected(const config::AdapterOptions& options, const std::string& module) {
  if (options.target_modules.all_linear && IsHead(module)) return false;
  if (!adapter::Selects(options.target_modules, module)) return false;
  if (!options.exclude_modules.empty() && adapter::Selects(options.exclude_modules, module)) return false;
  if (options.layers_to_transform.empty()) return true;
  const std::optional<uint32_t> layer = LayerOf(module);
  return layer.has_value() &&
         std::ranges::find(options.layers_to_transform, *layer) != options.layers_to_transform.end();
}

bool Plausible(const std::vector<config::ModuleShape>& modules) {
  constexpr int64_t kLargest = int64_t{1} << 31;
  return std::ranges::all_of(modules, [](const config::ModuleShape& m) {
    return !m.name.empty() && m.out > 0 && m.in > 0 && m.out < kLargest && m.in < kLargest;
  });
}

}  // namespace

std::optional<uint32_t> LayerOf(std::string_view module) {
  const std::vector<std::string> parts = absl::StrSplit(std::string(module), '.');
  for (size_t i = parts.size(); i-- > 0;) {
    uint32_t layer = 0;
    const bool digits = !parts[i].empty() && parts[i].find_first_not_of("0123456789") == std::string::npos;
    if (i >= 2 && i + 1 < parts.size() && digits && absl::SimpleAtoi(parts[i], &layer)) return layer;
  }
  return std::nullopt;
}

std::variant<const ModelOffer*, Mismatch> Fit(const JobRecord& job, const CheckedIn& check_in) {
  const config::JobOptions& options = job.options;
  if (!options.sites.empty() && std::ranges::find(options.sites, check_in.site) == options.sites.end()) {
    return Mismatch{job.id, "site", Listing(options.sites), check_in.site};
  }
  if (std::ranges::find(check_in.data_labels, options.data) == check_in.data_labels.end()) {
    return Mismatch{job.id, "data", options.data, Listing(check_in.data_labels)};
  }
  for (const ModelOffer& offer : check_in.offers) {
    if (std::ranges::find(options.model_digests, offer.identity.Digest()) == options.model_digests.end()) continue;
    const std::vector<config::ModuleShape>& modules = options.modules.empty() ? offer.modules : options.modules;
    if (!Plausible(modules))
      return Mismatch{job.id, "base model", "modules with a name and a shape", "an offer without"};
    if (ResolveTargets(options, modules, check_in).empty()) {
      return Mismatch{job.id, "adapter", "modules that training.adapter.target_modules selects",
                      Listing(modules, [](const config::ModuleShape& module) { return module.name; })};
    }
    return &offer;
  }
  return Mismatch{job.id, "base model", Listing(options.model_digests),
                  Listing(check_in.offers, [](const ModelOffer& offer) {
                    return absl::StrCat(offer.label, " ", offer.identity.Digest());
                  })};
}

std::vector<Target> ResolveTargets(const config::JobOptions& job, const std::vector<config::ModuleShape>& modules,
                                   const CheckedIn& check_in) {
  const config::AdapterOptions& options = job.training.adapter;
  adapter::PeftConfig peft;
  peft.options = options;
  std::vector<Target> targets;
  for (const config::ModuleShape& module : modules) {
    if (!Selected(options, module.name)) continue;
    Target target{.module = module.name, .out = module.out, .in = module.in};
    target.rank = check_in.rank != 0 ? check_in.rank : peft.RankOf(module.name);
    if (check_in.max_rank != 0) target.rank = std::min<int64_t>(target.rank, check_in.max_rank);
    target.rank = std::max<int64_t>(1, std::min<int64_t>(target.rank, job.max_rank));
    const bool own_alpha = check_in.rank != 0 && std::isfinite(check_in.alpha) && check_in.alpha > 0;
    target.alpha = own_alpha ? check_in.alpha : peft.AlphaOf(module.name);
    const auto rank = static_cast<double>(target.rank);
    target.scaling = target.alpha / (options.use_rslora ? std::sqrt(rank) : rank);
    targets.push_back(std::move(target));
  }
  std::ranges::sort(targets, {}, &Target::module);
  return targets;
}

}  // namespace strata::round
