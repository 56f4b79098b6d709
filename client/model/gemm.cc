#include "client/model/gemm.h"

#include <ATen/ATen.h>

namespace strata::model {

void MatMulNT(const at::Tensor& y, const at::Tensor& x, const at::Tensor& w, bool accumulate) {
  MatMulNN(y, x, w.t(), accumulate);
}

void MatMulNN(const at::Tensor& y, const at::Tensor& x, const at::Tensor& w, bool accumulate) {
  at::Tensor out = y;
  if (accumulate) {
    out.addmm_(x, w);
  } else {
    at::mm_out(out, x, w);
  }
}

void AccumulateTN(const at::Tensor& y, const at::Tensor& a, const at::Tensor& b, double scale) {
  at::Tensor out = y;
  if (a.scalar_type() == at::kFloat) {
    out.addmm_(a.t(), b, 1, scale);
  } else {
    out.add_(at::mm(a.t(), b), scale);
  }
}

}  // namespace strata::model
