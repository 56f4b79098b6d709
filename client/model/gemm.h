// Matrix products of the step: ATen's everywhere.
#ifndef STRATA_CLIENT_MODEL_GEMM_H_
#define STRATA_CLIENT_MODEL_GEMM_H_

#include <ATen/core/Tensor.h>

namespace strata::model {

// Matrices are two-dimensional views with unit stride along a row, fp32 or bf16, accumulated in fp32. x and y are of
// one type; w is of that type too, or bf16 beside fp32 x and y: it is then widened block by block into a buffer of a
// few MiB, so that bf16 weights stay the one resident copy. y (+)= x w^T. x [t, k], w [n, k], y [t, n].
void MatMulNT(const at::Tensor& y, const at::Tensor& x, const at::Tensor& w, bool accumulate);
// y (+)= x w. x [t, n], w [n, k], y [t, k].
void MatMulNN(const at::Tensor& y, const at::Tensor& x, const at::Tensor& w, bool accumulate);
// y += scale * a^T b. a [t, m], b [t, n], y [m, n] always fp32.
void AccumulateTN(const at::Tensor& y, const at::Tensor& a, const at::Tensor& b, double scale);

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_GEMM_H_
