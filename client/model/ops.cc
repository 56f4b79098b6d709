#include "client/model/ops.h"

#include <ATen/ATen.h>

#include "client/model/row_ops.h"

namespace strata::model {
namespace {

bool composed_always = false;

const RowOps& OpsFor(const at::Tensor& t) {
  if (composed_always) return ComposedOps();
  if (t.is_cpu()) return ProcessorOps();
#ifdef STRATA_CUDA
  if (t.is_cuda()) return CudaOps();
#endif
  return ComposedOps();
}

}  // namespace

kernels::Type TypeOf(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return kernels::Type::kF32;
    case at::kHalf:
      return kernels::Type::kF16;
    case at::kChar:
      return kernels::Type::kInt8;
    default:
      return kernels::Type::kBF16;
  }
}

kernels::Rows RowsOf(const at::Tensor& matrix) {
  return {.data = matrix.data_ptr(),
          .type = TypeOf(matrix.scalar_type()),
          .rows = matrix.size(0),
          .cols = matrix.size(1),
          .stride = matrix.stride(0)};
}

kernels::NormWeights WeightsOf(const Norm& norm, const at::Tensor& x) {
  return {.weight = norm.weight.const_data_ptr<float>(),
          .bias = norm.bias.defined() ? norm.bias.const_data_ptr<float>() : nullptr,
          .epsilon = static_cast<float>(norm.epsilon),
          .heads = x.size(1) / norm.weight.size(0)};
}

void UseComposedOps(bool always) { composed_always = always; }

void ApplyNorm(const Norm& norm, const at::Tensor& x, const at::Tensor& out, const at::Tensor& rstd) {
  OpsFor(x).ApplyNorm(norm, x, out, rstd);
}

void AddNorm(const Norm& norm, const at::Tensor& x, const at::Tensor& delta, const at::Tensor& sum,
             const at::Tensor& out, const at::Tensor& rstd) {
  OpsFor(x).AddNorm(norm, x, delta, sum, out, rstd);
}

void NormBackward(const Norm& norm, const at::Tensor& dy, const at::Tensor& x, const at::Tensor& rstd,
                  const at::Tensor& dx, bool accumulate) {
  OpsFor(x).NormBackward(norm, dy, x, rstd, dx, accumulate);
}

void NormBackwardAndValue(const Norm& norm, const at::Tensor& dy, const at::Tensor& x, const at::Tensor& rstd,
                          const at::Tensor& dx) {
  OpsFor(x).NormBackwardAndValue(norm, dy, x, rstd, dx);
}

void Rope(const at::Tensor& x, int64_t heads, int64_t head_dim, const at::Tensor& cos, const at::Tensor& sin,
          bool inverse) {
  OpsFor(x).Rope(x, heads, head_dim, cos, sin, inverse);
}

void Activate(kernels::Unit unit, const at::Tensor& in, const at::Tensor& out) { OpsFor(out).Activate(unit, in, out); }

void ActivateBackward(kernels::Unit unit, const at::Tensor& in, const at::Tensor& dout) {
  OpsFor(dout).ActivateBackward(unit, in, dout);
}

void AddBias(const at::Tensor& x, const at::Tensor& bias) { OpsFor(x).AddBias(x, bias); }

void Add(const at::Tensor& x, const at::Tensor& delta) { OpsFor(x).Add(x, delta); }

void CrossEntropy(const at::Tensor& logits, const at::Tensor& targets, const kernels::LossOptions& options,
                  const at::Tensor& scale, const at::Tensor& nll) {
  OpsFor(logits).CrossEntropy(logits, targets, options, scale, nll);
}

void CopyRows(const at::Tensor& from, const at::Tensor& to) { OpsFor(to).CopyRows(from, to); }

void GatherRows(const at::Tensor& table, const at::Tensor& index, const at::Tensor& out) {
  OpsFor(out).GatherRows(table, index, out);
}

void ScatterRows(const at::Tensor& in, const at::Tensor& index, const at::Tensor& out) {
  OpsFor(out).ScatterRows(in, index, out);
}

void Softcap(const at::Tensor& x, double cap) { x.div_(cap).tanh_().mul_(cap); }

}  // namespace strata::model
