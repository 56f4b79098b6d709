// Fused row operations on tensors: strata::kernels on the CPU, compositions of LibTorch's own ops elsewhere. Formulas
// as in kernels/ops.h. Matrices are two-dimensional with unit stride along a row, fp32 or bf16; weights, biases, tables
// and rstd are fp32.
#ifndef STRATA_CLIENT_MODEL_OPS_H_
#define STRATA_CLIENT_MODEL_OPS_H_

#include <ATen/core/Tensor.h>

#include "kernels/ops.h"

namespace strata::model {

kernels::Rows RowsOf(const at::Tensor& matrix);

// Tests compare the two routes on the CPU: true sends CPU tensors through the compositions too.
void UseComposedOps(bool always);

void RmsNorm(const at::Tensor& x, const at::Tensor& weight, double epsilon, const at::Tensor& out,
             const at::Tensor& rstd);
void AddRmsNorm(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& sum, const at::Tensor& weight,
                double epsilon, const at::Tensor& out, const at::Tensor& rstd);
void RmsNormBackward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rstd,
                     const at::Tensor& dx, bool accumulate);
void Rope(const at::Tensor& x, int64_t heads, int64_t head_dim, const at::Tensor& cos, const at::Tensor& sin,
          bool inverse);
void Swiglu(const at::Tensor& gate_up, const at::Tensor& out);
void SwigluBackward(const at::Tensor& gate_up, const at::Tensor& dout);
void AddBias(const at::Tensor& x, const at::Tensor& bias);
void Add(const at::Tensor& x, const at::Tensor& delta);
// targets int32 [rows] on the matrix's device.
void CrossEntropy(const at::Tensor& logits, const at::Tensor& targets, double scale, bool gradient,
                  const at::Tensor& nll);

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_OPS_H_
