#include "client/peft/warm_start.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "common/status/status_macros.h"

namespace strata::peft {
namespace {

using FactorList = std::vector<model::NamedFactors>;

// U [out, k] and V [k, in] of the sum of scaling * B A, each times the root of the singular value, strongest first;
// noise is cut off.
struct Triplets {
  at::Tensor u, v;
};

Triplets Decompose(const FactorList& list, int64_t out, int64_t in) {
  std::vector<at::Tensor> left;
  std::vector<at::Tensor> right;
  for (const model::NamedFactors& f : list) {
    left.push_back(f.factors.b.to(at::kDouble) * f.factors.scaling);
    right.push_back(f.factors.a.to(at::kDouble));
  }
  const auto [qb, rb] = at::linalg_qr(at::cat(left, 1));
  const auto [qa, ra] = at::linalg_qr(at::cat(right, 0).t());
  const auto [u, s, vh] = at::linalg_svd(at::mm(rb, ra.t()), /*full_matrices=*/false);
  const double top = s.numel() > 0 ? s[0].item<double>() : 0;
  const double noise = static_cast<double>(std::max(out, in)) * std::ldexp(1.0, -52) * top;
  const int64_t rank = top > 0 ? (s > noise).sum().item<int64_t>() : 0;
  const at::Tensor root = s.narrow(0, 0, rank).sqrt();
  return {.u = at::mm(qb, u.narrow(1, 0, rank)) * root, .v = root.unsqueeze(1) * at::mm(vh.narrow(0, 0, rank), qa.t())};
}

}  // namespace

absl::StatusOr<FactorList> SplitWarm(const std::vector<std::shared_ptr<const adapter::Adapter>>& base,
                                     AdapterState& state, uint64_t seed, uint64_t round, const std::string& site) {
  const at::Device device = state.values().device();
  std::map<std::string, FactorList> by_module;
  for (const auto& blob : base) {
    STRATA_ASSIGN_OR_RETURN(FactorList factors, FrozenFactors(*blob, at::kCPU));
    for (model::NamedFactors& f : factors) by_module[f.module].push_back(std::move(f));
  }
  FactorList frozen;
  for (const StateEntry& entry : state.entries()) {
    const train::Target& t = entry.target;
    const auto it = by_module.find(t.module);
    int64_t taken = 0;
    if (it != by_module.end()) {
      const Triplets triplets = Decompose(it->second, t.out, t.in);
      const int64_t rank = triplets.u.size(1);
      taken = std::min(rank, t.rank);
      const double share = 1 / std::sqrt(t.scaling);
      state.A(entry).narrow(0, 0, taken).copy_(triplets.v.narrow(0, 0, taken) * share);
      state.B(entry).narrow(1, 0, taken).copy_(triplets.u.narrow(1, 0, taken) * share);
      if (taken < rank) {
        model::NamedFactors rest;
        rest.module = t.module;
        rest.factors.a = triplets.v.narrow(0, taken, rank - taken).to(device, at::kFloat).contiguous();
        rest.factors.b = triplets.u.narrow(1, taken, rank - taken).to(device, at::kFloat).contiguous();
        frozen.push_back(std::move(rest));
      }
      by_module.erase(it);
    }
    state.InitFreshRows(entry, taken, seed, round, site);
  }
  for (auto& [module, list] : by_module) {
    for (model::NamedFactors& f : list) {
      f.factors.a = f.factors.a.to(device);
      f.factors.b = f.factors.b.to(device);
      frozen.push_back(std::move(f));
    }
  }
  return frozen;
}

WarmOrigin RememberOrigin(const AdapterState& state) { return {.values = state.values().clone()}; }

adapter::Adapter Increment(const AdapterState& state, const WarmOrigin& origin) {
  adapter::AdapterBuilder builder;
  for (const StateEntry& entry : state.entries()) {
    const train::Target& t = entry.target;
    const at::Tensor a0 = origin.values.narrow(0, entry.offset_a, t.rank * t.in).view({t.rank, t.in});
    const at::Tensor b0 = origin.values.narrow(0, entry.offset_b, t.rank * t.out).view({t.out, t.rank});
    const at::Tensor a = state.A(entry);
    const at::Tensor b = state.B(entry);
    const at::Tensor kept = b0.ne(0).any(0).nonzero().flatten();
    const at::Tensor left = at::cat({b - b0, b0.index_select(1, kept)}, 1);
    const at::Tensor right = at::cat({a, (a - a0).index_select(0, kept)}, 0);
    const int64_t rank = left.size(1);
    builder.Add(t.module, rank, t.out, t.in, t.scaling * static_cast<double>(rank), t.scaling, ToVector(right),
                ToVector(left));
  }
  return std::move(builder).Build();
}

}  // namespace strata::peft
