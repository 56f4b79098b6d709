#include "client/train/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "kernels/ops.h"
#ifdef STRATA_CUDA
#include "client/model/cuda_launch.h"
#include "kernels/cuda_ops.h"
#endif

namespace strata::train {
namespace {

void ComposedStep(const peft::AdapterState& state, const kernels::AdamWStep& s) {
  const at::Tensor& p = state.values();
  const at::Tensor& m = state.first_moments();
  const at::Tensor& v = state.second_moments();
  const at::Tensor& gradient = state.gradients();
  const at::Tensor g = gradient * s.gradient_scale;
  m.lerp_(g, 1 - s.beta1);
  v.mul_(s.beta2).addcmul_(g, g, 1 - s.beta2);
  p.mul_(s.decay).addcdiv_(m, v.sqrt().div_(s.root_correction2).add_(s.epsilon), -s.learning_rate / s.correction1);
  gradient.zero_();
}

#ifdef STRATA_CUDA
void CudaStep(const peft::AdapterState& state, const kernels::AdamWStep& s) {
  model::Launch(state.values(), [&](void* stream) {
    return kernels::cuda::AdamW(state.values().data_ptr<float>(), state.gradients().data_ptr<float>(),
                                state.first_moments().data_ptr<float>(), state.second_moments().data_ptr<float>(),
                                state.values().numel(), s, stream);
  });
}

double CudaNorm(const at::Tensor& g) {
  const at::Tensor sums = at::empty({kernels::cuda::kSumSquaresWorkspace + 1}, g.options().dtype(at::kDouble));
  auto* out = sums.mutable_data_ptr<double>();
  model::Launch(g, [&](void* stream) {
    return kernels::cuda::SumSquares(g.const_data_ptr<float>(), g.numel(), out + 1, out, stream);
  });
  return std::sqrt(sums[0].item<double>());
}
#endif

double NormOf(const at::Tensor& flat) {
#ifdef STRATA_CUDA
  if (flat.is_cuda()) return CudaNorm(flat);
#endif
  if (!flat.is_cpu()) return flat.to(at::kDouble).norm().item<double>();
  return std::sqrt(kernels::SumSquares(flat.const_data_ptr<float>(), flat.numel(), at::get_num_threads()));
}

}  // namespace

double GradientNorm(const peft::AdapterState& state) { return NormOf(state.gradients()); }
double ValueNorm(const peft::AdapterState& state) { return NormOf(state.values()); }

void Optimizer::Step(peft::AdapterState& state, double learning_rate, double norm, double loss_scale) {
  ++updates_;
  const auto t = static_cast<double>(updates_);
  kernels::AdamWStep s;
  s.learning_rate = static_cast<float>(learning_rate);
  s.beta1 = static_cast<float>(options_.beta1);
  s.beta2 = static_cast<float>(options_.beta2);
  s.epsilon = static_cast<float>(options_.epsilon);
  s.decay = static_cast<float>(1 - learning_rate * options_.weight_decay);
  s.correction1 = static_cast<float>(1 - std::pow(options_.beta1, t));
  s.root_correction2 = static_cast<float>(std::sqrt(1 - std::pow(options_.beta2, t)));
  const double clip = options_.max_grad_norm > 0 ? std::min(1.0, options_.max_grad_norm / (norm + 1e-6)) : 1;
  s.gradient_scale = static_cast<float>(clip / loss_scale);
#ifdef STRATA_CUDA
  if (state.values().is_cuda()) return CudaStep(state, s);
#endif
  if (!state.values().is_cpu()) return ComposedStep(state, s);
  kernels::AdamW(state.values().data_ptr<float>(), state.gradients().data_ptr<float>(),
                 state.first_moments().data_ptr<float>(), state.second_moments().data_ptr<float>(),
                 state.values().numel(), s, at::get_num_threads());
}

}  // namespace strata::train
