#include "client/model/ops.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

namespace strata::model {
namespace {

bool composed_always = false;

bool Composed(const at::Tensor& t) { return composed_always || !t.is_cpu(); }

int Threads() { return at::get_num_threads(); }

at::Tensor Norm(const at::Tensor& x, const at::Tensor& weight, double epsilon, const at::Tensor& rstd) {
  const at::Tensor wide = x.to(at::kFloat);
  rstd.copy_((wide.square().mean(-1) + epsilon).rsqrt());
  return wide * rstd.unsqueeze(-1) * weight;
}

}  // namespace

kernels::Rows RowsOf(const at::Tensor& matrix) {
  return {.data = matrix.data_ptr(),
          .type = matrix.scalar_type() == at::kFloat ? kernels::Type::kF32 : kernels::Type::kBF16,
          .rows = matrix.size(0),
          .cols = matrix.size(1),
          .stride = matrix.stride(0)};
}

void UseComposedOps(bool always) { composed_always = always; }

void RmsNorm(const at::Tensor& x, const at::Tensor& weight, double epsilon, const at::Tensor& out,
             const at::Tensor& rstd) {
  if (Composed(x)) {
    out.copy_(Norm(x, weight, epsilon, rstd));
    return;
  }
  kernels::RmsNorm(RowsOf(x), weight.const_data_ptr<float>(), static_cast<float>(epsilon), RowsOf(out),
                   rstd.mutable_data_ptr<float>(), Threads());
}

void AddRmsNorm(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& sum, const at::Tensor& weight,
                double epsilon, const at::Tensor& out, const at::Tensor& rstd) {
  if (Composed(x)) {
    sum.copy_(x + delta);
    out.copy_(Norm(sum, weight, epsilon, rstd));
    return;
  }
  kernels::AddRmsNorm(RowsOf(x), RowsOf(delta), RowsOf(sum), weight.const_data_ptr<float>(),
                      static_cast<float>(epsilon), RowsOf(out), rstd.mutable_data_ptr<float>(), Threads());
}

void RmsNormBackward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rstd,
                     const at::Tensor& dx, bool accumulate) {
  if (Composed(x)) {
    const at::Tensor wide = x.to(at::kFloat);
    const at::Tensor g = dy.to(at::kFloat) * weight;
    const at::Tensor scale = rstd.unsqueeze(-1);
    const at::Tensor pull = (g * wide).mean(-1, /*keepdim=*/true) * scale.pow(3);
    const at::Tensor gradient = scale * g - pull * wide;
    dx.copy_(accumulate ? dx.to(at::kFloat) + gradient : gradient);
    return;
  }
  kernels::RmsNormBackward(RowsOf(dy), RowsOf(x), weight.const_data_ptr<float>(), rstd.const_data_ptr<float>(),
                           RowsOf(dx), accumulate, Threads());
}

void Rope(const at::Tensor& x, int64_t heads, int64_t head_dim, const at::Tensor& cos, const at::Tensor& sin,
          bool inverse) {
  if (Composed(x)) {
    const at::Tensor view = x.narrow(1, 0, heads * head_dim).unflatten(1, {heads, 2, head_dim / 2});
    const at::Tensor c = cos.unsqueeze(1);
    const at::Tensor s = inverse ? sin.unsqueeze(1).neg() : sin.unsqueeze(1);
    const at::Tensor u = view.select(2, 0).to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
    const at::Tensor v = view.select(2, 1).to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
    view.select(2, 0).copy_(u * c - v * s);
    view.select(2, 1).copy_(v * c + u * s);
    return;
  }
  kernels::Rope(RowsOf(x), heads, head_dim, cos.const_data_ptr<float>(), sin.const_data_ptr<float>(), inverse,
                Threads());
}

void Swiglu(const at::Tensor& gate_up, const at::Tensor& out) {
  if (Composed(out)) {
    const at::Tensor wide = gate_up.to(at::kFloat);
    out.copy_(at::silu(wide.narrow(1, 0, out.size(1))) * wide.narrow(1, out.size(1), out.size(1)));
    return;
  }
  kernels::Swiglu(RowsOf(gate_up), RowsOf(out), Threads());
}

void SwigluBackward(const at::Tensor& gate_up, const at::Tensor& dout) {
  if (Composed(dout)) {
    const int64_t n = dout.size(1);
    const at::Tensor wide = gate_up.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
    const at::Tensor gate = wide.narrow(1, 0, n);
    const at::Tensor up = wide.narrow(1, n, n);
    const at::Tensor dy = dout.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
    const at::Tensor sigmoid = at::sigmoid(gate);
    const at::Tensor silu = gate * sigmoid;
    gate_up.narrow(1, 0, n).copy_(dy * up * (sigmoid + silu * (1 - sigmoid)));
    gate_up.narrow(1, n, n).copy_(dy * silu);
    dout.copy_(silu * up);
    return;
  }
  kernels::SwigluBackward(RowsOf(gate_up), RowsOf(dout), Threads());
}

void AddBias(const at::Tensor& x, const at::Tensor& bias) {
  if (Composed(x)) {
    x.copy_(x.to(at::kFloat) + bias);
    return;
  }
  kernels::AddBias(RowsOf(x), bias.const_data_ptr<float>(), Threads());
}

void Add(const at::Tensor& x, const at::Tensor& delta) {
  if (Composed(x)) {
    x.add_(delta);
    return;
  }
  kernels::Add(RowsOf(x), RowsOf(delta), Threads());
}

void CrossEntropy(const at::Tensor& logits, const at::Tensor& targets, double scale, bool gradient,
                  const at::Tensor& nll) {
  if (Composed(logits)) {
    const at::Tensor wide = at::log_softmax(logits.to(at::kFloat), -1);
    const at::Tensor index = targets.to(at::kLong).unsqueeze(1);
    nll.copy_(wide.gather(1, index).squeeze(1).neg());
    if (!gradient) return;
    const at::Tensor g = wide.exp();
    g.scatter_add_(1, index, at::full_like(index, -1, g.options()));
    logits.copy_(g * scale);
    return;
  }
  kernels::CrossEntropy(RowsOf(logits), targets.const_data_ptr<int32_t>(), static_cast<float>(scale), gradient,
                        nll.mutable_data_ptr<float>(), Threads());
}

}  // namespace strata::model
