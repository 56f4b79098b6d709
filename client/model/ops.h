// Fused row operations on tensors: strata::kernels on the CPU and, in a build with STRATA_CUDA, on its devices;
// compositions of LibTorch's own ops elsewhere (row_ops.h). Formulas as in kernels/ops.h. Matrices are two-dimensional
// with unit stride along a row, fp32 or bf16 (or fp16, not on the CPU); weights, biases, tables and rstd are fp32.
#ifndef STRATA_CLIENT_MODEL_OPS_H_
#define STRATA_CLIENT_MODEL_OPS_H_

#include <ATen/core/Tensor.h>

#include "kernels/ops.h"

namespace strata::model {

kernels::Type TypeOf(at::ScalarType type);
kernels::Rows RowsOf(const at::Tensor& matrix);

// Tests compare the two routes on the CPU: true sends CPU tensors through the compositions too.
void UseComposedOps(bool always);

// kernels::NormWeights as tensors; undefined where the model has no such norm. A row holds
// columns / weight.size(0) heads; rstd [rows, heads].
struct Norm {
  at::Tensor weight, bias;
  double epsilon = 1e-6;
  explicit operator bool() const { return weight.defined(); }
};
void ApplyNorm(const Norm& norm, const at::Tensor& x, const at::Tensor& out, const at::Tensor& rstd);
void AddNorm(const Norm& norm, const at::Tensor& x, const at::Tensor& delta, const at::Tensor& sum,
             const at::Tensor& out, const at::Tensor& rstd);
void NormBackward(const Norm& norm, const at::Tensor& dy, const at::Tensor& x, const at::Tensor& rstd,
                  const at::Tensor& dx, bool accumulate);
// Adds to dx as NormBackward and leaves the norm's value in dy.
void NormBackwardAndValue(const Norm& norm, const at::Tensor& dy, const at::Tensor& x, const at::Tensor& rstd,
                          const at::Tensor& dx);
// cos, sin: [rows, pairs]; of each head its first 2 * pairs elements turn.
void Rope(const at::Tensor& x, int64_t heads, int64_t head_dim, const at::Tensor& cos, const at::Tensor& sin,
          bool inverse);
void Activate(kernels::Unit unit, const at::Tensor& in, const at::Tensor& out);
void ActivateBackward(kernels::Unit unit, const at::Tensor& in, const at::Tensor& dout);
void AddBias(const at::Tensor& x, const at::Tensor& bias);
void Add(const at::Tensor& x, const at::Tensor& delta);
// targets int32 [rows] on the matrix's device. `scale`, fp32 [1] where it is defined, multiplies options.scale.
void CrossEntropy(const at::Tensor& logits, const at::Tensor& targets, const kernels::LossOptions& options,
                  const at::Tensor& scale, const at::Tensor& nll);
// Of one type.
void CopyRows(const at::Tensor& from, const at::Tensor& to);
// out[i] = table[index[i]]; index int32 on the matrix's device. On a CUDA device rows of a negative index are zero.
void GatherRows(const at::Tensor& table, const at::Tensor& index, const at::Tensor& out);
// out[index[i]] = in[i]; on a CUDA device but for negative indices. REQUIRES: no index twice.
void ScatterRows(const at::Tensor& in, const at::Tensor& index, const at::Tensor& out);
// x = cap * tanh(x / cap), in place.
void Softcap(const at::Tensor& x, double cap);

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_OPS_H_
