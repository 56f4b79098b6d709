#include "client/peft/adapter_state.h"

#include <ATen/ATen.h>

#include <cmath>
#include <memory>
#include <span>
#include <utility>

#include "client/model/arena.h"
#include "common/runtime/random.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::peft {
namespace {

constexpr int64_t kAlignment = 16;  // elements; a factor starts on a cache line

at::Tensor Zeros(int64_t count, at::Device device) {
  at::Tensor out = model::AllocateBytes(static_cast<size_t>(count) * sizeof(float), device).view(at::kFloat);
  out.zero_();
  return out;
}

absl::StatusOr<at::Tensor> Widened(const format::TensorView& view) {
  at::Tensor out = at::empty(view.shape, at::kFloat);
  STRATA_RETURN_IF_ERROR(format::ToFloat(view, {out.data_ptr<float>(), static_cast<size_t>(out.numel())}));
  return out;
}

}  // namespace

AdapterState::AdapterState(std::vector<train::Target> targets, at::Device device) {
  int64_t used = 0;
  const auto take = [&](int64_t count) {
    const int64_t offset = used;
    used += (count + kAlignment - 1) / kAlignment * kAlignment;
    return offset;
  };
  for (train::Target& t : targets) {
    StateEntry entry;
    entry.offset_a = take(t.rank * t.in);
    entry.offset_b = take(t.rank * t.out);
    if (t.use_dora) entry.offset_magnitude = take(t.out);
    entry.target = std::move(t);
    entries_.push_back(std::move(entry));
  }
  values_ = Zeros(used, device);
  gradients_ = Zeros(used, device);
  first_ = Zeros(used, device);
  second_ = Zeros(used, device);
}

at::Tensor AdapterState::View(const at::Tensor& flat, const StateEntry& entry, Part part) {
  const train::Target& t = entry.target;
  switch (part) {
    case Part::kA:
      return flat.narrow(0, entry.offset_a, t.rank * t.in).view({t.rank, t.in});
    case Part::kB:
      return flat.narrow(0, entry.offset_b, t.out * t.rank).view({t.out, t.rank});
    case Part::kMagnitude:
      return t.use_dora ? flat.narrow(0, entry.offset_magnitude, t.out) : at::Tensor();
  }
  return {};
}

void AdapterState::InitFresh(uint64_t seed, uint64_t round, const std::string& site) {
  for (const StateEntry& entry : entries_) InitFreshRows(entry, 0, seed, round, site);
}

void AdapterState::InitFreshRows(const StateEntry& entry, int64_t first_rank, uint64_t seed, uint64_t round,
                                 const std::string& site) {
  const train::Target& t = entry.target;
  if (first_rank >= t.rank) return;
  const runtime::Philox philox({.purpose = "lora_init:" + t.module, .seed = seed, .round = round, .site = site});
  const auto bound = static_cast<float>(1 / std::sqrt(static_cast<double>(t.in)));
  at::Tensor drawn = at::empty({t.rank - first_rank, t.in}, at::kFloat);
  auto* out = drawn.data_ptr<float>();
  for (int64_t i = 0; i < drawn.numel(); ++i)
    out[i] = (2 * philox.Uniform(static_cast<uint64_t>(first_rank * t.in + i)) - 1) * bound;
  A(entry).narrow(0, first_rank, t.rank - first_rank).copy_(drawn);
  B(entry).narrow(1, first_rank, t.rank - first_rank).zero_();
}

absl::Status AdapterState::Assign(const adapter::Adapter& adapter) {
  for (const StateEntry& entry : entries_) {
    const train::Target& t = entry.target;
    const adapter::Factors* f = adapter.Find(t.module);
    if (f == nullptr || f->rank != t.rank || f->in != t.in || f->out != t.out) {
      return absl::InvalidArgumentError(
          Cat("the initial adapter has no factors of rank ", t.rank, " for ", t.module, " [", t.out, ", ", t.in, "]"));
    }
    STRATA_ASSIGN_OR_RETURN(const at::Tensor a, Widened(f->a));
    STRATA_ASSIGN_OR_RETURN(const at::Tensor b, Widened(f->b));
    A(entry).copy_(a);
    B(entry).copy_(b);
    if (!t.use_dora) continue;
    if (!f->has_magnitude()) {
      return absl::InvalidArgumentError(Cat("the initial adapter has no magnitude for ", t.module));
    }
    STRATA_ASSIGN_OR_RETURN(const at::Tensor magnitude, Widened(f->magnitude));
    Value(entry, Part::kMagnitude).copy_(magnitude);
  }
  return absl::OkStatus();
}

std::vector<model::NamedFactors> AdapterState::Factors() const {
  std::vector<model::NamedFactors> out;
  for (const StateEntry& e : entries_) {
    out.push_back({.module = e.target.module,
                   .factors = {.a = A(e),
                               .b = B(e),
                               .grad_a = Gradient(e, Part::kA),
                               .grad_b = Gradient(e, Part::kB),
                               .scaling = e.target.scaling,
                               .magnitude = Value(e, Part::kMagnitude),
                               .grad_magnitude = Gradient(e, Part::kMagnitude)}});
  }
  return out;
}

adapter::Adapter AdapterState::ToAdapter() const& {
  return AdapterOf(values_.to(at::kCPU, /*non_blocking=*/false, /*copy=*/true));
}

adapter::Adapter AdapterState::ToAdapter() && {
  gradients_ = first_ = second_ = at::Tensor();
  return AdapterOf(std::exchange(values_, at::Tensor()).cpu());
}

adapter::Adapter AdapterState::AdapterOf(at::Tensor values) const {
  const auto host = std::make_shared<const at::Tensor>(std::move(values));
  const auto numbers = [&host](const StateEntry& entry, Part part) -> std::span<const float> {
    const at::Tensor view = View(*host, entry, part);
    if (!view.defined()) return {};
    return {view.const_data_ptr<float>(), static_cast<size_t>(view.numel())};
  };
  adapter::AdapterBuilder builder;
  for (const StateEntry& e : entries_) {
    const train::Target& t = e.target;
    builder.AddShared(t.module, t.rank, t.out, t.in, t.alpha, t.scaling,
                      {.a = numbers(e, Part::kA),
                       .b = numbers(e, Part::kB),
                       .magnitude = numbers(e, Part::kMagnitude),
                       .keeper = host});
  }
  return std::move(builder).Build();
}

absl::StatusOr<std::vector<model::NamedFactors>> FrozenFactors(const adapter::Adapter& adapter, at::Device device) {
  std::vector<model::NamedFactors> out;
  for (const adapter::Factors& f : adapter.modules()) {
    if (f.rank == 0) continue;
    STRATA_ASSIGN_OR_RETURN(const at::Tensor a, Widened(f.a));
    STRATA_ASSIGN_OR_RETURN(const at::Tensor b, Widened(f.b));
    model::NamedFactors named;
    named.module = f.module;
    named.factors.a = a.to(device);
    named.factors.b = b.to(device);
    named.factors.scaling = f.scaling;
    if (f.has_magnitude()) {
      STRATA_ASSIGN_OR_RETURN(const at::Tensor magnitude, Widened(f.magnitude));
      named.factors.magnitude = magnitude.to(device);
    }
    out.push_back(std::move(named));
  }
  return out;
}

std::vector<float> ToVector(const at::Tensor& tensor) {
  const at::Tensor host = tensor.to(at::kFloat).cpu().contiguous();
  const auto* data = host.const_data_ptr<float>();
  return {data, data + host.numel()};
}

}  // namespace strata::peft
