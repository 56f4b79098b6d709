#include <ATen/ATen.h>

#include <utility>

#include "client/model/row_ops.h"

namespace strata::model {
namespace {

// [rows, heads, size of the norm], fp32.
at::Tensor Pieces(const Norm& norm, const at::Tensor& x) {
  return x.to(at::kFloat).unflatten(1, {-1, norm.weight.size(0)});
}

at::Tensor Centred(const Norm& norm, const at::Tensor& pieces) {
  return norm.bias.defined() ? pieces - pieces.mean(-1, /*keepdim=*/true) : pieces;
}

void ComposedNorm(const Norm& norm, const at::Tensor& x, const at::Tensor& out, const at::Tensor& rstd) {
  const at::Tensor centred = Centred(norm, Pieces(norm, x));
  const at::Tensor scale = (centred.square().mean(-1) + norm.epsilon).rsqrt();
  rstd.copy_(scale);
  at::Tensor y = centred * scale.unsqueeze(-1) * norm.weight;
  if (norm.bias.defined()) y.add_(norm.bias);
  out.copy_(y.flatten(1));
}

// gelu by its tanh formula and its slope, or silu's.
std::pair<at::Tensor, at::Tensor> ValueAndSlope(kernels::Unit unit, const at::Tensor& x) {
  const bool silu = unit == kernels::Unit::kSwiglu;
  constexpr double kLinear = 1.5957691216057308;  // 2 sqrt(2 / pi)
  constexpr double kCubic = 0.044715;
  const at::Tensor z = x.square();
  const at::Tensor sigmoid = at::sigmoid(silu ? x : x * kLinear * (1 + kCubic * z));
  const at::Tensor value = x * sigmoid;
  const at::Tensor slope = value * (1 - sigmoid);
  return {value, sigmoid + (silu ? slope : slope * kLinear * (1 + 3 * kCubic * z))};
}

class Ops final : public RowOps {
 public:
  void ApplyNorm(const Norm& norm, const at::Tensor& x, const at::Tensor& out, const at::Tensor& rstd) const override {
    ComposedNorm(norm, x, out, rstd);
  }
  void AddNorm(const Norm& norm, const at::Tensor& x, const at::Tensor& delta, const at::Tensor& sum,
               const at::Tensor& out, const at::Tensor& rstd) const override {
    sum.copy_(x + delta);
    ComposedNorm(norm, sum, out, rstd);
  }
  void NormBackward(const Norm& norm, const at::Tensor& dy, const at::Tensor& x, const at::Tensor& rstd,
                    const at::Tensor& dx, bool accumulate) const override {
    const at::Tensor centred = Centred(norm, Pieces(norm, x));
    const at::Tensor g = Pieces(norm, dy) * norm.weight;
    const at::Tensor scale = rstd.unsqueeze(-1);
    const at::Tensor pull = (g * centred).mean(-1, /*keepdim=*/true) * scale.pow(3);
    const at::Tensor gradient = (scale * Centred(norm, g) - pull * centred).flatten(1);
    dx.copy_(accumulate ? dx.to(at::kFloat) + gradient : gradient);
  }
  void Rope(const at::Tensor& x, int64_t heads, int64_t head_dim, const at::Tensor& cos, const at::Tensor& sin,
            bool inverse) const override {
    const int64_t pairs = cos.size(1);
    const at::Tensor view = x.narrow(1, 0, heads * head_dim)
                                .unflatten(1, {heads, head_dim})
                                .narrow(2, 0, 2 * pairs)
                                .unflatten(2, {2, pairs});
    const at::Tensor c = cos.unsqueeze(1);
    const at::Tensor s = inverse ? sin.unsqueeze(1).neg() : sin.unsqueeze(1);
    const at::Tensor u = view.select(2, 0).to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
    const at::Tensor v = view.select(2, 1).to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
    view.select(2, 0).copy_(u * c - v * s);
    view.select(2, 1).copy_(v * c + u * s);
  }
  void Activate(kernels::Unit unit, const at::Tensor& in, const at::Tensor& out) const override {
    const int64_t n = out.size(1);
    const at::Tensor wide = in.to(at::kFloat);
    const at::Tensor value = ValueAndSlope(unit, wide.narrow(1, 0, n)).first;
    out.copy_(kernels::IsGated(unit) ? value * wide.narrow(1, n, n) : value);
  }
  void ActivateBackward(kernels::Unit unit, const at::Tensor& in, const at::Tensor& dout) const override {
    const int64_t n = dout.size(1);
    const at::Tensor wide = in.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
    const at::Tensor dy = dout.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
    const auto [value, slope] = ValueAndSlope(unit, wide.narrow(1, 0, n));
    if (!kernels::IsGated(unit)) {
      in.copy_(dy * slope);
      dout.copy_(value);
      return;
    }
    const at::Tensor up = wide.narrow(1, n, n);
    in.narrow(1, 0, n).copy_(dy * up * slope);
    in.narrow(1, n, n).copy_(dy * value);
    dout.copy_(value * up);
  }
  void AddBias(const at::Tensor& x, const at::Tensor& bias) const override { x.copy_(x.to(at::kFloat) + bias); }
  void Add(const at::Tensor& x, const at::Tensor& delta) const override { x.add_(delta); }
  void CrossEntropy(const at::Tensor& logits, const at::Tensor& targets, const kernels::LossOptions& options,
                    const at::Tensor& scale, const at::Tensor& nll) const override {
    const auto cap = static_cast<double>(options.softcap);
    if (cap > 0) Softcap(logits, cap);
    const at::Tensor values = logits.to(at::kFloat);
    const at::Tensor wide = at::log_softmax(values, -1);
    const at::Tensor index = targets.to(at::kLong).unsqueeze(1);
    nll.copy_(wide.gather(1, index).squeeze(1).neg());
    if (!options.gradient) return;
    at::Tensor g = wide.exp();
    g.scatter_add_(1, index, at::full_like(index, -1, g.options()));
    if (cap > 0) g.mul_(1 - (values / cap).square());
    g.mul_(static_cast<double>(options.scale));
    if (scale.defined()) g.mul_(scale);
    logits.copy_(g);
  }
};

}  // namespace

const RowOps& ComposedOps() {
  static const Ops ops;
  return ops;
}

}  // namespace strata::model
