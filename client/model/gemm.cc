#include "client/model/gemm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "client/model/ops.h"
#include "client/model/processor.h"
#include "kernels/ops.h"

namespace strata::model {
namespace {

// The project's own tiles are taken where the processor has them: the weights need no copy in oneDNN's layout, sums are
// rounded once also when they add to y, and they work where a hypervisor hides from oneDNN what it asks for.
bool UsesTiles(const at::Tensor& t) {
  return t.is_cpu() && t.scalar_type() == at::kBFloat16 && !ComposedOpsForced() && kernels::HasBf16MatMul();
}

// bf16 products on processors that multiply fp32 faster.
bool Widens(const at::Tensor& t) {
  return t.is_cpu() && t.scalar_type() == at::kBFloat16 && PrepareProcessor() == Bf16Gemm::kWidened;
}

void Product(const at::Tensor& y, const at::Tensor& x, const at::Tensor& w, bool accumulate) {
  at::Tensor out = y;
  if (Widens(y)) {
    const at::Tensor product = at::mm(x.to(at::kFloat), w.to(at::kFloat));
    out.copy_(accumulate ? product.add_(y) : product);
  } else if (accumulate) {
    out.addmm_(x, w);
  } else {
    at::mm_out(out, x, w);
  }
}

}  // namespace

void MatMulNT(const at::Tensor& y, const at::Tensor& x, const at::Tensor& w, bool accumulate) {
  if (!UsesTiles(x)) return Product(y, x, w.t(), accumulate);
  kernels::MatMulNT(RowsOf(y), RowsOf(x), RowsOf(w), accumulate, at::get_num_threads());
}

void MatMulNN(const at::Tensor& y, const at::Tensor& x, const at::Tensor& w, bool accumulate) {
  if (!UsesTiles(x)) return Product(y, x, w, accumulate);
  kernels::MatMulNN(RowsOf(y), RowsOf(x), RowsOf(w), accumulate, at::get_num_threads());
}

void AccumulateTN(const at::Tensor& y, const at::Tensor& a, const at::Tensor& b, double scale) {
  at::Tensor out = y;
  if (UsesTiles(a)) {
    kernels::MatMulTN(RowsOf(y), RowsOf(a), RowsOf(b), static_cast<float>(scale), at::get_num_threads());
  } else if (a.scalar_type() == at::kFloat || Widens(a)) {
    out.addmm_(a.t().to(at::kFloat), b.to(at::kFloat), 1, scale);
  } else {
    out.add_(at::mm(a.t(), b), scale);
  }
}

}  // namespace strata::model
