#include "client/peft/lora_plan.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/str_join.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::peft {
namespace {

constexpr std::string_view kHead = "lm_head";

std::string Examples(const std::vector<config::ModuleShape>& modules) {
  std::string text;
  for (size_t i = 0; i < std::min<size_t>(modules.size(), 7); ++i) text += (i == 0 ? "" : ", ") + modules[i].name;
  return text;
}

bool NamesAny(const config::AdapterOptions& options, const std::vector<config::ModuleShape>& modules) {
  return std::any_of(modules.begin(), modules.end(), [&](const config::ModuleShape& m) {
    return m.name != kHead && adapter::IsTarget(options, m.name);
  });
}

absl::Status NothingNamed(config::AdapterOptions options, const std::vector<config::ModuleShape>& modules) {
  const std::vector<uint32_t> layers = std::exchange(options.layers_to_transform, {});
  if (layers.empty() || !NamesAny(options, modules)) {
    return absl::InvalidArgumentError(
        Cat("adapter: target_modules names no linear module of the model, which has ", Examples(modules), ", .."));
  }
  uint32_t last = 0;  // a model has fewer layers than modules
  for (uint32_t layer = 0; layer < modules.size(); ++layer) {
    options.layers_to_transform = {layer};
    if (NamesAny(options, modules)) last = layer;
  }
  return absl::InvalidArgumentError(
      Cat("adapter: layers_to_transform names no layer with such modules: expected some of 0 to ", last, ", found ",
          absl::StrJoin(layers, ", ")));
}

}  // namespace

absl::StatusOr<std::vector<train::Target>> PlanLora(const config::AdapterOptions& options,
                                                    const std::vector<config::ModuleShape>& modules) {
  STRATA_RETURN_IF_ERROR(adapter::CheckExpressions(options));
  std::vector<train::Target> targets;
  for (const config::ModuleShape& m : modules) {
    if (!adapter::IsTarget(options, m.name)) continue;
    if (m.name == kHead) {
      if (options.target_modules.all_linear) continue;
      return absl::InvalidArgumentError("adapter: the output head (lm_head) cannot be adapted; exclude it");
    }
    const int64_t rank = adapter::RankOf(options, m.name);
    if (rank == 0)
      return absl::InvalidArgumentError(Cat("adapter: ", m.name, " would get rank 0; a rank is at least 1"));
    const double alpha = adapter::AlphaOf(options, m.name);
    targets.push_back({.module = m.name,
                       .out = m.out,
                       .in = m.in,
                       .rank = rank,
                       .alpha = alpha,
                       .scaling = adapter::ScalingOf(alpha, rank, options.use_rslora),
                       .use_dora = options.use_dora});
  }
  if (targets.empty()) return NothingNamed(options, modules);
  return targets;
}

std::vector<std::string> IdleTargets(const config::AdapterOptions& options,
                                     const std::vector<config::ModuleShape>& modules) {
  std::vector<std::string> idle;
  for (const std::string& name : options.target_modules.suffixes) {
    config::ModuleSelector alone;
    alone.suffixes = {name};
    const bool any = std::any_of(modules.begin(), modules.end(),
                                 [&](const config::ModuleShape& m) { return adapter::Selects(alone, m.name); });
    if (!any) idle.push_back(name);
  }
  return idle;
}

absl::StatusOr<std::vector<train::Target>> PlanFromAdapter(const adapter::Adapter& adapter,
                                                           const std::vector<config::ModuleShape>& modules) {
  std::vector<train::Target> targets;
  size_t found = 0;
  for (const config::ModuleShape& m : modules) {
    const adapter::Factors* f = adapter.Find(m.name);
    if (f == nullptr) continue;
    if (f->out != m.out || f->in != m.in) {
      return absl::InvalidArgumentError(Cat("adapter: ", m.name, " is [", m.out, ", ", m.in,
                                            "] in the model, its factors are made for [", f->out, ", ", f->in, "]"));
    }
    ++found;
    if (f->rank > 0)
      targets.push_back({.module = m.name,
                         .out = m.out,
                         .in = m.in,
                         .rank = f->rank,
                         .alpha = f->alpha,
                         .scaling = f->scaling,
                         .use_dora = f->has_magnitude()});
  }
  if (found == adapter.modules().size()) return targets;
  for (const adapter::Factors& f : adapter.modules()) {
    const bool known =
        std::any_of(modules.begin(), modules.end(), [&](const config::ModuleShape& m) { return m.name == f.module; });
    if (!known)
      return absl::InvalidArgumentError(
          Cat("adapter: the model has no linear module ", f.module, "; it has ", Examples(modules), ", .."));
  }
  return absl::InvalidArgumentError("adapter: a module occurs twice");
}

absl::Status CheckSamePlan(const std::vector<train::Target>& configured, const std::vector<train::Target>& initial) {
  std::map<std::string, const train::Target*> by_name;
  for (const train::Target& t : initial) by_name[t.module] = &t;
  for (const train::Target& t : configured) {
    const auto it = by_name.find(t.module);
    if (it == by_name.end()) {
      return absl::InvalidArgumentError(Cat("adapter: contradicts --init-adapter: `adapter:` adapts ", t.module,
                                            ", the initial adapter does not; leave `adapter:` out"));
    }
    const train::Target& other = *it->second;
    if (other.rank != t.rank || std::abs(other.scaling - t.scaling) > 1e-9 * std::abs(t.scaling)) {
      return absl::InvalidArgumentError(
          Cat("adapter: contradicts --init-adapter at ", t.module, ": `adapter:` says rank ", t.rank, " and scaling ",
              t.scaling, ", the initial adapter has ", other.rank, " and ", other.scaling, "; leave `adapter:` out"));
    }
    if (other.use_dora != t.use_dora) {
      return absl::InvalidArgumentError(Cat("adapter: contradicts --init-adapter: use_dora is ",
                                            t.use_dora ? "on" : "off", ", the initial adapter has ",
                                            other.use_dora ? "" : "no ", "magnitudes; leave `adapter:` out"));
    }
    by_name.erase(it);
  }
  if (by_name.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(Cat("adapter: contradicts --init-adapter: the initial adapter adapts ",
                                        by_name.begin()->first, ", `adapter:` does not; leave `adapter:` out"));
}

}  // namespace strata::peft
