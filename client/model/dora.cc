#include "client/model/dora.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace strata::model {
namespace {

// Of a weight's elements widened at a time. Few, for the heap's sake: what is kept of an adapter is taken in between,
// lies in the holes that these temporaries leave, and large ones find no place again.
constexpr int64_t kBlockElements = int64_t{1} << 15;
constexpr int64_t kDeviceRows = 256;
constexpr int64_t kTokensAtOnce = 64;

// value / norm; `otherwise` where the norm is 0.
at::Tensor Over(const at::Tensor& value, const at::Tensor& norm, double otherwise) {
  return at::where(norm > 0, value / norm, at::scalar_tensor(otherwise, value.options()));
}

// 1 + the changes; undefined: no row is changed.
at::Tensor GainOf(std::span<const Addition> added) {
  at::Tensor gain;
  for (const Addition& one : added) {
    if (one.change.defined()) gain = gain.defined() ? gain + one.change : one.change + 1;
  }
  return gain;
}

}  // namespace

Addition AdditionOf(const HeldMatrix& weight, const SideFactors& factors) {
  Addition out{.change = {}, .a = factors.a, .b = factors.b * factors.scaling};
  if (!factors.magnitude.defined()) return out;
  const at::Tensor norms = RowNorms(weight, {&out, 1}).to(at::kFloat);
  const at::Tensor gain = Over(factors.magnitude, norms, 1);
  out.b *= gain.unsqueeze(1);
  out.change = gain - 1;
  return out;
}

at::Tensor RowNorms(const HeldMatrix& weight, std::span<const Addition> added) {
  const at::Tensor gain = GainOf(added);
  at::Tensor norms = at::empty({weight.rows()}, at::TensorOptions().dtype(at::kDouble).device(weight.device()));
  const int64_t at_once = weight.device().is_cpu() ? std::max<int64_t>(kBlockElements / weight.cols(), 1) : kDeviceRows;
  for (int64_t first = 0; first < weight.rows(); first += at_once) {
    const int64_t count = std::min(at_once, weight.rows() - first);
    at::Tensor rows = weight.Widened(first, count);
    if (gain.defined()) rows = rows * gain.narrow(0, first, count).unsqueeze(1);
    for (const Addition& one : added) rows = at::addmm(rows, one.b.narrow(0, first, count), one.a);
    norms.narrow(0, first, count).copy_(at::linalg_vector_norm(rows, 2, 1, /*keepdim=*/false, at::kDouble));
  }
  return norms;
}

void AddInPlace(const at::Tensor& weight, std::span<const Addition> added) {
  const at::Tensor gain = GainOf(added);
  if (gain.defined()) weight.mul_(gain.unsqueeze(1));
  for (const Addition& one : added) weight.add_(at::mm(one.b, one.a));
}

void MultiplyInto(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b) {
  const int64_t step = out.is_cpu() ? kTokensAtOnce : std::max<int64_t>(out.size(0), 1);
  for (int64_t first = 0; first < out.size(0); first += step) {
    const int64_t count = std::min(step, out.size(0) - first);
    at::Tensor part = out.narrow(0, first, count);
    at::mul_out(part, a.narrow(0, first, count), b.dim() == 1 ? b : b.narrow(0, first, count));
  }
}

void Magnitude::Refresh(const at::Tensor& products) {
  const at::Tensor a = factors_.a.to(at::kDouble);
  const at::Tensor b = factors_.b.to(at::kDouble) * factors_.scaling;
  const at::Tensor added = at::mm(b, at::mm(a, a.t())).add_(products.t(), 2);
  const at::Tensor norms = (squares_ + (b * added).sum(1)).clamp_min_(0).sqrt_();
  if (!norms_.defined()) norms_ = at::empty_like(gain_);
  norms_.copy_(norms);
  gain_.copy_(Over(factors_.magnitude, norms_, 1));
}

void Magnitude::Reset() {
  factors_.magnitude.copy_(norms_);
  gain_.fill_(1);
}

void Magnitude::Backward(const at::Tensor& dy, const at::Tensor& z, Arena& arena) const {
  ArenaScope scope(arena);
  const at::Tensor product = arena.Take(dy.sizes(), at::kFloat);
  MultiplyInto(product, dy, z);
  at::Tensor gradient = factors_.grad_magnitude;
  gradient.add_(Over(product.sum(0), norms_, 0));
}

}  // namespace strata::model
